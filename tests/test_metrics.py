"""Metrics against hand computation, independent implementations and golden values; names and conventions."""

from __future__ import annotations

import dataclasses
import doctest
import functools
import hashlib
import importlib
import inspect
import itertools
import math
import pkgutil

import numpy as np
import pytest
import torch
from scipy import fft, ndimage

import mmfuse.metrics
from golden_triples import GOLDEN, golden_triples
from mmfuse.data.images import read_image
from mmfuse.data.pairs import read_triple
from mmfuse.errors import MmfuseError, UserError
from mmfuse.metrics import CONVENTIONS, Metric, MetricCard, conventions, definitions, plain_names, resolve, score
from mmfuse.metrics.sharing import shared, sharing
from plain_metrics import SLOW

NAMES = sorted(definitions())
# A metric that carries a plain name of its own is in no published convention: the examples in its docstring, worked
# out by hand, take the place of published values.
OWN = {name for name in NAMES if definitions()[name].card.name}
PUBLISHED = sorted(set(NAMES) - OWN)


def batch(*images: np.ndarray | list) -> torch.Tensor:
    """Grey levels 0..255, lists or arrays of two dimensions, as one batch (B, 1, H, W) in [0, 1]."""
    return torch.stack([torch.as_tensor(np.asarray(i), dtype=torch.float64)[None] / 255 for i in images])


def value(name, fused, a, b):
    """One definition for three images of grey levels."""
    return definitions()[name].function(batch(fused), batch(a), batch(b)).item()


def flat(level, size=48):
    return np.full((size, size), float(level))


def texture(seed, height=48, width=64):
    """A whole-level image with edges, flat and saturated parts, unlike in rows and columns."""
    random = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(random.normal(size=(height, width)), (1.0, 2.0))
    image = np.rint(np.clip(128 + 300 * smooth, 0, 255))
    image[:9, :13] = 0
    image[20:30, 20:40] = 255 * (seed % 2)
    return image


STRIPES = np.tile([0.0, 255.0], (48, 24))  # columns alternate
RAMP = np.tile(np.arange(48.0) * 3, (48, 1))  # three levels a column
HALVES = np.tile(np.repeat([40.0, 100.0], 24), (48, 1))  # a step of 60 levels

# ---------------------------------------------------------------------------------------------- hand-computed values

SAME = 0.9994 * 0.9879 / (1 + math.exp(-22 * 0.2))  # Qabf of equal images whose edges are all strong
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
CONSTANT_SSIM = {a: (2 * 100 * a + C1) / (100**2 + a**2 + C1) for a in (120, 90)}
# joint counts of (a, fused): (0,0) (0,1) (1,1) (1,1)
QUARTERS = ([[0, 1], [1, 1]], [[0, 0], [1, 1]])
QUARTERS_MI = 0.25 * math.log(0.25 / (0.5 * 0.25)) + 0.25 * math.log(0.25 / (0.5 * 0.75)) + 0.5 * math.log(4 / 3)
EPS = 2.0**-23  # of single precision
STEP_8 = np.tile(np.repeat([40.0, 48.0], 24), (48, 1))


def nabf_kept(strength, orientation):
    return math.sqrt(
        0.9999 / (1 + math.exp(-19 * (strength - 0.5))) * 0.9995 / (1 + math.exp(-22 * (orientation - 0.5)))
    )


def cosines(mean, number):
    """An image of 3x3 with two coefficients: `mean`, and half of it at one cell of the first column."""
    coefficients = np.zeros((3, 3))
    coefficients[0, 0], coefficients[number, 0] = mean, mean / 2
    return fft.idctn(coefficients, norm="ortho")


def bits(*shares):
    return -sum(share * math.log2(share) for share in shares)


# Two thirds in the first cell, one third in the second or in the third: correlated by 3/4, and by 1 at most.
COSINES_FMI = 2 - bits(11 / 18, 1 / 18, 1 / 18, 5 / 18) / bits(2 / 3, 1 / 3)


def seen(frequency):
    """The contrast sensitivity of Mannos and Sakrison, as coded for Qcv."""
    return 2.6 * (0.0192 + 0.144 * frequency) * math.exp(-((0.144 * frequency) ** 1.1))


