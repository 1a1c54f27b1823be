"""Second implementations of every metric, plain and slow: NumPy, SciPy, scikit-image, and loops over pixels.

Each takes fused, a, b as arrays (H, W) of whole grey levels and returns a number.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage, signal
from skimage.metrics import structural_similarity

from plain_features import slow_cosines, slow_edges, slow_fmi, slow_mef, slow_wavelet


def both(function):
    return lambda fused, a, b: function(a, fused) + function(b, fused)


def slow_entropy(image):
    _, counts = np.unique(image, return_counts=True)
    return -sum(n / counts.sum() * math.log(n / counts.sum()) for n in counts)


def slow_mi(source, fused):
    joint, _, _ = np.histogram2d(source.ravel(), fused.ravel(), bins=256, range=[[-0.5, 255.5]] * 2)
    joint /= joint.sum()
    outer = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    return (joint[joint > 0] * np.log(joint[joint > 0] / outer[joint > 0])).sum()


def slow_gradient(fused):
    y, x = np.gradient(fused)
    return np.hypot(x, y)


def slow_pearson(x, y):
    return np.corrcoef(x.ravel(), y.ravel())[0, 1]


def slow_mse(fused, a, b):
    return (np.mean((a - fused) ** 2) + np.mean((b - fused) ** 2)) / 2


GAUSS_2D = np.exp(-(np.arange(-5, 6) ** 2 + np.arange(-5, 6)[:, None] ** 2) / 4.5)
GAUSS_2D /= GAUSS_2D.sum()


def slow_terms(source, fused, peak, border=None):
    """SSIM's two factors with a two-dimensional window; with a border also where the window sticks out."""
    if border:
        source, fused = np.pad(source, 5, mode=border), np.pad(fused, 5, mode=border)

    def local(image):
        return signal.convolve2d(image, GAUSS_2D, mode="valid")

    m_s, m_f = local(source), local(fused)
    v_s, v_f, cov = local(source**2) - m_s**2, local(fused**2) - m_f**2, local(source * fused) - m_s * m_f
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    return (2 * m_s * m_f + c1) / (m_s**2 + m_f**2 + c1), (2 * cov + c2) / (v_s + v_f + c2)


def slow_ssim(peak, border=None):
    return lambda source, fused: np.mean(np.prod(slow_terms(source, fused, peak, border), axis=0))


def halve_by_means(image):
    """2x2 means; an odd side gets a zero at both ends."""
    image = np.pad(image, [(n % 2, n % 2) for n in image.shape])
    height, width = (n // 2 * 2 for n in image.shape)
    return image[:height, :width].reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3))


def halve_bilinearly(image):
    for axis in (0, 1):
        old, new = image.shape[axis], image.shape[axis] // 2
        places = (np.arange(new) + 0.5) * old / new - 0.5
        image = np.apply_along_axis(lambda line, places=places: np.interp(places, range(len(line)), line), axis, image)
    return image


def slow_ms_ssim(peak, halve, border=None):
    def measure(source, fused):
        product = 1.0
        for scale, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
            luminance, structure = slow_terms(source, fused, peak, border)
            mean = np.mean(luminance * structure if scale == 4 else structure)
            product *= max(mean, 0) ** weight
            source, fused = halve(source), halve(fused)
        return product

    return measure


def slow_ssim_gauss(source, fused):
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255, "full": True}
    return structural_similarity(source, fused, **options)[1][5:-5, 5:-5].mean()


def slow_channels(source, fused, centred=True):
    """VIF's gain, noise and variance of the source, scale by scale, with two-dimensional windows, pixel by pixel."""
    for n in (17, 9, 5, 3):
        places = np.arange(n) - n // 2 if centred else np.linspace(-(n + 1) / 2, n // 2, n)
        window = np.exp(-(places**2 + places[:, None] ** 2) / (2 * (n / 5) ** 2))
        window /= window.sum()

        def local(image, window=window):
            return signal.correlate2d(image, window, mode="valid" if centred else "same")

        if n < 17:
            source, fused = local(source)[::2, ::2], local(fused)[::2, ::2]
        m_s, m_f = local(source), local(fused)
        v_s = np.maximum(local(source**2) - m_s**2, 0)
        v_f = np.maximum(local(fused**2) - m_f**2, 0)
        cov = local(source * fused) - m_s * m_f
        pixels = []
        for vs, vf, c in zip(v_s.flat, v_f.flat, cov.flat, strict=True):
            g = c / (vs + 1e-10)
            rest = vf - g * c
            if vs < 1e-10:
                g, rest = 0.0, vf
            if vf < 1e-10:
                g, rest = 0.0, 0.0
            if g < 0:
                g, rest = 0.0, vf
            pixels.append((g, max(rest, 1e-10), vs if vs >= 1e-10 else 0))
        yield pixels


