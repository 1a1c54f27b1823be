"""Losses and layers that methods share, against independent implementations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage.metrics import structural_similarity
from torch.nn import functional as F

from mmfuse.nn.losses import gaussian_window, sobel_magnitude, ssim_loss, ssim_map
from mmfuse.nn.padding import pad_to_multiple


def random_pair(seed=0, shape=(2, 3, 33, 41), dtype=torch.float64):
    """Two related images, so that their similarity is neither 0 nor 1."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.rand(shape, generator=draw, dtype=dtype)
    x = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    return x, (0.6 * x + 0.4 * torch.rand(shape, generator=draw, dtype=dtype)).clamp(0, 1)


def test_gaussian_window():
    window = gaussian_window(11, 1.5, torch.zeros(1, dtype=torch.float64))
    assert window.sum().item() == pytest.approx(1, abs=1e-15)
    assert torch.equal(window, window.flip(0))
    assert (window[5] / window[3]).item() == pytest.approx(math.exp(2**2 / (2 * 1.5**2)))


def test_ssim_is_that_of_skimage():
    x, y = random_pair()
    ours = ssim_map(x, y).numpy()
    for b, c in np.ndindex(2, 3):
        _, theirs = structural_similarity(
            x[b, c].numpy(), y[b, c].numpy(), gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
            data_range=1.0, full=True,
        )  # fmt: skip
        assert np.abs(ours[b, c] - theirs)[5:-5, 5:-5].max() < 1e-12
    assert 0.1 < ours.mean() < 0.95


def test_ssim_of_special_images():
    x, y = random_pair(1)
    assert torch.allclose(ssim_map(x, x), torch.ones_like(x))
    assert torch.allclose(ssim_map(x, y), ssim_map(y, x))
    flat, other = torch.full((1, 1, 16, 16), 0.2, dtype=torch.float64), torch.full((1, 1, 16, 16), 0.6).double()
    expected = (2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4)
    assert torch.allclose(ssim_map(flat, other), torch.full_like(flat, expected))
    assert ssim_map(x, 1 - x).min() < -0.2


def test_ssim_loss():
    x, y = random_pair(2)
    assert ssim_loss(x, x).item() == pytest.approx(0, abs=1e-12)
    similarity = ssim_map(x, y)
    assert ssim_loss(x, y).item() == pytest.approx(((1 - similarity).clamp(0, 1) / 2).mean().item())
    board = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).repeat(8, 8)[None, None]
    assert ssim_loss(board, 1 - board).item() == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("border", "mode"), [("zeros", {"mode": "constant"}), ("reflect", {"mode": "mirror"}), ("replicate", {})]
)
def test_sobel_is_that_of_scipy(border, mode):
    x, _ = random_pair(3)
    ours = sobel_magnitude(x, border=border).numpy()
    for b, c in np.ndindex(2, 3):
        image = x[b, c].numpy()
        theirs = sum(np.abs(ndimage.sobel(image, axis=axis, **{"mode": "nearest"} | mode)) for axis in (0, 1))
        assert np.abs(ours[b, c] - theirs).max() < 1e-12


def test_sobel_of_a_step():
    image = torch.zeros(1, 1, 6, 6)
    image[..., 3:] = 1
    for border, last in ("zeros", 4), ("reflect", 0), ("replicate", 0):
        expected = [0, 0, 4, 4, 0, last]
        assert sobel_magnitude(image, border=border)[0, 0, 2].tolist() == expected
        assert sobel_magnitude(image.transpose(-1, -2), border=border)[0, 0, :, 2].tolist() == expected
    assert torch.equal(sobel_magnitude(image), sobel_magnitude(image, border="zeros"))


@pytest.mark.parametrize("loss", [ssim_map, ssim_loss, lambda x, y: sobel_magnitude(x) - sobel_magnitude(y)])
def test_gradients(loss):
    x, y = random_pair(4, (1, 2, 8, 7))
    assert torch.autograd.gradcheck(loss, (x.requires_grad_(), y.requires_grad_()), eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtypes_stay(dtype):
    x, y = random_pair(5, dtype=dtype)
    assert ssim_map(x, y).dtype == sobel_magnitude(x).dtype == dtype


def test_single_precision_is_good_enough():
    x, y = random_pair(6)
    assert (ssim_map(x, y) - ssim_map(x.float(), y.float())).abs().max() < 1e-4


@pytest.mark.parametrize("shape", [(16, 16), (17, 33), (61, 40), (5, 300), (1, 1), (9, 8)])
def test_padding(shape):
    image = torch.arange(math.prod(shape), dtype=torch.float32).view(1, 1, *shape)
    padded = pad_to_multiple(image, 16)
    height, width = padded.shape[-2:]
    assert height % 16 == width % 16 == 0
    assert 0 <= height - shape[0] < 16
    assert 0 <= width - shape[1] < 16
    assert torch.equal(padded[..., : shape[0], : shape[1]], image)
    if height - shape[0] in range(1, shape[0]) and width - shape[1] < shape[1]:
        assert torch.equal(padded[..., shape[0], : shape[1]], image[..., -2, :]), "reflected"
    assert set(padded.unique().tolist()) <= set(image.unique().tolist())
