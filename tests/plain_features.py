"""Second implementations of the metrics that look at small windows one by one: FMI and multi-exposure SSIM."""

from __future__ import annotations

import math

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy import fft, integrate, ndimage
from scipy.special import xlogy

NUMBERS = np.arange(9)


def slow_windows(features):
    """All windows of 3x3, column by column: (n, 9)."""
    return sliding_window_view(features, (3, 3)).transpose(0, 1, 3, 2).reshape(-1, 9)


def slow_shares(windows):
    low, high = windows.min(axis=1, keepdims=True), windows.max(axis=1, keepdims=True)
    scaled = np.where(high > low, (windows - low) / np.where(high > low, high - low, 1), 1)
    return scaled / scaled.sum(axis=1, keepdims=True)


def slow_bits(shares):
    """Entropy of each window's cells, or pairs of cells."""
    return -xlogy(shares, shares).sum(axis=tuple(range(1, shares.ndim))) / math.log(2)


def slow_information(windows, others):
    """Twice the mutual information over both entropies, from the whole table of 9x9 pairs of cells of each window."""
    p, q = slow_shares(windows), slow_shares(others)
    less_p, less_q = (NUMBERS - (NUMBERS * x).sum(axis=1, keepdims=True) for x in (p, q))
    spread = np.sqrt((p * less_p**2).sum(axis=1) * (q * less_q**2).sum(axis=1))
    deviations = p.std(axis=1) * q.std(axis=1)
    equal = (windows == others).all(axis=1)
    # without a correlation, or with nothing to tell, the value is 0
    told = (deviations > 1e-12) & (spread > 0)
    p, q, less_p, less_q, spread = (x[told] for x in (p, q, less_p, less_q, spread))
    c = ((p - 1 / 9) * (q - 1 / 9)).mean(axis=1) / deviations[told]
    up_p, up_q = np.cumsum(p, axis=1)[:, :, None], np.cumsum(q, axis=1)[:, None, :]
    bound = np.where(c[:, None, None] >= 0, np.minimum(up_p, up_q), np.maximum(up_p + up_q - 1, 0))
    bound = np.diff(np.diff(np.pad(bound, ((0, 0), (1, 0), (1, 0))), axis=1), axis=2)  # from sums to shares
    of_bound = np.einsum("nij,ni,nj->n", bound, less_p, less_q) / spread
    phi = np.minimum(c / of_bound, 1)[:, None, None]
    joint = phi * bound + (1 - phi) * p[:, :, None] * q[:, None, :]
    bits = slow_bits(p) + slow_bits(q)
    values = np.zeros(len(windows))
    values[told] = 2 * (bits - slow_bits(np.maximum(joint, 0))) / bits
    return np.where(equal, 1, values)


def slow_fmi(features):
    """FMI of maps that a function makes of the images."""

    def measure(*images):
        fused, *sources = (slow_windows(features(image)) for image in images)
        return np.mean([slow_information(source, fused) for source in sources])

    return measure


def slow_edges(image):
    """Thinned Sobel edges, pixel by pixel."""
    smooth = np.array([[1, 2, 1]]) / 8
    x = ndimage.correlate(image, smooth.T * [-1, 0, 1], mode="nearest")
    y = ndimage.correlate(image, smooth * np.array([[-1], [0], [1]]), mode="nearest")
    b = x**2 + y**2
    edges = np.zeros_like(image)
    for i in range(1, image.shape[0] - 1):
        for j in range(1, image.shape[1] - 1):
            in_row = abs(x[i, j]) >= abs(y[i, j]) and b[i, j - 1] <= b[i, j] > b[i, j + 1]
            in_column = abs(y[i, j]) >= abs(x[i, j]) and b[i - 1, j] <= b[i, j] > b[i + 1, j]
            edges[i, j] = b[i, j] > 4 * b.mean() and (in_row or in_column)
    return edges


def coarse(coefficients):
    return np.rint(coefficients * 2**23) / 2**23


def slow_cosines(image):
    return coarse(fft.dctn(image, norm="ortho"))


def meyer(place):
    """Meyer's low-pass filter: the integral of its spectrum."""

    def spectrum(omega):
        x = 3 * omega / math.pi - 1
        return math.cos(math.pi / 2 * x**4 * (35 - 84 * x + 70 * x**2 - 20 * x**3)) if x > 0 else 1.0

    values = [
        integrate.quad(lambda w: spectrum(w) * math.cos(w * place), *limits, epsabs=1e-12, limit=200)[0]
        for limits in ((0, math.pi / 3), (math.pi / 3, 2 * math.pi / 3))
    ]
    return math.sqrt(2) / math.pi * sum(values)


HALF = [meyer(place) for place in range(51)]
LOW = np.array([0.0, *HALF[:0:-1], *HALF])  # 102 coefficients, the middle at 51
HIGH = LOW[::-1] * (-1.0) ** np.arange(1, 103)  # the mirror filter


def slow_wavelet(image):
    """One level with the edges mirrored, along both sides one after the other."""

    def along(line):
        mirrored = np.pad(line, 101, mode="symmetric")
        return np.concatenate([np.convolve(mirrored, taps, mode="valid")[1::2] for taps in (LOW, HIGH)])

    return coarse(np.apply_along_axis(along, 0, np.apply_along_axis(along, 1, image)))


GAUSS = np.exp(-(np.arange(-5, 6) ** 2 + np.arange(-5, 6)[:, None] ** 2) / 4.5)
GAUSS /= GAUSS.sum()


def slow_mef_window(fused, *sources):
    """Compare a patch with the ideal one, which is put together pixel by pixel."""
    fused, *sources = (patch - np.sum(GAUSS * patch) for patch in (fused, *sources))
    contrasts = [0.0 if np.ptp(patch) < 1e-9 else math.sqrt(np.sum(GAUSS * patch**2)) for patch in sources]
    ideal = np.zeros_like(fused)
    if any(contrasts):
        agreement = min(math.sqrt(np.sum(GAUSS * sum(sources) ** 2)) / sum(contrasts), 1)
        power = min(math.tan(agreement * math.pi / 2), 10) if agreement < 1 else 10
        shares = [(c / max(contrasts)) ** power for c in contrasts]
        ideal = sum(w * patch / c for w, patch, c in zip(shares, sources, contrasts, strict=True) if c)
        ideal *= max(contrasts) / math.sqrt(np.sum(GAUSS * ideal**2))
    c = (0.03 * 255) ** 2
    return (2 * np.sum(GAUSS * ideal * fused) + c) / (np.sum(GAUSS * ideal**2) + np.sum(GAUSS * fused**2) + c)


def slow_mef(*images):
    value = 1.0
    for weight in (0.0448, 0.2856, 0.3001):
        height, width = images[0].shape
        places = [(slice(y, y + 11), slice(x, x + 11)) for y in range(height - 10) for x in range(width - 10)]
        mean = np.mean([slow_mef_window(*(image[place] for image in images)) for place in places])
        value *= max(mean, 0) ** (weight / (0.0448 + 0.2856 + 0.3001))
        images = [np.pad(image, [(0, side % 2) for side in image.shape], mode="edge") for image in images]
        images = [image.reshape(len(image) // 2, 2, -1, 2).mean(axis=(1, 3)) for image in images]
    return value