def slow_vif(source, fused, centred=True):
    pixels = [pixel for scale in slow_channels(source, fused, centred) for pixel in scale]
    top = sum(math.log10(1 + g * g * vs / (rest + 2)) for g, rest, vs in pixels)
    return top / sum(math.log10(1 + vs / 2) for _, _, vs in pixels)


def slow_viff(fused, a, b):
    total = 0.0
    scales = zip((1, 0, 0.15, 1), slow_channels(a, fused), slow_channels(b, fused), strict=True)
    for weight, pixels_a, pixels_b in scales:
        chosen = [pa if pa[0] < pb[0] else pb for pa, pb in zip(pixels_a, pixels_b, strict=True)]
        top = sum(math.log10(1 + g * g * vs / (rest + 0.005 * 255**2)) + 1e-7 for g, rest, vs in chosen)
        total += weight / 2.15 * top / sum(math.log10(1 + vs / (0.005 * 255**2)) + 1e-7 for _, _, vs in chosen)
    return total


SOBEL = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])


def slow_sobel(image, mode):
    return ndimage.correlate(image, SOBEL, mode=mode), ndimage.correlate(image, SOBEL.T, mode=mode)


def slow_strength(image, mode):
    return np.hypot(*slow_sobel(image, mode))


def slow_nabf(kind):
    """Nabf pixel by pixel."""

    def edges(image):
        scale, mode = (1, "nearest") if kind == "smfnet" else (1 / 8, "mirror")
        x, y = (scale * part for part in slow_sobel(image, mode))
        for p, q in zip(x.flat, y.flat, strict=True):
            angle = math.atan2(q, p)
            if kind != "smfnet":
                angle = math.atan(q / p) if p else math.pi / 2 if q or kind == "tang" else 0.0
            yield math.hypot(p, q), angle

    def kept(g, angle, g_f, angle_f):
        strength = min(g, g_f) / max(g, g_f) if g and g_f else 0
        turn = abs(abs(angle - angle_f) - math.pi / 2) * 2 / math.pi
        return math.sqrt(0.9999 / (1 + math.exp(-19 * (strength - 0.5))) * 0.9995 / (1 + math.exp(-22 * (turn - 0.5))))

    def weight(g):
        if kind == "smfnet":
            return 0.001 * g**1.5 if g >= 2 else 0.001
        return g**1.5 if g >= 2 else {"tang": 0.001, "ivif_zoo": 0.0}[kind]

    def measure(fused, a, b):
        top = bottom = 0.0
        for of_f, of_a, of_b in zip(edges(fused), edges(a), edges(b), strict=True):
            bottom += weight(of_a[0]) + weight(of_b[0])
            if of_f[0] > of_a[0] and (of_f[0] > of_b[0] or kind == "smfnet"):
                top += sum((1 - kept(*of_s, *of_f)) * weight(of_s[0]) for of_s in (of_a, of_b))
        return top / bottom

    return measure


def slow_stretch(image):
    return 255 * (image - image.min()) / (image.max() - image.min())


def half_up(image):
    return np.floor(image + 0.5)