HAND = [
    ("en", flat(7), flat(7), flat(7), 0.0),
    ("en", HALVES, flat(0), flat(0), 1.0),
    ("en", np.arange(256.0).reshape(16, 16), flat(0, 16), flat(0, 16), 8.0),
    ("en", [[76.6, 77.4], [75.5, 76.5]], flat(0, 2), flat(0, 2), 1.0),  # rounds to 77, 77, 76, 76: half to even
    ("en", [[0, 1], [1, 1]], flat(0, 2), flat(0, 2), 0.25 * 2 + 0.75 * math.log2(4 / 3)),
    ("sd", flat(200), flat(7), flat(7), 0.0),
    ("sd", HALVES, flat(7), flat(7), 30.0),
    ("sf_mean", flat(9), flat(0), flat(0), 0.0),
    ("sf_mean", STRIPES, flat(0), flat(0), 255.0),
    ("sf_mean", RAMP, flat(0), flat(0), 3.0),
    ("sf_vifb", STRIPES, flat(0), flat(0), 255 * math.sqrt(47 / 48)),
    ("sf_vifb", [[0, 3], [0, 3]], flat(0, 2), flat(0, 2), math.sqrt(18 / 4)),
    ("ag_mean", RAMP, flat(0), flat(0), 3 / math.sqrt(2)),
    ("ag_mean", STRIPES, flat(0), flat(0), 255 / math.sqrt(2) * 2 / 48),  # only the one-sided ends see a difference
    ("ag_matlab", RAMP, flat(0), flat(0), 3 / math.sqrt(2) * (48 / 47) ** 2),
    ("ag_matlab", [[0, 10], [0, 10]], flat(0, 2), flat(0, 2), 40 / math.sqrt(2)),
    ("ag_no_half", RAMP, flat(0), flat(0), 3.0),
    ("ag_no_half", [[0, 3], [4, 7]], flat(0, 2), flat(0, 2), 5.0),
    ("mi_nats_sum", HALVES, HALVES, HALVES, 2 * math.log(2)),
    ("mi_nats_sum", HALVES, HALVES, flat(1), math.log(2)),
    ("mi_nats_sum", HALVES + 0.4 * RAMP % 1 - 0.4, HALVES, flat(1), math.log(2)),
    ("mi_nats_sum", HALVES, HALVES.T, HALVES.T, 0.0),
    ("mi_nats_sum", *QUARTERS, QUARTERS[1], 2 * QUARTERS_MI),
    ("mi_bits_sum", HALVES, HALVES, 255 - HALVES, 2.0),
    ("mi_bits_sum", *QUARTERS, QUARTERS[1], 2 * QUARTERS_MI / math.log(2)),
    ("cc_mean", [[0, 1], [2, 3]], [[1, 3], [2, 4]], [[1, 3], [2, 4]], 0.8),
    ("cc_mean", [[0, 1], [2, 3]], [[1, 3], [2, 4]], flat(5, 2), 0.4),
    ("cc_mean", HALVES, 255 - HALVES, 255 - HALVES, -1.0),
    ("scd", HALVES + HALVES.T, HALVES, HALVES.T, 2.0),  # what a adds is a, what b adds is b
    ("scd", HALVES, HALVES, HALVES, 0.0),  # differences are zero
    ("scd", [[0, 1], [2, 3]], [[1, 3], [2, 4]], flat(5, 2), 0.8),
    ("psnr_255", flat(100), flat(90), flat(120), 10 * math.log10(255**2 / 250)),
    ("psnr_255", HALVES, HALVES, HALVES, 10 * math.log10(255**2 / 1e-10)),
    ("psnr_peak_fused", flat(100), flat(90), flat(120), 10 * math.log10(100**2 / 250)),
    ("psnr_peak_fused", HALVES, HALVES, HALVES, 10 * math.log10(100**2 / 1e-10)),
    ("psnr_peak_fused", flat(0), flat(30), flat(30), -10 * math.log10(900)),
    ("ssim_uniform_sum_l255", flat(100), flat(120), flat(90), CONSTANT_SSIM[120] + CONSTANT_SSIM[90]),
    ("ssim_uniform_sum_l255", HALVES, HALVES, HALVES, 2.0),
    ("ssim_uniform_mean_l255", flat(100), flat(120), flat(90), (CONSTANT_SSIM[120] + CONSTANT_SSIM[90]) / 2),
    ("ssim_uniform_sum_l2", flat(100), flat(0), flat(100), 4e-4 / (1e4 + 4e-4) + 1),
    ("ssim_gauss_sum_l255", flat(100), flat(120), flat(90), CONSTANT_SSIM[120] + CONSTANT_SSIM[90]),
    ("ssim_gauss_mean_l255", flat(100), flat(120), flat(120), CONSTANT_SSIM[120]),
    ("vif_sum", HALVES, HALVES, HALVES, 2.0),
    ("vif_sum", flat(3), HALVES, HALVES, 0.0),
    ("vif_sum", HALVES, flat(3), HALVES, 2.0),  # a constant source has nothing to lose: 1
    ("qabf", HALVES, HALVES, HALVES, SAME),
    ("qabf", HALVES, flat(0), flat(0), 0.0),
    ("en_ivif_zoo", flat(7), flat(7), flat(7), -math.log2(1 + 1e-7)),
    ("en_ivif_zoo", HALVES, flat(0), flat(0), -math.log2(0.5 + 1e-7)),
    ("sf_mean_01", STRIPES, flat(0), flat(0), 1.0),
    ("ei_vifb", RAMP, flat(0), flat(0), (46 * 24 + 2 * 12) / 48),  # half as steep at both ends
    ("ei_vifb", flat(9), flat(0), flat(0), 0.0),
    ("ei_ivif_zoo", flat(10, 3), flat(0, 3), flat(0, 3), (4 * 40 + 4 * 30 * math.sqrt(2)) / 9),
    ("mi_vifb", HALVES, HALVES, HALVES, 2 * math.log(2)),
    ("mi_vifb", [[8, 9], [9, 9]], QUARTERS[1], QUARTERS[1], 2 * QUARTERS_MI),
    ("mi_tang", HALVES, HALVES, 255 - HALVES, 2.0),
    ("mi_tang", [[254, 255]], [[254, 255]], [[254, 255]], 4.0),  # one bit each, and none together
    ("nmi_ivif_zoo", HALVES, HALVES, 255 - HALVES, 2.0),
    ("nmi_ivif_zoo", *QUARTERS, QUARTERS[1], 2 * QUARTERS_MI / math.log(2)),
    ("nmi_ivif_zoo", HALVES, flat(1), flat(2), 0.0),
    ("ce_vifb", *QUARTERS, QUARTERS[1], 0.5 * math.log2(0.5 / 0.25) + 0.5 * math.log2(0.5 / 0.75)),
    ("ce_vifb", HALVES, flat(1), flat(2), 0.0),  # no common level
    ("ce_ivif_zoo", flat(100), flat(0), flat(0), -0.5 * (math.log(EPS) + math.log(1 - EPS))),
    ("ce_ivif_zoo", flat(100), flat(200), flat(50), -EPS * math.log(EPS) - (1 - EPS) * math.log(1 - EPS)),
    ("mse_255", flat(100), flat(90), flat(120), 250.0),
    ("mse_255", HALVES, HALVES, HALVES, 0.0),
    ("mse_01", flat(100), flat(90), flat(120), 250 / 255**2),
    ("rmse_vifb", flat(100), flat(90), flat(120), (10 + 20) / 2 / 48),
    ("psnr_vifb", flat(100), flat(90), flat(120), 20 * math.log10(255 / math.sqrt(15 / 48))),
    ("psnr_vifb", HALVES, HALVES, HALVES, 10 * math.log10(255**2 / 1e-10)),
    ("psnr_ivif_zoo", flat(100), flat(90), flat(120), 20 * math.log10(255 / math.sqrt(250 / 255**2))),
    ("ssim_gauss_sum_l1", flat(100), flat(0), flat(100), 1e-4 / (1e4 + 1e-4) + 1),
    ("ssim_tang", flat(100), flat(0), flat(100), (1e-4 / (1e4 + 1e-4) + 1) / 2),
    ("ms_ssim_sum_l255", texture(1, 176, 176), texture(1, 176, 176), texture(1, 176, 176), 2.0),
    ("ms_ssim_sum_l255", flat(100, 176), flat(120, 176), flat(90, 176), sum(x**0.1333 for x in CONSTANT_SSIM.values())),
    ("ms_ssim_ivif_zoo", flat(100, 176), flat(0, 176), flat(100, 176), (1e-4 / (1e4 + 1e-4)) ** 0.1333 + 1),
    ("ms_ssim_smfnet", flat(100, 96), flat(120, 96), flat(7, 96), CONSTANT_SSIM[120] ** 0.1333),
    ("ms_ssim_smfnet", 255 - texture(1, 96, 96), texture(1, 96, 96), flat(7, 96), 0.0),  # opposite: negative contrast
    ("vif_ivif_zoo", HALVES, HALVES, HALVES, 2.0),
    ("vif_ivif_zoo", flat(0), HALVES, HALVES, 0.0),
    ("vif_ivif_zoo", HALVES, flat(0), HALVES, 2.0),  # a black source has nothing to lose: 1
    ("viff_han", HALVES, HALVES, HALVES, 1.0),
    ("viff_han", HALVES, flat(3), flat(5), 1.0),
    ("nabf_tang", HALVES, HALVES, HALVES, 0.0),
    ("nabf_tang", HALVES, flat(3), flat(5), 2 / 48 * (1 - nabf_kept(0, 0))),
    ("nabf_tang", HALVES, STEP_8, STEP_8, (2 * 8 * (1 - nabf_kept(4 / 30, 1))) / (2 * 8 + 46 * 0.001)),
    ("nabf_ivif_zoo", HALVES, STEP_8, STEP_8, 1 - nabf_kept(4 / 30, 1)),
    ("nabf_ivif_zoo", HALVES, flat(3), flat(5), 0.0),
    ("nabf_smfnet", HALVES, flat(3), flat(5), 2 / 48 * (1 - nabf_kept(0, 1))),
    ("nabf_smfnet", HALVES, HALVES, flat(5), 0.0),
    ("qcb_liu", HALVES, HALVES, HALVES, 1.0),
    ("qcb_liu", flat(1), flat(2), flat(3), 1.0),
    ("qcb_ivif_zoo", flat(1), flat(2), flat(3), 1.0),
    ("qcv", HALVES, HALVES, HALVES, 0.0),
    # a mean of 127.5 and the highest frequency, 24 cycles over 48 columns; both sources are black
    ("qcv", STRIPES, flat(1), flat(2), 127.5**2 * (seen(0) ** 2 + seen(24 * 2 / 8) ** 2)),
    ("fmi_pixel", flat(1), flat(2), flat(3), 1.0),
    ("fmi_pixel", HALVES, HALVES, flat(2), (1 + 43 / 46) / 2),  # one column of edges is in 3 of 46 columns of windows
    ("fmi_pixel", 255 - HALVES.T, HALVES, HALVES.T, (1 + 43**2 / 46**2) / 2),  # a row tells nothing of a column
    ("fmi_dct", texture(1), texture(1), texture(1), 1.0),
    ("fmi_dct", flat(100, 3), flat(100, 3), flat(50, 3), 0.5),
    ("fmi_dct", cosines(200, 1), cosines(200, 2), cosines(200, 2), COSINES_FMI),
    ("fmi_dct", cosines(100, 1), cosines(200, 2), cosines(200, 1), (COSINES_FMI + 1) / 2),
    ("fmi_wavelet", texture(1), texture(1), texture(1), 1.0),
    # 74 coefficients of each kind: three quarters are constant in themselves and differ, one is 0 in all images
    ("fmi_wavelet", flat(100), flat(50), flat(200), 1 - 3 * 72**2 / 146**2),
    ("ms_ssim_mef", HALVES, HALVES, HALVES, 1.0),
    ("ms_ssim_mef", HALVES, flat(7), HALVES, 1.0),
    ("ms_ssim_mef", HALVES - 20, HALVES / 2, HALVES, 1.0),  # the mean does not count, the larger contrast does
    ("ms_ssim_mef", flat(1), flat(2), flat(3), 1.0),
]


