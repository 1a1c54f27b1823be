"""Plain metrics with NumPy, SciPy and scikit-image, for comparison with `mmfuse.metrics`.

Whole arrays, no loops over pixels, no optimisation: two-dimensional windows with `convolve2d`, joint histograms with
`unique`. Each takes fused, a, b as grey levels (H, W) in float64 and returns a number.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.signal import convolve2d
from scipy.sparse import coo_matrix
from skimage.metrics import structural_similarity
from skimage.transform import resize

Image = NDArray[np.float64]
Plain = Callable[[Image, Image, Image], float]

_SOBEL = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])


def _both(measure: Callable[[Image, Image], float]) -> Plain:
    """Return the sum of a metric between source and fused image, over both sources."""
    return lambda fused, a, b: measure(a, fused) + measure(b, fused)


def _entropy(shares: Image) -> float:
    shares = shares[shares > 0]
    return float(-(shares * np.log2(shares)).sum())


def _en(fused: Image, _a: Image, _b: Image) -> float:
    histogram, _ = np.histogram(fused, bins=256, range=(-0.5, 255.5))
    return _entropy(histogram / fused.size)


def _mi(source: Image, fused: Image) -> float:
    # a contingency table of the existing labels, as in scikit-learn's mutual_info_score
    (_, of_source), (_, of_fused) = (np.unique(image.ravel(), return_inverse=True) for image in (source, fused))
    joint = coo_matrix((np.ones(source.size), (of_source, of_fused))).toarray() / source.size
    product = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    seen = joint > 0
    return float((joint[seen] * np.log(joint[seen] / product[seen])).sum())


def _sf(fused: Image, _a: Image, _b: Image) -> float:
    return math.sqrt((np.diff(fused, axis=0) ** 2).mean() + (np.diff(fused, axis=1) ** 2).mean())


def _sf_vifb(fused: Image, _a: Image, _b: Image) -> float:
    return math.sqrt(((np.diff(fused, axis=0) ** 2).sum() + (np.diff(fused, axis=1) ** 2).sum()) / fused.size)


def _gradient(fused: Image) -> Image:
    down, across = np.gradient(fused)
    return np.sqrt(down**2 + across**2)


def _ag_matlab(fused: Image, _a: Image, _b: Image) -> float:
    return float(_gradient(fused).sum() / math.sqrt(2) / ((fused.shape[0] - 1) * (fused.shape[1] - 1)))


def _pearson(x: Image, y: Image) -> float:
    return float(np.corrcoef(x.ravel(), y.ravel())[0, 1])


def _mse(fused: Image, a: Image, b: Image) -> float:
    return float((np.mean((a - fused) ** 2) + np.mean((b - fused) ** 2)) / 2)


def _ssim_gauss(source: Image, fused: Image) -> float:
    return float(
        structural_similarity(
            source, fused, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
    )


def _gaussian(length: int, sigma: float) -> Image:
    y, x = np.mgrid[:length, :length] - length // 2
    window = np.exp(-(x**2 + y**2) / (2 * sigma**2))
    return window / window.sum()


def _vif_maps(source: Image, fused: Image) -> list[tuple[Image, Image, Image]]:
    """Return gain, noise and variance of the source at four scales."""
    maps = []
    for length in (17, 9, 5, 3):
        window = _gaussian(length, length / 5)
        if length < 17:
            source, fused = (convolve2d(image, window, mode="valid")[::2, ::2] for image in (source, fused))
        mean_s, mean_f = (convolve2d(image, window, mode="valid") for image in (source, fused))
        variance_s = np.maximum(convolve2d(source**2, window, mode="valid") - mean_s**2, 0)
        variance_f = np.maximum(convolve2d(fused**2, window, mode="valid") - mean_f**2, 0)
        covariance = convolve2d(source * fused, window, mode="valid") - mean_s * mean_f
        gain = covariance / (variance_s + 1e-10)
        noise = variance_f - gain * covariance
        flat_s, flat_f = variance_s < 1e-10, variance_f < 1e-10
        gain[flat_s] = 0
        noise[flat_s] = variance_f[flat_s]
        variance_s[flat_s] = 0
        gain[flat_f] = 0
        noise[flat_f] = 0
        noise[gain < 0] = variance_f[gain < 0]
        gain[gain < 0] = 0
        maps.append((gain, np.maximum(noise, 1e-10), variance_s))
    return maps


def _vif(source: Image, fused: Image) -> float:
    kept = offered = 0.0
    for gain, noise, variance in _vif_maps(source, fused):
        kept += np.log10(1 + gain**2 * variance / (noise + 2)).sum()
        offered += np.log10(1 + variance / 2).sum()
    return kept / offered


def _viff(fused: Image, a: Image, b: Image) -> float:
    value = 0.0
    for weight, of_a, of_b in zip((1, 0, 0.15, 1), _vif_maps(a, fused), _vif_maps(b, fused), strict=True):
        gain, noise, variance = (np.where(of_a[0] < of_b[0], x, y) for x, y in zip(of_a, of_b, strict=True))
        kept = np.log10(1 + gain**2 * variance / (noise + 325.125)) + 1e-7
        offered = np.log10(1 + variance / 325.125) + 1e-7
        value += weight / 2.15 * kept.sum() / offered.sum()
    return value


def _qabf(fused: Image, a: Image, b: Image) -> float:
    def edges(image: Image) -> tuple[Image, Image]:
        across = convolve2d(image, _SOBEL[:, ::-1], mode="same")
        up = convolve2d(image, _SOBEL.T, mode="same")
        angle = np.where(across == 0, math.pi / 2, np.arctan(up / np.where(across == 0, 1, across)))
        return np.sqrt(across**2 + up**2), angle

    def kept(source: tuple[Image, Image]) -> Image:
        weaker, stronger = np.minimum(source[0], strength), np.maximum(source[0], strength)
        ratio = np.where(weaker == stronger, weaker, weaker / np.where(stronger == 0, 1, stronger))
        turn = 1 - np.abs(source[1] - angle) / (math.pi / 2)
        return 0.9994 / (1 + np.exp(-15 * (ratio - 0.5))) * 0.9879 / (1 + np.exp(-22 * (turn - 0.8)))

    strength, angle = edges(fused)
    sources = edges(a), edges(b)
    return float(sum((kept(s) * s[0]).sum() for s in sources) / sum(s[0].sum() for s in sources))


def _nabf_smfnet(fused: Image, a: Image, b: Image) -> float:
    def edges(image: Image) -> tuple[Image, Image]:
        across = convolve2d(image, _SOBEL[:, ::-1], mode="same", boundary="symm")
        down = convolve2d(image, _SOBEL[:, ::-1].T, mode="same", boundary="symm")
        return np.sqrt(across**2 + down**2), np.arctan2(down, across)

    def kept(source: tuple[Image, Image]) -> Image:
        weaker, stronger = np.minimum(source[0], strength), np.maximum(source[0], strength)
        ratio = np.where(source[0] == 0, 0, weaker / np.where(stronger == 0, 1, stronger))
        turn = np.abs(np.abs(source[1] - angle) - math.pi / 2) * 2 / math.pi
        return np.sqrt(0.9999 / (1 + np.exp(-19 * (ratio - 0.5))) * 0.9995 / (1 + np.exp(-22 * (turn - 0.5))))

    strength, angle = edges(fused)
    sources = edges(a), edges(b)
    weights = [0.001 * np.where(s[0] >= 2, s[0] ** 1.5, 1) for s in sources]
    lost = sum((1 - kept(s)) * weight for s, weight in zip(sources, weights, strict=True))
    return float((lost * (strength > sources[0][0])).sum() / (weights[0] + weights[1]).sum())


def _ms_ssim_smfnet(fused: Image, a: Image, _b: Image) -> float:
    window, value = _gaussian(11, 1.5), 1.0
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2

    def local(image: Image) -> Image:
        return convolve2d(np.pad(image, 5, mode="reflect"), window, mode="valid")

    for scale, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        mean_s, mean_f = local(a), local(fused)
        variances = local(a**2) - mean_s**2 + local(fused**2) - mean_f**2
        term = (2 * (local(a * fused) - mean_s * mean_f) + c2) / (variances + c2)
        if scale == 4:
            term *= (2 * mean_s * mean_f + c1) / (mean_s**2 + mean_f**2 + c1)
        value *= max(term.mean(), 0) ** weight
        half = (fused.shape[0] // 2, fused.shape[1] // 2)
        a, fused = (resize(x, half, order=1, mode="edge", anti_aliasing=False) for x in (a, fused))
    return float(value)


# by the name of the equivalent definition
PLAIN: dict[str, Plain] = {
    "en": _en,
    "sd": lambda fused, _a, _b: float(fused.std()),
    "sf_mean": _sf,
    "sf_vifb": _sf_vifb,
    "ag_matlab": _ag_matlab,
    "ag_no_half": lambda fused, _a, _b: float(_gradient(fused).mean()),
    "mi_nats_sum": _both(_mi),
    "cc_mean": lambda fused, a, b: (_pearson(a, fused) + _pearson(b, fused)) / 2,
    "scd": lambda fused, a, b: _pearson(fused - b, a) + _pearson(fused - a, b),
    "mse_255": _mse,
    "psnr_peak_fused": lambda fused, a, b: float(10 * np.log10(fused.max() ** 2 / _mse(fused, a, b))),
    "ssim_gauss_mean_l255": lambda fused, a, b: _both(_ssim_gauss)(fused, a, b) / 2,
    "ssim_uniform_sum_l2": _both(lambda source, fused: float(structural_similarity(source, fused, data_range=2))),
    "ms_ssim_smfnet": _ms_ssim_smfnet,
    "vif_sum": _both(_vif),
    "viff_han": _viff,
    "qabf": _qabf,
    "nabf_smfnet": _nabf_smfnet,
}
