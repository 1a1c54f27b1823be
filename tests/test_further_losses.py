"""Loss terms beyond the papers': against the metrics that they follow, other libraries, and images made for them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage import data, filters
from skimage.metrics import structural_similarity

from mmfuse import methods
from mmfuse.errors import UserError
from mmfuse.metrics import resolve, score
from mmfuse.nn.further_losses import TERMS
from mmfuse.stages.train import check_parts
from mmfuse.training.checkpoints import build

SMALL = {
    "lkc_funet": {"width": 4, "channels": 4, "groups": 2, "kernels": [3, 3], "init_kernel": 3, "bottleneck_kernel": 3},
    "mma_unet": {"width": 4},
    "smfnet": {"dim": 4, "heads": 2},
}


@pytest.fixture(scope="module")
def images():
    """Two real images of 64 x 64 and their mean, (1, 1, 64, 64) float64 in [0, 1]."""
    a, b = (torch.from_numpy(image[100:164, 100:164] / 255)[None, None] for image in (data.camera(), data.coins()))
    return (a + b) / 2, a, b


def test_the_correlation_of_differences_is_the_metric(images):
    scd = float(score(*images, resolve("lkc_funet", ["SCD"]))["SCD"])
    assert float(TERMS["difference_correlation"](*images)) == pytest.approx(1 - scd / 2, abs=1e-6)


def framed(image):
    """Surround an image with 12 constant pixels, so that every way to extend it at its border gives the same."""
    return torch.nn.functional.pad(image, (12, 12, 12, 12), value=0.5)


def test_similarity_is_that_of_scikit_image(images):
    cut = [framed(image) for image in images]
    fused, a, b = (image[0, 0].numpy() for image in cut)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0, "full": True}
    expected = np.mean([structural_similarity(fused, x, **options)[1] for x in (a, b)])
    assert 1 - float(TERMS["source_similarity"](*cut)) == pytest.approx(expected, abs=1e-9)


def test_the_signed_gradient_takes_the_stronger_sources_with_its_sign(images):
    _, a, b = (framed(image) for image in images)
    # scikit-image divides Sobel's filters by four
    slopes = [4 * np.stack([filters.sobel_h(x), filters.sobel_v(x)]) for x in (a[0, 0].numpy(), b[0, 0].numpy())]
    stronger = np.where(np.abs(slopes[0]).sum(0) >= np.abs(slopes[1]).sum(0), slopes[0], slopes[1])
    flat = torch.full_like(a, 0.5)
    assert float(TERMS["signed_gradient"](flat, a, b)) == pytest.approx(np.abs(stronger).sum(0).mean(), rel=1e-9)
    assert float(TERMS["signed_gradient"](a, a, flat)) == 0
    turned = float(TERMS["signed_gradient"](1 - a, a, flat))
    assert turned == pytest.approx(2 * float(TERMS["signed_gradient"](flat, a, flat)), rel=1e-9)


def test_information_goes_with_the_metric(images):
    """More noise or blur keeps less of the sources, in the order that VIF has; raised contrast goes below zero."""
    mean, a, b = images
    noise = torch.from_numpy(np.random.default_rng(0).normal(size=a.shape))
    blurred = [torch.from_numpy(filters.gaussian(mean[0, 0].numpy(), sigma))[None, None] for sigma in (0.6, 1.2, 2.5)]
    noisy = [(mean + strength * noise).clamp(0, 1) for strength in (0.01, 0.05, 0.2)]
    candidates = [mean, *blurred, *noisy, torch.maximum(a, b), a]
    vif = [float(score(image, a, b, resolve("lkc_funet", ["VIF"]))["VIF"]) for image in candidates]
    loss = [float(TERMS["information"](image, a, b)) for image in candidates]
    for family in ([0, 1, 2, 3], [0, 4, 5, 6]):
        assert np.argsort([loss[k] for k in family]).tolist() == [0, 1, 2, 3]
        assert np.argsort([-vif[k] for k in family]).tolist() == [0, 1, 2, 3]
    assert np.corrcoef(vif, loss)[0, 1] < -0.9
    assert float(TERMS["information"](a, a, a)) == pytest.approx(0, abs=1e-4)
    assert float(TERMS["information"](0.5 + 1.2 * (a - 0.5), a, a)) < -0.02


def test_intensity_terms_are_zero_for_what_they_ask_for(images):
    mean, a, b = images
    assert float(TERMS["mean_intensity"](mean, a, b)) == 0
    assert float(TERMS["greater_intensity"](torch.maximum(a, b), a, b)) == 0
    assert float(TERMS["mean_intensity"](a, a, b)) == pytest.approx(float((a - b).abs().mean()) / 2)


def test_what_leaves_the_range_is_drawn_back(images):
    _, a, b = images
    assert float(TERMS["outside_range"](a, a, b)) == 0
    image = torch.tensor([[[[-0.5, 0.2], [1.0, 1.25]]]], requires_grad=True)
    loss = TERMS["outside_range"](image, image, image)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.75 / 4)
    assert image.grad is not None
    assert image.grad.flatten().tolist() == [-0.25, 0, 0, 0.25]


@pytest.mark.parametrize("name", sorted(TERMS))
def test_gradients_are_right_and_finite(name, images):
    fused, a, b = (image[..., :16, :16].clone() for image in images)
    fused = (fused + 0.01 * torch.rand(fused.shape, dtype=fused.dtype)).requires_grad_()  # away from kinks
    assert torch.autograd.gradcheck(lambda x: TERMS[name](x, a, b), [fused], eps=1e-7, atol=1e-4, rtol=1e-3)
    flat = torch.full((2, 1, 16, 16), 0.3, requires_grad=True)
    TERMS[name](flat, torch.zeros(2, 1, 16, 16), torch.zeros(2, 1, 16, 16)).backward()
    assert flat.grad is not None
    assert flat.grad.isfinite().all()


@pytest.mark.parametrize("method", sorted(SMALL))
def test_every_method_takes_them_where_it_fuses(method):
    network = build(method, SMALL[method]).train()
    rng = torch.Generator().manual_seed(0)
    a, b = (torch.rand(2, 1, 32, 32, generator=rng) for _ in "ab")
    for part in network.fused_parts:
        own = dict.fromkeys(network.loss_terms[part], 1.0)
        plain = network.eval().part_losses(part, a, b, own)
        every = network.part_losses(part, a, b, own | dict.fromkeys(TERMS, 0.5))
        assert set(every) == {*own, *TERMS}
        assert all(
            float(every[term].detach()) == pytest.approx(float(value), abs=1e-6) for term, value in plain.items()
        )
        sum(every.values()).backward()
    assert set(network.fused_parts) <= set(network.parts)


def test_terms_are_refused_where_nothing_is_fused():
    method = methods.load("mma_unet")(width=4)
    parts = {part: {"loss": dict.fromkeys(method.loss_terms[part], 1.0)} for part in ("vi_unet", "ir_unet", "fusion")}
    parts["fusion"]["loss"]["information"] = 0.5
    check_parts(method, {"parts": parts})
    parts["vi_unet"]["loss"]["information"] = 0.5
    with pytest.raises(UserError, match="vi_unet"):
        check_parts(method, {"parts": parts})
    del parts["vi_unet"]["loss"]["information"]
    parts["fusion"]["loss"]["informaton"] = 0.5
    with pytest.raises(UserError, match=r"fusion.*\n.*information"):
        check_parts(method, {"parts": parts})
