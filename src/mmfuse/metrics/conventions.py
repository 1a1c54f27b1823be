"""Which variant a plain name means, convention by convention.

Papers print EN, SF, SSIM and so on for different formulas; a convention says which one stands behind each name.

`lkc_funet`, the default of the study, takes what the table of LKC-FUNet follows as far as that can be told from its
published fused images, and the evaluator published with it for everything else:

- SF divides by the number of pixels and AG by (H - 1)(W - 1), as in VIFB: the printed digits on all 361 MSRS results
  are exactly these, and not those of the evaluator (`sf_mean`, `ag_mean`).
- SSIM is the mean over both sources with a range of 255, not the evaluator's sum. Its window cannot be told;
  we take the Gaussian one of the SSIM paper.
- SD agrees in both. SCD and Qabf have one definition everywhere.
- VIF is the evaluator's sum of two pixel-domain values, which is what CDDFuse and SMFNet print. What the paper's table
  calls VIFF is another quantity (fusion VIF after Han et al.) and must not be read as this VIF.
- EN, MI (nats, sum), PSNR (peak = maximum of the fused image) and CC are not in the paper: they are the evaluator's.

`cddfuse` is the evaluator that CDDFuse published and that LKC-FUNet and SMFNet build on, run with scikit-image 0.19 or
older, where SSIM takes a range of 2 (newer versions refuse the call). The table of SMFNet fits it, but for its AG.
"""

from __future__ import annotations

CONVENTIONS: dict[str, dict[str, str]] = {
    "lkc_funet": {
        "EN": "en",
        "SD": "sd",  # as in the table
        "SF": "sf_vifb",  # as in the table
        "AG": "ag_matlab",  # as in the table
        "MI": "mi_nats_sum",
        "SCD": "scd",  # as in the table
        "SSIM": "ssim_gauss_mean_l255",  # ASSUME: the window; mean and range are as in the table
        "VIF": "vif_sum",
        "Qabf": "qabf",
        "PSNR": "psnr_peak_fused",
        "CC": "cc_mean",
    },
    "cddfuse": {
        "EN": "en",
        "SD": "sd",
        "SF": "sf_mean",
        "AG": "ag_mean",
        "MI": "mi_nats_sum",
        "SCD": "scd",
        "SSIM": "ssim_uniform_sum_l2",
        "VIF": "vif_sum",
        "Qabf": "qabf",
        "PSNR": "psnr_peak_fused",
        "CC": "cc_mean",
    },
}
