"""Losses and their building blocks: structural similarity, gradients, correlation, regions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mmfuse.errors import UserError
from mmfuse.nn.precision import in_full_precision

BORDERS = {"zeros": "constant", "reflect": "reflect", "replicate": "replicate"}  # our names, torch's names


def _extend(image: Tensor, reach: int, border: str) -> Tensor:
    """Extend an image by `reach` pixels on each side with zeros, its reflection, or its border pixels."""
    return F.pad(image, (reach, reach, reach, reach), mode=BORDERS[border])


def gaussian_window(length: int, sigma: float, like: Tensor) -> Tensor:
    """Return a normalised 1-D Gaussian of `length` taps with the dtype and device of `like`."""
    offset = torch.arange(length, dtype=like.dtype, device=like.device) - (length - 1) / 2
    weights = torch.exp(-(offset**2) / (2 * sigma**2))
    return weights / weights.sum()


def blur(image: Tensor, window: Tensor, border: str) -> Tensor:
    """Filter each channel with a separable window, without changing the size."""
    channels = image.shape[1]
    image = _extend(image, len(window) // 2, border)
    image = _filter(image, window.view(1, 1, 1, -1).expand(channels, 1, 1, -1))
    return _filter(image, window.view(1, 1, -1, 1).expand(channels, 1, -1, 1))


def _filter(image: Tensor, kernel: Tensor) -> Tensor:
    """Filter each channel with its own kernels, without a border.

    On a GPU this uses double precision, because an fp32 convolution may round its inputs to TF32, forwards and
    backwards. Ten bits are too few for a local variance, and SSIM would leave its range.
    """
    if image.is_cuda:
        return F.conv2d(image.double(), kernel.double(), groups=image.shape[1]).to(image.dtype)
    return F.conv2d(image, kernel, groups=image.shape[1])


@in_full_precision
def ssim_map(x: Tensor, y: Tensor, *, border: str = "reflect", data_range: float = 1.0) -> Tensor:
    """Structural similarity at each pixel, in Gaussian windows of 11 x 11 pixels with a standard deviation of 1.5.

    Args:
        x: Images, (B, C, H, W), in an interval of length `data_range`; H, W > 5 for a reflected border.
        y: Images to compare with x, likewise.
        border: zeros, reflect or replicate. With zeros, a window that extends beyond the image is not renormalised.
        data_range: L of the constants (0.01 L)^2 and (0.03 L)^2.

    Shape: that of x.
    Range: [-1, 1].
    Source: Wang et al. 2004; MMA-UNet eq. 2.
    """
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    window = gaussian_window(11, 1.5, x)
    mean_x, mean_y = blur(x, window, border), blur(y, window, border)
    var_x = blur(x * x, window, border) - mean_x**2
    var_y = blur(y * y, window, border) - mean_y**2
    cov = blur(x * y, window, border) - mean_x * mean_y
    return ((2 * mean_x * mean_y + c1) * (2 * cov + c2)) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))


def ssim_loss(x: Tensor, y: Tensor, *, border: str = "reflect", data_range: float = 1.0) -> Tensor:
    """Mean of clamp(1 - SSIM, 0, 1) / 2: the form in the published codes of MMA-UNet and SMFNet.

    Range: [0, 1/2]; pixels with SSIM < 0 are clamped and have no gradient.
    """
    return (1 - ssim_map(x, y, border=border, data_range=data_range)).clamp(0, 1).mean() / 2


def two_source_ssim_loss(
    fused: Tensor, a: Tensor, b: Tensor, *, border: str = "zeros", data_range: float = 1.0
) -> Tensor:
    """One minus the mean similarity to both sources.

    Range: [0, 2].
    Source: LKC-FUNet eq. 6 (L9: the published code takes the mean of both similarities).
    """
    similarity = [ssim_map(fused, source, border=border, data_range=data_range).mean() for source in (a, b)]
    return 1 - torch.stack(similarity).mean()


def strongest_intensity_loss(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference to the brighter source at each pixel.

    Source: LKC-FUNet eq. 7; SMFNet eq. 28.
    """
    return F.l1_loss(fused, torch.maximum(a, b))


def strongest_gradient_loss(fused: Tensor, a: Tensor, b: Tensor, *, border: str = "zeros") -> Tensor:
    """Mean absolute difference between the fused image's gradient strength and the stronger source's at each pixel.

    Source: LKC-FUNet eq. 8; SMFNet eq. 29.
    """
    strongest = torch.maximum(sobel_magnitude(a, border=border), sobel_magnitude(b, border=border))
    return F.l1_loss(sobel_magnitude(fused, border=border), strongest)


