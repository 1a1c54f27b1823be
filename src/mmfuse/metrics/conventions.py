"""The definition behind each plain name, by convention.

Papers use EN, SF, SSIM and so on for different formulas; a convention defines the formula behind each name.

`lkc_funet`, the default of the study, follows the table of LKC-FUNet as far as its formulas can be determined from its
published fused images, and otherwise the evaluator published with it:

- SF divides by the number of pixels and AG by (H - 1)(W - 1), as in VIFB: these give exactly the printed digits on all
  361 MSRS results, unlike those of the evaluator (`sf_mean`, `ag_mean`).
- SSIM is the mean over both sources with a range of 255, not the evaluator's sum. Its window cannot be determined;
  we use the Gaussian window of the SSIM paper.
- SD agrees in both. SCD and Qabf have one definition everywhere.
- VIF is the evaluator's sum of two pixel-domain values, like the values in CDDFuse and SMFNet. VIFF in the paper's
  table is another quantity, the fusion VIF of Han et al., and is called VIFF here too.
- EN, MI (nats, sum), PSNR (peak = maximum of the fused image), MSE and CC are not in the paper: they follow the
  evaluator.

`cddfuse` is the evaluator that CDDFuse published and that LKC-FUNet and SMFNet build on, with scikit-image 0.19 or
older, where SSIM uses a range of 2 (newer versions reject the call). The table of SMFNet matches it, except for AG.

`smfnet` is the table of SMFNet: that evaluator with its AG1 as AG. Nabf and MS-SSIM, which the paper does not print,
follow the evaluator published with it (both depend on the order of the sources, infrared or MRI first).

`mma_unet` has the five metrics in the paper of MMA-UNet. Neither fused images nor an evaluator were published, so none
of it can be checked: PSNR around 13 dB and SSIM below 1 are consistent with the textbook PSNR and a mean.

`vifb` (MATLAB) measures each channel of colour images and prints the mean of the three values, but computes SF on the
channels side by side; here the luminance is measured. Its "variance" is SD.

`ivif_zoo` computes in single precision and therefore differs from ours by 1e-7 to 3e-4, its MS-SSIM by up to half a per
cent, and its SSIM by up to a fifth on images with large saturated areas.

`tang` (MATLAB) is the published table and, where that is based on older code (SD, Qabf), the code. Its FMI (of edges,
of the cosine transform, and of wavelets, there FMI_w) and its MS-SSIM (of multi-exposure fusion) are implemented from
their definitions; `ASSUME` in the code marks what these leave open, and no published value can show how well ours
agree.

Not included: Tang's VIF, whose definition we do not know; and QNCIE, TE and Qy of IVIF_ZOO. Their published definitions
(nonlinear correlation information entropy of 256 levels; Tsallis mutual information of order 1.85, as a sum, a mean, or
divided by entropies; Yang's rule on SSIM maps) do not reproduce the values of IVIF_ZOO, not even to two digits.
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
        "VIFF": "viff_han",  # as in the table
        "Qabf": "qabf",
        "PSNR": "psnr_peak_fused",
        "MSE": "mse_255",
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
        "MSE": "mse_255",
        "CC": "cc_mean",
    },
    "smfnet": {
        "EN": "en",
        "SD": "sd",
        "SF": "sf_mean",
        "AG": "ag_no_half",
        "MI": "mi_nats_sum",
        "SCD": "scd",
        "SSIM": "ssim_uniform_sum_l2",
        "MS-SSIM": "ms_ssim_smfnet",
        "VIF": "vif_sum",
        "Qabf": "qabf",
        "Nabf": "nabf_smfnet",
        "PSNR": "psnr_peak_fused",
        "MSE": "mse_255",
        "CC": "cc_mean",
    },
    "mma_unet": {
        "SSIM": "ssim_gauss_mean_l255",  # ASSUME: the printed values are below 1
        "VIF": "vif_sum",  # ASSUME: the printed values are below 0.6, so it may be half of this
        "Qabf": "qabf",
        "Qcb": "qcb_liu",  # ASSUME: the only published code of that time
        "PSNR": "psnr_255",  # ASSUME: the printed values are between 12 and 17 dB
    },
    "vifb": {
        "EN": "en",
        "SD": "sd",
        "SF": "sf_vifb",
        "AG": "ag_matlab",
        "EI": "ei_vifb",
        "MI": "mi_vifb",
        "CE": "ce_vifb",
        "SSIM": "ssim_gauss_sum_l255",
        "Qabf": "qabf",
        "Qcb": "qcb_liu",
        "Qcv": "qcv",
        "PSNR": "psnr_vifb",
        "RMSE": "rmse_vifb",
    },
    "ivif_zoo": {
        "EN": "en_ivif_zoo",
        "SD": "sd",
        "SF": "sf_mean",
        "AG": "ag_mean",
        "EI": "ei_ivif_zoo",
        "MI": "mi_bits_sum",
        "NMI": "nmi_ivif_zoo",
        "CE": "ce_ivif_zoo",
        "SCD": "scd",
        "SSIM": "ssim_gauss_sum_l1",
        "MS-SSIM": "ms_ssim_ivif_zoo",
        "VIF": "vif_ivif_zoo",
        "Qabf": "qabf",
        "Nabf": "nabf_ivif_zoo",
        "Qcb": "qcb_ivif_zoo",
        "PSNR": "psnr_ivif_zoo",
        "MSE": "mse_01",
        "CC": "cc_mean",
    },
    "tang": {
        "EN": "en",
        "SD": "sd",  # ASSUME: as in the code; the table has older values
        "SF": "sf_mean_01",
        "AG": "ag_matlab",
        "MI": "mi_tang",
        "SCD": "scd",
        "SSIM": "ssim_tang",
        "MS-SSIM": "ms_ssim_mef",  # ASSUME: the patch size
        "FMI_pixel": "fmi_pixel",
        "FMI_dct": "fmi_dct",
        "FMI_wavelet": "fmi_wavelet",
        "Qabf": "qabf",  # ASSUME: as in the code, except for ties of its images in 0..1; the table has older values
        "Nabf": "nabf_tang",
        "PSNR": "psnr_ivif_zoo",
        "MSE": "mse_01",
        "CC": "cc_mean",
    },
}