def examples(function):
    """The examples in a function's docstring; they see `levels`, which makes a batch of grey levels, and `torch`."""
    names = {"levels": batch, "torch": torch, function.__name__: function}
    return [test for test in doctest.DocTestFinder().find(function, globs=names) if test.examples]


def unpublished_metric_is_held(function):
    """Fail unless all docstring examples of a metric without published values hold, and there are at least two."""
    found = examples(function)
    checked = [example for test in found for example in test.examples if example.want]
    assert len(checked) >= 2, f"{function.__name__}: at least two examples with their values in the docstring"
    report: list[str] = []
    for test in found:
        doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=report.append)
    assert not report, "".join(report)


def test_every_variant_has_a_hand_computed_value():
    assert {case[0] for case in HAND} == set(PUBLISHED)


def test_examples_of_metrics_without_a_published_value():
    for name in sorted(OWN):
        unpublished_metric_is_held(definitions()[name].function)


def test_a_metric_of_ones_own_is_held_by_its_examples():
    def mean_level(fused, *_):
        return fused.mean(dim=(1, 2, 3)) * 255

    with pytest.raises(AssertionError, match="at least two examples"):
        unpublished_metric_is_held(mean_level)
    right = ">>> mean_level(levels([[1, 3]]), 0, 0).item()\n2.0\n>>> round(mean_level(levels([[5]]), 0, 0).item())\n5\n"
    mean_level.__doc__ = right
    unpublished_metric_is_held(mean_level)
    mean_level.__doc__ = right.replace("2.0", "2.5")
    with pytest.raises(AssertionError, match=r"Expected:\s+2\.5\s+Got:\s+2\.0"):
        unpublished_metric_is_held(mean_level)


