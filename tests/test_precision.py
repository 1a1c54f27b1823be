"""The contract on precision: in mixed precision a loss has the value and the gradient that it has in fp32.

Every method and every part passes through here; a new one by being there.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import skimage.data
import torch
from torch import Tensor

from mmfuse.data.images import luminance, read_image
from mmfuse.nn.losses import BORDERS, sobel_magnitude, ssim_map
from test_methods import PARTS, small, weights

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
IMAGES = ["photographs", "flat", "black", "msrs"]


def crops(kind: str) -> tuple[Tensor, Tensor]:
    """Return two pairs of images, (2, 1, 96, 96) twice."""
    if kind == "photographs":
        camera, coins = (
            torch.from_numpy(image).float() / 255 for image in (skimage.data.camera(), skimage.data.coins())
        )
        a, b = camera[64:160, 200:392], coins[40:136, 20:212]
    elif kind == "msrs":
        if "MMFUSE_MIRROR" not in os.environ:
            pytest.skip("MMFUSE_MIRROR is not set")
        folder = Path(os.environ["MMFUSE_MIRROR"]) / "msrs/test"
        images = (read_image(folder / kind / "00537D.png") for kind in ("ir", "vi"))
        a, b = (torch.tensor(luminance(image)[200:296, 200:392]).float() for image in images)
    else:
        level = {"flat": 0.8, "black": 0.0}[kind]
        a, b = torch.full((96, 192), level), torch.full((96, 192), level / 2)
    return tuple(torch.stack(image.split(96, dim=1))[:, None] for image in (a, b))


def fused_of(a: Tensor, b: Tensor) -> Tensor:
    """Return what a network in training might give: near the sources, with a little noise."""
    noise = torch.randn(a.shape, generator=torch.Generator().manual_seed(0))
    return 0.3 * (a + b) / 2 + 0.7 * torch.maximum(a, b) + 0.004 * noise


def gradients(method, part: str, given: dict[str, Tensor], a: Tensor, b: Tensor, *, mixed: bool) -> dict:
    """Return value and gradients of every loss term with respect to what the network gave, as a training takes them."""
    leaves = {name: value.clone().requires_grad_() for name, value in given.items()}
    method.part_outputs = lambda *_: leaves
    with torch.autocast(a.device.type, torch.bfloat16, enabled=mixed):
        terms = method.part_losses(part, a, b, weights(type(method).__module__.rpartition(".")[2], part))
    found = {}
    for name, value in terms.items():
        grads: tuple[Tensor | None, ...] = (None,) * len(leaves)
        if value.requires_grad:
            grads = torch.autograd.grad(value, list(leaves.values()), retain_graph=True, allow_unused=True)
        found[name] = (value.detach(), dict(zip(leaves, grads, strict=True)))
    return found


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", IMAGES)
@pytest.mark.parametrize(("name", "part"), PARTS)
def test_the_gradient_of_every_loss_term_under_autocast(name, part, kind, device):
    """A cosine of at least 0.999 with fp32, for outputs that the network gave in fp32 and in bf16."""
    method = small(name).to(device).eval()
    a, b = (image.to(device) for image in crops(kind))
    with torch.no_grad():
        given = method.part_outputs(part, a, b)
    picture = fused_of(a.cpu(), b.cpu()).to(device)
    given = {
        key: picture.expand_as(value) if value.shape[-2:] == a.shape[-2:] and value.shape[1] in (1, 3) else value
        for key, value in given.items()
    }
    for dtype in (torch.float32, torch.bfloat16):
        rounded = {key: value.to(dtype) for key, value in given.items()}
        exact = gradients(method, part, {key: value.float() for key, value in rounded.items()}, a, b, mixed=False)
        check_equal(exact, gradients(method, part, rounded, a, b, mixed=True))


def check_equal(exact: dict, mixed: dict) -> None:
    compared = 0
    for term, (value, of) in exact.items():
        assert torch.allclose(mixed[term][0].float(), value, rtol=1e-5, atol=1e-7), term
        for key, gradient in of.items():
            other = mixed[term][1][key]
            if gradient is None or not gradient.any():
                assert other is None or not other.any(), f"{term} by {key}"
                continue
            directions = [g.double().flatten() / g.double().norm() for g in (gradient, other)]
            cosine = directions[0] @ directions[1]
            assert cosine >= 0.999, f"{term} by {key}: {cosine}"
            compared += 1
    assert compared, "no term has a gradient"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("kind", IMAGES)
def test_the_similarity_stays_a_similarity_under_autocast(kind, border, device):
    a, b = (image.to(device) for image in crops(kind))
    picture = fused_of(a.cpu(), b.cpu()).to(device)
    for fused in (picture, picture.bfloat16(), a.clone()):
        with torch.autocast(device, torch.bfloat16):
            found = ssim_map(fused, a, border=border)
        assert found.dtype == torch.float32
        assert -1 - 1e-4 <= found.min() <= found.max() <= 1 + 1e-4
        assert torch.allclose(found, ssim_map(fused.float(), a, border=border), atol=1e-5)


@pytest.fixture
def _tf32_allowed():
    """A GPU may round the inputs of fp32 convolutions, as with `train.tf32: true`."""
    flags = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = flags


@pytest.mark.usefixtures("_tf32_allowed")
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("kind", IMAGES)
def test_tf32_leaves_the_losses_alone(kind, border, device):
    """Similarity and gradient strength, and what they pass back, are those of double precision."""
    a, b = (image.to(device) for image in crops(kind))
    found = {}
    for dtype in (torch.float64, torch.float32):
        fused = fused_of(a.cpu(), b.cpu()).to(device, dtype).requires_grad_()
        values = ssim_map(fused, a.to(dtype), border=border), sobel_magnitude(fused, border=border)
        found[dtype] = [*values, *(torch.autograd.grad(value.mean(), fused)[0] for value in values)]
    for exact, single in zip(*found.values(), strict=True):
        distance = (exact - single).norm() / exact.norm()
        # fp32 itself is 0.001 away on a dark scene of MSRS; inputs rounded to TF32 turn SSIM's gradient around
        assert distance < 1e-2, distance