def sobel_magnitude(image: Tensor, *, border: str = "zeros") -> Tensor:
    """Gradient strength |gx| + |gy| with 3x3 Sobel filters, not normalised.

    Shape: (B, C, H, W) in and out.
    Range: [0, 8] for images in [0, 1].
    """
    return _sobel(image, border).abs().sum(dim=2)


@in_full_precision
def _sobel(image: Tensor, border: str) -> Tensor:
    """Both Sobel responses of every channel; (B, C, H, W) to (B, C, 2, H, W)."""
    channels = image.shape[1]
    smooth = image.new_tensor([1.0, 2.0, 1.0]).view(1, 1, -1, 1)
    differ = image.new_tensor([-1.0, 0.0, 1.0]).view(1, 1, 1, -1)
    kernel = torch.cat([smooth * differ, (smooth * differ).transpose(-1, -2)]).repeat(channels, 1, 1, 1)
    return _filter(_extend(image, 1, border), kernel).unflatten(1, (channels, 2))


def spatial_gradient(image: Tensor, *, border: str = "replicate") -> Tensor:
    """Signed gradients (gx, gy): 3x3 Sobel filters divided by 8, so that a ramp yields its slope.

    Shape: (B, C, H, W) to (B, C, 2, H, W).
    Range: [-1/2, 1/2] for images in [0, 1].
    """
    return _sobel(image, border) / 8


def correlation(x: Tensor, y: Tensor) -> Tensor:
    """Pearson correlation over the last dimension; 0 where either side is constant.

    Shape: (..., n) twice; returns (...).
    Range: [-1, 1].
    Source: SMFNet 2.3, after CDDFuse (Zhao et al. 2023).
    """
    x, y = x - x.mean(dim=-1, keepdim=True), y - y.mean(dim=-1, keepdim=True)
    variances = x.square().mean(dim=-1) * y.square().mean(dim=-1)
    return (x * y).mean(dim=-1) / (variances + 1e-12).sqrt()


def gram_matrix(features: Tensor) -> Tensor:
    """Mean products of all pairs of channels; for an image with one channel, its mean square.

    Shape: (B, C, H, W) to (B, C, C).
    """
    rows = features.flatten(2)  # (B, C, H W)
    return rows @ rows.transpose(1, 2) / rows.shape[-1]


def lovasz_jaccard(errors: Tensor, labels: Tensor) -> Tensor:
    """Jaccard loss of a set of pixels, extended from errors of 0 or 1 to all non-negative errors.

    The errors are sorted in decreasing order. The weight of each is the Jaccard loss of the pixels up to it minus that
    of the pixels before it. For errors of 0 or 1 this is 1 - IoU of the pixels with label 1.

    Shape: errors (B, n); labels (B, n) bool; returns (B,).
    Source: Berman et al. 2018 (Lovasz-Softmax), eq. 3, 4, 8 and 9; SMFNet eq. 21 to 25.
    """
    errors, order = errors.sort(dim=-1, descending=True)
    labels = labels.gather(-1, order).to(errors.dtype)
    missed, extra = labels.cumsum(dim=-1), (1 - labels).cumsum(dim=-1)
    jaccard = (missed + extra) / (labels.sum(dim=-1, keepdim=True) + extra)  # of the first k pixels
    return (errors * jaccard.diff(dim=-1, prepend=torch.zeros_like(jaccard[..., :1]))).sum(dim=-1)


def lovasz_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Return the Lovasz-Softmax loss, averaged over the classes present in a batch.

    Shape: scores (B, classes, H, W); mask (B, H, W) int64; returns a scalar.

    Raises:
        UserError: the mask has a class beyond the scores.

    Source: Berman et al. 2018, eq. 11, over the pixels of the batch; SMFNet eq. 21 to 25.
    """
    classes = scores.shape[1]
    if int(mask.max()) >= classes:
        raise UserError(
            "A mask contains a class that the network does not have.",
            expected=f"classes from 0 to {classes - 1}",
            found=int(mask.max()),
            fix="set `classes` of the method's network to the number of classes of the dataset",
        )
    shares = scores.float().softmax(dim=1).movedim(1, 0).flatten(1)  # (classes, B H W)
    labels = mask.flatten() == torch.arange(classes, device=mask.device)[:, None]
    shown = labels.any(dim=1)
    shares, labels = shares[shown], labels[shown]
    return lovasz_jaccard(torch.where(labels, 1 - shares, shares), labels).mean()