def slow_filter(image, period, factor):
    """The whole complex spectrum times a factor of the distance from its middle, in steps of 1 / period."""
    y, x = (np.arange(n) - n // 2 for n in image.shape)
    spectrum = np.fft.fftshift(np.fft.fft2(image)) * factor(np.sqrt((x / period) ** 2 + (y[:, None] / period) ** 2))
    return np.fft.ifft2(np.fft.ifftshift(spectrum)).real


def slow_qcb(images, period, guard):
    def masked(image):
        seen = slow_filter(
            image, period, lambda r: np.exp(-((r / 15.387) ** 2)) - 0.7622 * np.exp(-((r / 1.3456) ** 2))
        )
        y, x = np.mgrid[-15:16, -15:16]
        near, far = (
            signal.convolve2d(seen, np.exp(-(x**2 + y**2) / (2 * s**2)) / (2 * math.pi * s**2), mode="same")
            for s in (2, 4)
        )
        contrast = np.abs(near / (far + guard) - 1)
        return contrast**3 / (contrast**2 + 0.0001)

    fused, a, b = (masked(image) for image in images)
    total = a**2 + b**2 + guard
    parts = [s**2 / total * np.minimum(s, fused) / np.maximum(s, fused) for s in (a, b)]
    return np.mean(parts[0] + parts[1])


def slow_qcv(fused, a, b):
    fused, a, b = (half_up(slow_stretch(image)) for image in (fused, a, b))
    top = bottom = 0.0
    for source in (a, b):
        seen = slow_filter(source - fused, 4, lambda r: 2.6 * (0.0192 + 0.144 * r) * np.exp(-((0.144 * r) ** 1.1)))
        strength = slow_strength(source, "constant")
        for y in range(0, fused.shape[0], 16):
            for x in range(0, fused.shape[1], 16):
                salience = (strength[y : y + 16, x : x + 16] ** 5).sum()
                top += salience * (seen[y : y + 16, x : x + 16] ** 2).sum() / 256
                bottom += salience
    return top / bottom


def slow_ce(source, fused):
    p, q = (np.bincount(image.astype(int).ravel(), minlength=256) / image.size for image in (source, fused))
    return sum(x * math.log2(x / y) for x, y in zip(p, q, strict=True) if x and y)


def slow_sigmoid_ce(source, fused):
    smallest = 2.0**-23
    wanted, found = (np.clip(1 / (1 + np.exp(-image)), smallest, 1 - smallest) for image in (source, fused))
    return -np.mean(wanted * np.log(found) + (1 - wanted) * np.log(1 - found))


def slow_mi_tang(source, fused):
    pairs = slow_entropy(256 * np.minimum(source, 254) + np.minimum(fused, 254))
    return (slow_entropy(source) + slow_entropy(fused) - pairs) / math.log(2)


def slow_en_guarded(fused):
    _, counts = np.unique(fused, return_counts=True)
    return -sum(n / fused.size * math.log2(n / fused.size + 1e-7) for n in counts)


def slow_rmse_vifb(source, fused):
    return np.linalg.norm(source - fused) / fused.size


def slow_qabf(fused, a, b):
    """Qabf with the general convolution and a loop over pixels."""
    kernel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])

    def edges(image):
        x = ndimage.correlate(image, kernel, mode="constant")
        y = ndimage.correlate(image, kernel.T[::-1], mode="constant")
        return [(math.hypot(p, q), math.atan(q / p) if p else math.pi / 2) for p, q in zip(x.flat, y.flat, strict=True)]

    kept = weight = 0.0
    for source in (a, b):
        for (g, angle), (g_f, angle_f) in zip(edges(source), edges(fused), strict=True):
            strength = g if g == g_f else min(g, g_f) / max(g, g_f)
            turn = 1 - abs(angle - angle_f) / (math.pi / 2)
            kept += g * 0.9994 / (1 + math.exp(-15 * (strength - 0.5))) * 0.9879 / (1 + math.exp(-22 * (turn - 0.8)))
            weight += g
    return kept / weight