@pytest.mark.parametrize(("name", "fused", "a", "b", "expected"), HAND, ids=[f"{c[0]}-{i}" for i, c in enumerate(HAND)])
def test_hand_computed(name, fused, a, b, expected):
    assert value(name, fused, a, b) == pytest.approx(expected, rel=2e-9, abs=1e-9)


def test_a_black_fused_image_keeps_almost_no_edges():
    # the sigmoid of Qabf is not quite 0 at no strength at all
    assert 0 < value("qabf", flat(0), HALVES, HALVES) < 0.9994 / (1 + math.exp(7.5))


# ------------------------------------------------------------------------------------------ independent computation


@pytest.mark.parametrize("name", PUBLISHED)
def test_independent_implementation(name):
    for shape in ((176, 192), (163, 181)) if large(name) else ((48, 64), (53, 47)):
        a, b = texture(1, *shape), texture(2, *shape)
        fused = np.minimum(np.rint(0.5 * a + 0.6 * b), 240)
        assert value(name, fused, a, b) == pytest.approx(SLOW[name](fused, a, b), rel=1e-9)


# -------------------------------------------------------------------------------------- properties of all definitions


@functools.cache
def large(name):
    """Whether a definition refuses images of 47x48, as those do that halve them several times."""
    try:
        definitions()[name].function(*[torch.zeros(1, 1, 47, 48)] * 3)
    except UserError:
        return True
    return False


@pytest.fixture
def images(request):
    """Three different triples as one batch each: fused, a, b; large enough for the definition called `name`, if any."""
    name = getattr(getattr(request.node, "callspec", None), "params", {}).get("name")
    return triples(*((176, 192) if name and large(name) else (48, 64)))


@functools.cache
def triples(height, width):
    a, b = ([texture(s, height, width) for s in seeds] for seeds in ((1, 3, 5), (2, 4, 6)))
    fused = [np.rint(np.clip(w * x + (1.2 - w) * y, 0, 250)) for w, x, y in zip((0.5, 0.3, 0.9), a, b, strict=True)]
    return batch(*fused), batch(*a), batch(*b)


@pytest.mark.parametrize("name", NAMES)
def test_batch_equals_single(name, images):
    function = definitions()[name].function
    together = function(*images)
    assert together.shape == (3,)
    assert together.dtype == torch.float64
    for i in range(3):
        torch.testing.assert_close(together[i : i + 1], function(*(x[i : i + 1] for x in images)), rtol=1e-13, atol=0)
    assert len(set(together.tolist())) == 3


@pytest.mark.parametrize("name", NAMES)
def test_number_format_does_not_matter(name, images):
    function = definitions()[name].function
    assert torch.equal(function(*images), function(*(x.float() for x in images)))
    assert torch.equal(function(*images), function(*(x.half() for x in images)))


@pytest.mark.parametrize("name", NAMES)
def test_order_of_sources_matters_as_the_card_says(name, images):
    metric = definitions()[name]
    step = np.kron(HALVES, np.ones((4, 4)))
    agree = set()
    for fused, a, b in (images, tuple(map(batch, (texture(1, 192, 192), step, step.T)))):  # the second has ties
        there, swapped = metric.function(fused, a, b), metric.function(fused, b, a)
        agree.add(torch.allclose(there, swapped, rtol=1e-13, atol=0))
    assert (False in agree) is metric.card.ordered


@pytest.mark.parametrize("name", NAMES)
def test_mirroring_matters_as_the_card_says(name, images):
    metric = definitions()[name]
    agree = set()
    for some in (images, [batch(texture(seed, *images[0].shape[-2:])) for seed in (10, 20, 30)]):
        mirrored = (x.flip(-1).flip(-2).transpose(-1, -2) for x in some)
        agree.add(torch.allclose(metric.function(*some), metric.function(*mirrored), rtol=1e-11, atol=0))
    assert (False in agree) is metric.card.directed


@pytest.mark.parametrize("name", ["en", "en_ivif_zoo", "mi_nats_sum", "mi_bits_sum", "nmi_ivif_zoo", "ce_vifb"])
def test_grey_levels_are_only_labels_to_histograms(name, images):
    shuffled = torch.from_numpy(np.random.default_rng(0).permutation(256)).double() / 255
    relabelled = (shuffled[(x * 255).round().long()] for x in images)
    function = definitions()[name].function
    torch.testing.assert_close(function(*images), function(*relabelled), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "name",
    [
        *("sd", "sf_mean", "sf_vifb", "sf_mean_01", "ag_mean", "ag_matlab", "ag_no_half", "ei_vifb", "cc_mean"),
        *("psnr_255", "psnr_vifb", "psnr_ivif_zoo", "mse_255", "mse_01", "rmse_vifb"),
    ],
)
def test_common_brightness_does_not_matter(name, images):
    function = definitions()[name].function
    darker = [x * (200 / 255) for x in images]
    brighter = [x + 55 / 255 for x in darker]
    torch.testing.assert_close(function(*darker), function(*brighter), rtol=1e-11, atol=0)