SLOW = {
    "en": lambda f, *_: slow_entropy(f) / math.log(2),
    "sd": lambda f, *_: np.std(f),
    "sf_mean": lambda f, *_: math.sqrt(np.mean(np.diff(f, axis=0) ** 2) + np.mean(np.diff(f, axis=1) ** 2)),
    "sf_vifb": lambda f, *_: math.sqrt((np.sum(np.diff(f, axis=0) ** 2) + np.sum(np.diff(f, axis=1) ** 2)) / f.size),
    "ag_mean": lambda f, *_: slow_gradient(f).mean() / math.sqrt(2),
    "ag_matlab": lambda f, *_: slow_gradient(f).sum() / math.sqrt(2) / ((f.shape[0] - 1) * (f.shape[1] - 1)),
    "ag_no_half": lambda f, *_: slow_gradient(f).mean(),
    "mi_nats_sum": both(slow_mi),
    "mi_bits_sum": lambda f, a, b: both(slow_mi)(f, a, b) / math.log(2),
    "cc_mean": lambda f, a, b: both(slow_pearson)(f, a, b) / 2,
    "scd": lambda f, a, b: slow_pearson(f - b, a) + slow_pearson(f - a, b),
    "psnr_255": lambda f, a, b: 10 * math.log10(255**2 / slow_mse(f, a, b)),
    "psnr_peak_fused": lambda f, a, b: 20 * math.log10(f.max()) - 10 * math.log10(slow_mse(f, a, b)),
    "ssim_uniform_sum_l255": both(lambda s, f: structural_similarity(s, f, data_range=255)),
    "ssim_uniform_mean_l255": lambda f, a, b: SLOW["ssim_uniform_sum_l255"](f, a, b) / 2,
    "ssim_uniform_sum_l2": both(lambda s, f: structural_similarity(s, f, data_range=2)),
    "ssim_gauss_sum_l255": both(slow_ssim_gauss),
    "ssim_gauss_mean_l255": lambda f, a, b: SLOW["ssim_gauss_sum_l255"](f, a, b) / 2,
    "vif_sum": both(slow_vif),
    "qabf": slow_qabf,
    "en_ivif_zoo": lambda f, *_: slow_en_guarded(f),
    "ei_vifb": lambda f, *_: slow_strength(f, "nearest").mean(),
    "ei_ivif_zoo": lambda f, *_: slow_strength(f, "constant").mean(),
    "sf_mean_01": lambda f, *_: SLOW["sf_mean"](f / 255),
    "mi_vifb": lambda *images: both(slow_mi)(*(half_up(slow_stretch(image)) for image in images)),
    "mi_tang": both(slow_mi_tang),
    "nmi_ivif_zoo": lambda f, a, b: 2 * both(slow_mi)(f, a, b) / (slow_entropy(a) + slow_entropy(b)),
    "ce_vifb": lambda f, a, b: both(slow_ce)(f, a, b) / 2,
    "ce_ivif_zoo": lambda f, a, b: both(slow_sigmoid_ce)(f, a, b) / 2,
    "mse_255": slow_mse,
    "mse_01": lambda *images: slow_mse(*(image / 255 for image in images)),
    "rmse_vifb": lambda f, a, b: both(slow_rmse_vifb)(f, a, b) / 2,
    "psnr_vifb": lambda f, a, b: 20 * math.log10(255 / math.sqrt(both(slow_rmse_vifb)(f, a, b) / 2)),
    "psnr_ivif_zoo": lambda f, a, b: 20 * math.log10(255 / math.sqrt(slow_mse(f, a, b) / 255**2)),
    "ssim_gauss_sum_l1": both(slow_ssim(1)),
    "ssim_tang": lambda f, a, b: both(slow_ssim(1, "edge"))(f, a, b) / 2,
    "ms_ssim_sum_l255": both(slow_ms_ssim(255, halve_by_means)),
    "ms_ssim_ivif_zoo": both(slow_ms_ssim(1, halve_by_means)),
    "ms_ssim_smfnet": lambda f, a, _: slow_ms_ssim(255, halve_bilinearly, "reflect")(a, f),
    "vif_ivif_zoo": both(lambda s, f: slow_vif(s, f, centred=False)),
    "viff_han": slow_viff,
    "nabf_tang": slow_nabf("tang"),
    "nabf_ivif_zoo": slow_nabf("ivif_zoo"),
    "nabf_smfnet": slow_nabf("smfnet"),
    "qcb_liu": lambda *images: slow_qcb([half_up(slow_stretch(image)) for image in images], 15, 0.0),
    "qcb_ivif_zoo": lambda *images: slow_qcb([slow_stretch(image) / 255 for image in images], 30, 1e-10),
    "qcv": slow_qcv,
    "fmi_pixel": slow_fmi(slow_edges),
    "fmi_dct": slow_fmi(slow_cosines),
    "fmi_wavelet": slow_fmi(slow_wavelet),
    "ms_ssim_mef": slow_mef,
}