def test_more_contrast_in_the_fused_image_raises_vif(images):
    _, a, _ = images
    vif = definitions()["vif_sum"].function
    assert (vif(0.5 * a, a, a) < 2).all()
    assert (vif(a, 0.5 * a, 0.5 * a) > 2).all()


@pytest.mark.parametrize("name", NAMES)
def test_degenerate_images_give_numbers_in_range(name):
    """All combinations of black, white, a grey between two levels, a step, and a texture; NaN would fail too."""
    grow = 4 if large(name) else 1
    kinds = [np.kron(x, np.ones((grow, grow))) for x in (flat(0), flat(255), flat(76.4), HALVES, texture(1, 48, 48))]
    function = definitions()[name].function
    values = torch.cat([function(batch(x), batch(y), batch(z)) for x in kinds for y in kinds for z in kinds])
    low, high = definitions()[name].card.range
    assert ((values >= low - 1e-9) & (values <= high + 1e-9)).all()


@pytest.mark.parametrize("name", NAMES)
def test_too_small_names_the_smallest_legal_size(name):
    function = definitions()[name].function
    for size in range(1, 200):
        image = torch.rand(2, 1, size, size + 1, dtype=torch.float64)
        try:
            assert function(image, image.flip(0), image.flip(2)).isfinite().all()
            break
        except UserError as error:
            refused = error
    if size > 1:
        assert f"{size}x{size}" in str(refused)
        with pytest.raises(UserError, match=f"{size}x{size}"):
            function(*[torch.rand(1, 1, 200, size - 1)] * 3)
    assert function(*[torch.zeros(1, 1, size, size)] * 3).isfinite().all()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x: x.expand(-1, 3, -1, -1), "grey"),
        (lambda x: x[0], r"\(B, 1, H, W\)"),
        (lambda x: (x * 255).to(torch.uint8), "divide by 255"),
        (lambda x: x * 255, r"values in \[0, 1\]"),
        (lambda x: x - 0.5, r"values in \[0, 1\]"),
        (lambda x: torch.where(x > 0.9, torch.nan, x), "nan"),
        (lambda x: x[..., :-1], "differ in size|B, 1, H, W"),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_illegal_input_is_refused(name, spoil, message, images):
    function = definitions()[name].function
    with pytest.raises(UserError, match=message):
        function(images[0], images[1], spoil(images[2]))
    with pytest.raises(UserError):
        function(spoil(images[0]), images[1], images[2])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", NAMES)
def test_gpu_agrees(name, images):
    function = definitions()[name].function
    on_gpu = function(*(x.cuda() for x in images))
    assert on_gpu.is_cuda
    torch.testing.assert_close(on_gpu.cpu(), function(*images), rtol=1e-9, atol=0)


# ------------------------------------------------------------------------------------------- names and conventions


def test_the_descriptions_read_from_the_text_are_those_of_the_functions():
    expected = {
        name: (one.function.__doc__.partition("\n")[0], one.card.used_by) for name, one in definitions().items()
    }
    assert mmfuse.metrics.descriptions() == expected
    assert dict(mmfuse.metrics._described()) == expected


def test_a_card_that_is_not_written_out_is_described_by_the_function_itself(monkeypatch):
    def unreadable():
        raise ValueError("malformed node")

    expected = mmfuse.metrics.descriptions()
    monkeypatch.setattr(mmfuse.metrics, "_described", unreadable)
    mmfuse.metrics.descriptions.cache_clear()
    assert mmfuse.metrics.descriptions() == expected


def test_cards_are_complete_and_names_unique():
    owners: dict[str, set[str]] = {}
    for module in pkgutil.iter_modules(mmfuse.metrics.__path__):
        for name, member in vars(importlib.import_module(f"mmfuse.metrics.{module.name}")).items():
            if inspect.isfunction(member) and hasattr(member, "card"):
                owners.setdefault(name, set()).add(member.__module__)
    assert {name for name, modules in owners.items() if len(modules) > 1} == set()
    assert set(owners) == set(NAMES)
    for name, found in definitions().items():
        assert isinstance(found, Metric)
        assert isinstance(found.card, MetricCard)
        assert found.name == found.function.__name__ == name
        assert found.card.better in {"higher", "lower"}
        assert found.card.range[0] < found.card.range[1]
        assert found.card.source
        assert found.card.used_by
        for part in ("Shape:", "Range:", "Raises:"):
            assert part in found.function.__doc__, name


def test_conventions_name_existing_variants_and_the_same_quantities():
    plain = {"EN", "SD", "SF", "AG", "MI", "SCD", "SSIM", "VIF", "Qabf", "PSNR", "CC"}
    for convention in ("lkc_funet", "cddfuse", "smfnet"):
        assert plain <= set(CONVENTIONS[convention]), convention
    for convention, meaning in CONVENTIONS.items():
        assert f"`{convention}`" in conventions.__doc__, "what the convention follows"
        assert set(meaning.values()) <= set(PUBLISHED), convention
        for name, definition in meaning.items():
            assert (definition + "_").startswith(name.lower().replace("-", "_") + "_"), (convention, name)


def test_resolve():
    found = resolve("lkc_funet", ["SSIM", "EN"])
    assert list(found) == ["SSIM", "EN"]
    assert found["SSIM"] is definitions()["ssim_gauss_mean_l255"]
    assert resolve("cddfuse", ["SF"])["SF"].name == "sf_mean"
    with pytest.raises(UserError, match="did you mean 'Qabf'"):
        resolve("lkc_funet", ["EN", "QABF"])
    with pytest.raises(UserError, match="did you mean 'SSIM'"):
        resolve("lkc_funet", ["SIM"])
    with pytest.raises(UserError, match="did you mean 'cddfuse'"):
        resolve("cdd_fuse", ["EN"])


def test_a_metric_brings_its_own_plain_name(monkeypatch):
    own = Metric("mae_mean", lambda fused, *_: fused, dataclasses.replace(definitions()["en"].card, name="MAE"))
    shadowed = Metric("en_own", lambda fused, *_: fused, dataclasses.replace(definitions()["en"].card, name="EN"))
    more = definitions() | {"mae_mean": own, "en_own": shadowed}
    monkeypatch.setattr(mmfuse.metrics, "definitions", lambda: more)
    for convention, meaning in CONVENTIONS.items():
        assert list(plain_names(convention))[: len(meaning)] == list(meaning)
        assert resolve(convention, ["MAE", next(iter(meaning))])["MAE"] is own
    assert plain_names("lkc_funet")["EN"] == "en", "a published formula comes first"
    assert plain_names("mma_unet")["EN"] == "en_own"
    assert list(resolve("lkc_funet", ["MAE", "EN"], ["cddfuse"])) == ["MAE", "EN", "EN.cddfuse"]
    with pytest.raises(UserError, match="did you mean 'MAE'"):
        resolve("lkc_funet", ["MA"])


def test_resolve_a_metric_that_only_another_convention_has():
    found = resolve("lkc_funet", ["EN", "Qcb.mma_unet", "SSIM", "SSIM.cddfuse"], ["mma_unet"])
    assert {name: metric.name for name, metric in found.items()} == {
        "EN": "en", "SSIM": "ssim_gauss_mean_l255", "SSIM.mma_unet": "ssim_gauss_mean_l255", "Qcb.mma_unet": "qcb_liu",
        "SSIM.cddfuse": "ssim_uniform_sum_l2",
    }  # fmt: skip
    assert list(found)[:2] == ["EN", "SSIM"], "the main convention comes first"
    with pytest.raises(UserError, match=r"'Qcb'(.|\n)*add the convention: Qcb.mma_unet, Qcb.vifb"):
        resolve("lkc_funet", ["EN", "Qcb"])
    with pytest.raises(UserError, match=r"'Qc.mma_unet'(.|\n)*did you mean 'Qcb.mma_unet'"):
        resolve("lkc_funet", ["EN", "Qc.mma_unet"])
    with pytest.raises(UserError, match=r"Unknown convention: 'mma_une'(.|\n)*did you mean 'mma_unet'"):
        resolve("lkc_funet", ["EN", "Qcb.mma_une"])
    with pytest.raises(UserError, match=r"EN\.lkc_funet belongs to the main convention"):
        resolve("lkc_funet", ["EN", "EN.lkc_funet"])
    with pytest.raises(UserError, match="a plain name such as EN"):
        resolve("lkc_funet", ["Qcb.mma_unet"])


def test_resolve_with_conventions_beside():
    found = resolve("lkc_funet", ["SSIM", "EN", "SF"], ["cddfuse", "mma_unet"])
    assert list(found) == ["SSIM", "EN", "SF", "SSIM.cddfuse", "EN.cddfuse", "SF.cddfuse", "SSIM.mma_unet"]
    assert found["SSIM.cddfuse"].name == "ssim_uniform_sum_l2"
    assert found["SSIM.mma_unet"] is found["SSIM"]
    assert not any("." in name for name in (*CONVENTIONS, *itertools.chain(*CONVENTIONS.values())))
    with pytest.raises(UserError, match="did you mean 'cddfuse'"):
        resolve("lkc_funet", ["EN"], ["cdd_fuse"])
    with pytest.raises(UserError, match="the same convention"):
        resolve("lkc_funet", ["EN"], ["lkc_funet"])
    with pytest.raises(UserError, match="mma_unet has SSIM"):
        resolve("lkc_funet", ["EN"], ["mma_unet"])


def test_a_variant_under_two_names_is_computed_once(images):
    calls = []

    def counted(fused, a, b):
        calls.append(fused)
        return definitions()["en"].function(fused, a, b)

    metric = Metric("en", counted, definitions()["en"].card)
    values = score(*images, {"EN": metric, "EN.cddfuse": metric})
    assert len(calls) == 1
    assert torch.equal(values["EN"], values["EN.cddfuse"])


def test_sharing_changes_no_digit(images):
    halved = {name for name in NAMES if large(name)}
    for some, names in ((images, set(NAMES) - halved), (triples(176, 192), halved)):
        together = score(*some, {name: definitions()[name] for name in sorted(names)})
        for name, values in together.items():
            assert torch.equal(values, definitions()[name].function(*some)), name


def test_shared_results_are_kept_inside_the_block_only():
    calls = []

    @shared
    def double(image, times):
        calls.append(times)
        return image * times

    image = torch.ones(2)
    double(image, 2), double(image, 2)
    assert calls == [2, 2]
    with sharing():
        assert double(image, 2) is double(image, 2)
        assert double(image.clone(), 2) is not double(image, 2)
        assert calls == [2, 2, 2, 2]
        for times in range(100):
            double(image, times)
        calls.clear()
        double(image, 99), double(image, 0)
        assert calls == [0]  # the oldest are forgotten
    double(image, 99)
    assert calls == [0, 99]


def test_score_keys_and_errors(images):
    metrics = resolve("lkc_funet", CONVENTIONS["lkc_funet"])
    values = score(*images, metrics)
    assert list(values) == list(CONVENTIONS["lkc_funet"])
    assert torch.equal(values["AG"], definitions()["ag_matlab"].function(*images))
    with pytest.raises(UserError, match=r"VIF: .*small"):
        score(*(x[..., :20, :] for x in images), metrics)
    broken = Metric("broken", lambda fused, *_: fused.mean((1, 2, 3)) / 0, metrics["EN"].card)
    with pytest.raises(MmfuseError, match="broken"):
        score(*images, {"X": broken})


# ------------------------------------------------------------------------------------------------------ golden values

# definition -> keys in the group derived_f64, added up (and halved for the mean of two)
GOLDEN_KEYS = {
    "en": ["EN"],
    "sd": ["SD"],
    "sf_mean": ["SF"],
    "sf_vifb": ["SF_div_MN"],
    "ag_mean": ["AG_mean"],
    "ag_matlab": ["AG_div_M1N1"],
    "ag_no_half": ["AG_no_half"],
    "mi_nats_sum": ["MI_nats"],
    "mi_bits_sum": ["MI_bits"],
    "cc_mean": ["CC"],
    "scd": ["SCD"],
    "psnr_255": ["PSNR_255"],
    "psnr_peak_fused": ["PSNR_maxF"],
    "ssim_uniform_sum_l255": ["SSIM_uni7_L255_A", "SSIM_uni7_L255_B"],
    "ssim_uniform_mean_l255": ["SSIM_uni7_L255_A", "SSIM_uni7_L255_B"],
    "ssim_uniform_sum_l2": ["SSIM_uni7_L2_A", "SSIM_uni7_L2_B"],
    "ssim_gauss_sum_l255": ["SSIM_gauss11valid_L255_A", "SSIM_gauss11valid_L255_B"],
    "ssim_gauss_mean_l255": ["SSIM_gauss11valid_L255_A", "SSIM_gauss11valid_L255_B"],
    "vif_sum": ["VIFp_sum"],
    "qabf": ["Qabf"],
    "en_ivif_zoo": ["ivif_zoo.EN"],
    "ei_vifb": ["EI_replicate"],
    "ei_ivif_zoo": ["ivif_zoo.EI"],
    "sf_mean_01": ["SF"],
    "mi_vifb": ["MI_stretch_nats"],
    "mi_tang": ["MI_uint8sat_bits"],
    "nmi_ivif_zoo": ["ivif_zoo.NMI"],
    "ce_vifb": ["CE_vifb"],
    "ce_ivif_zoo": ["ivif_zoo.CE"],
    "mse_255": ["MSE_255"],
    "mse_01": ["MSE_01"],
    "rmse_vifb": ["RMSE_vifb"],
    "psnr_vifb": ["PSNR_vifb"],
    "psnr_ivif_zoo": ["PSNR_01_peak255"],
    "ssim_gauss_sum_l1": ["SSIM_gauss11valid_L1_A", "SSIM_gauss11valid_L1_B"],
    "ssim_tang": ["SSIM_gauss11replicate_L1_A", "SSIM_gauss11replicate_L1_B"],
    "ms_ssim_sum_l255": ["MSSSIM_L255_A", "MSSSIM_L255_B"],
    "ms_ssim_ivif_zoo": ["ivif_zoo.MS_SSIM"],
    "ms_ssim_smfnet": ["MSSSIM_smf"],
    "vif_ivif_zoo": ["ivif_zoo.VIF"],
    "viff_han": ["VIFF_han"],
    "nabf_tang": ["Nabf_tang"],
    "nabf_ivif_zoo": ["Nabf_wmin0"],
    "nabf_smfnet": ["Nabf_smf"],
    "qcb_liu": ["Qcb_liu"],
    "qcb_ivif_zoo": ["Qcb_ivif"],
    "qcv": ["Qcv_liu_alpha5"],
}
# without a published value: Tang's table does not have them, and they need MATLAB
UNPUBLISHED = {"fmi_pixel", "fmi_dct", "fmi_wavelet", "ms_ssim_mef"}
GOLDEN_DIVISOR = {"ssim_uniform_mean_l255": 2, "ssim_gauss_mean_l255": 2, "ssim_tang": 2, "sf_mean_01": 255}
# Rounding of variances that are nearly zero: with C2 = 0.0036 (L = 2), and at VIF's threshold of 1e-10 in areas of a
# constant grey other than black, where the evaluators' own float64 versions differ by 6e-10.
# Everything of IVIF_ZOO is in single precision and of another grey (a few pixels of one triple); its MS-SSIM has
# C2 = 0.0009.
GOLDEN_TOLERANCE = {
    "ssim_uniform_sum_l2": 5e-10,
    "vif_sum": 1e-9,
    "ssim_gauss_sum_l1": 2e-12,
    "ssim_tang": 2e-12,
    "en_ivif_zoo": 2e-6,
    "ei_ivif_zoo": 3e-6,
    "nmi_ivif_zoo": 2e-5,
    "ce_ivif_zoo": 3e-4,
    "ms_ssim_ivif_zoo": 5e-3,
    "vif_ivif_zoo": 1e-4,
}
# Large areas without any contrast: every implementation of Qcb measures its own rounding errors there.
MEDICAL = {"lkc_ct14", "lkc_pet13", "lkc_spect02"}


@pytest.fixture(scope="module")
def golden():
    """Golden triples, with our value of every definition."""
    triples = golden_triples()
    for triple in triples:
        files = (GOLDEN / triple["files"][role]["file"] for role in ("fused", "a", "b"))
        images = [image[None] for image in read_triple(*files)]
        triple["ours"] = {name: value.item() for name, value in score(*images, definitions()).items()}
        triple["pixels"] = dict(zip(("fused", "a", "b"), images, strict=True))
    return triples


def test_golden_grey(golden):
    for triple in golden:
        for role, image in triple["pixels"].items():
            pixels = (image * 255).round().to(torch.uint8).numpy()
            digest = hashlib.sha256(pixels.tobytes()).hexdigest()
            assert digest == triple["grey"][role]["sha256_uint8_rowmajor"], (triple["name"], role)


def test_every_variant_has_a_golden_value_or_none_is_published():
    assert set(GOLDEN_KEYS) | UNPUBLISHED == set(PUBLISHED)
    assert not set(GOLDEN_KEYS) & UNPUBLISHED


@pytest.mark.parametrize("name", sorted(UNPUBLISHED))
def test_real_images_against_the_second_implementation(name, golden):
    for triple in golden:
        fused, a, b = (triple["pixels"][role][..., 100:152, 90:138] for role in ("fused", "a", "b"))
        expected = SLOW[name](*(image[0, 0].numpy() * 255 for image in (fused, a, b)))
        assert definitions()[name].function(fused, a, b).item() == pytest.approx(expected, rel=1e-9), triple["name"]


@pytest.mark.parametrize("name", sorted(GOLDEN_KEYS))
def test_golden_value(name, golden):
    assert len(golden) >= 11
    for triple in golden:
        if name.startswith("qcb") and triple["name"] in MEDICAL:
            continue
        expected = [golden_value(triple, key) for key in GOLDEN_KEYS[name]]
        if None in expected:  # no number there, and 0 here
            assert triple["ours"][name] == 0, triple["name"]
            continue
        expected = sum(expected) / GOLDEN_DIVISOR.get(name, 1)
        tolerance = GOLDEN_TOLERANCE.get(name, 1e-13)
        assert triple["ours"][name] == pytest.approx(expected, rel=tolerance), triple["name"]


def golden_value(triple, key):
    group, _, plain = key.rpartition(".")
    return triple["values"][group or "derived_f64"].get(plain)


def test_golden_convention_cddfuse(golden):
    """The convention as a whole against the evaluator's own single-precision run."""
    for triple in golden:
        for plain, definition in CONVENTIONS["cddfuse"].items():
            expected = triple["values"]["cddfuse_f32"]["VIFF" if plain == "VIF" else plain]
            tolerance = 5e-4 if plain == "SSIM" else 5e-7  # C2 = 0.0036 in single precision
            assert triple["ours"][definition] == pytest.approx(expected, rel=tolerance), (triple["name"], plain)


# plain name to tolerance, where single precision or another grey matter more than for the others
ZOO_TOLERANCE = {"SSIM": 0.2, "MS-SSIM": 5e-3, "VIF": 1e-4, "CE": 3e-4, "Nabf": 5e-4, "SCD": 1e-4, "Qabf": 1e-4}


def test_golden_convention_ivif_zoo(golden):
    for triple in golden:
        for plain, definition in CONVENTIONS["ivif_zoo"].items():
            if plain == "Qcb" and triple["name"] in MEDICAL:
                continue
            expected = triple["values"]["ivif_zoo"][plain.replace("-", "_")]
            tolerance = ZOO_TOLERANCE.get(plain, 5e-5)
            assert triple["ours"][definition] == pytest.approx(expected, rel=tolerance), (triple["name"], plain)


def test_golden_convention_smfnet(golden):
    keys = {"AG": "AG1", "VIF": "VIFF", "SSIM": "SSIM_dr2", "MS-SSIM": "MS_SSIM"}
    tolerances = {"SSIM": 5e-4, "Nabf": 5e-6, "MS-SSIM": 1e-4}
    for triple in golden:
        for plain, definition in CONVENTIONS["smfnet"].items():
            expected = triple["values"]["smfnet_f32"][keys.get(plain, plain)]
            if expected is not None:
                tolerance = tolerances.get(plain, 5e-7)
                assert triple["ours"][definition] == pytest.approx(expected, rel=tolerance), (triple["name"], plain)


def test_golden_convention_tang(golden):
    """The published table, to full precision, but for the columns that come from older code."""
    [triple] = [triple for triple in golden if "tang_matlab_published" in triple["values"]]
    published = triple["values"]["tang_matlab_published"]
    for plain in ("EN", "SF", "AG", "MI", "SCD", "CC", "MSE", "PSNR"):
        ours = triple["ours"][CONVENTIONS["tang"][plain]]
        assert ours == pytest.approx(published[plain], rel=1e-11), plain


VIFB_NAMES = {
    **{"AG": "Avg_gradient", "CE": "Cross_entropy", "EI": "Edge_intensity", "EN": "Entropy", "MI": "Mutinf"},
    **{"PSNR": "Psnr", "Qabf": "Qabf", "Qcb": "Qcb", "Qcv": "Qcv", "RMSE": "Rmse", "SF": "Spatial_frequency"},
    **{"SSIM": "Ssim", "SD": "Variance"},
}


def test_golden_convention_vifb(golden):
    """The published values (five digits) of colour images: the mean of the channels, for SF the channels in a row."""
    published = [triple for triple in golden if "vifb_matlab_published" in triple["values"]]
    assert len(published) == 2
    for triple in published:
        paths = (GOLDEN / triple["files"][role]["file"] for role in ("fused", "a", "b"))
        colours = [read_image(path, colour=True) for path in paths]
        images = [
            torch.from_numpy(x.astype("float64") / 255).permute(2, 0, 1)[:, None] for x in colours
        ]  # (3, 1, H, W)
        in_a_row = [torch.cat(list(x), dim=-1)[None] for x in images]
        for plain, metric in resolve("vifb", VIFB_NAMES).items():
            ours = metric.function(*(in_a_row if plain == "SF" else images)).mean().item()
            key = VIFB_NAMES[plain]
            assert ours == pytest.approx(triple["values"]["vifb_matlab_published"][key], rel=5e-5), plain
            assert ours == pytest.approx(triple["values"]["derived_vifb_rgb_f64"][key], rel=1e-13), plain
