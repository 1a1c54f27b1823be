"""Metrics against hand computation, independent implementations and golden values; names and conventions."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import math
import os
import pkgutil
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage, signal
from skimage.metrics import structural_similarity

import mmfuse.metrics
from mmfuse.errors import MmfuseError, UserError
from mmfuse.metrics import CONVENTIONS, Card, Metric, resolve, score, variants
from mmfuse.pairs import read_triple

GOLDEN = Path(os.environ.get("MMFUSE_GOLDEN") or Path(__file__).resolve().parents[2] / "shared" / "golden")
NAMES = sorted(variants())


def batch(*images: np.ndarray | list) -> torch.Tensor:
    """Grey levels 0..255, lists or arrays of two dimensions, as one batch (B, 1, H, W) in [0, 1]."""
    return torch.stack([torch.as_tensor(np.asarray(i), dtype=torch.float64)[None] / 255 for i in images])


def value(name, fused, a, b):
    """One variant for three images of grey levels."""
    return variants()[name].function(batch(fused), batch(a), batch(b)).item()


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
]


def test_every_variant_has_a_hand_computed_value():
    assert {case[0] for case in HAND} == set(NAMES)


@pytest.mark.parametrize(("name", "fused", "a", "b", "expected"), HAND, ids=[f"{c[0]}-{i}" for i, c in enumerate(HAND)])
def test_hand_computed(name, fused, a, b, expected):
    assert value(name, fused, a, b) == pytest.approx(expected, rel=2e-9, abs=1e-9)


def test_a_black_fused_image_keeps_almost_no_edges():
    # the sigmoid of Qabf is not quite 0 at no strength at all
    assert 0 < value("qabf", flat(0), HALVES, HALVES) < 0.9994 / (1 + math.exp(7.5))


# ------------------------------------------------------------------------------------------ independent computation


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


def slow_ssim_gauss(source, fused):
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255, "full": True}
    return structural_similarity(source, fused, **options)[1][5:-5, 5:-5].mean()


def slow_vif(source, fused):
    """VIF with two-dimensional windows, pixel by pixel."""
    top = bottom = 0.0
    for n in (17, 9, 5, 3):
        y, x = np.mgrid[:n, :n] - n // 2
        window = np.exp(-(x**2 + y**2) / (2 * (n / 5) ** 2))
        window /= window.sum()

        def local(image, window=window):
            return signal.convolve2d(image, window, mode="valid")

        if n < 17:
            source, fused = local(source)[::2, ::2], local(fused)[::2, ::2]
        m_s, m_f = local(source), local(fused)
        v_s = np.maximum(local(source**2) - m_s**2, 0)
        v_f = np.maximum(local(fused**2) - m_f**2, 0)
        cov = local(source * fused) - m_s * m_f
        for vs, vf, c in zip(v_s.flat, v_f.flat, cov.flat, strict=True):
            g = c / (vs + 1e-10)
            rest = vf - g * c
            if vs < 1e-10:
                g, rest = 0.0, vf
            if vf < 1e-10:
                g, rest = 0.0, 0.0
            if g < 0:
                g, rest = 0.0, vf
            top += math.log10(1 + g * g * vs / (max(rest, 1e-10) + 2))
            bottom += math.log10(1 + vs / 2) if vs >= 1e-10 else 0
    return top / bottom


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
}


@pytest.mark.parametrize("name", NAMES)
def test_independent_implementation(name):
    for shape in ((48, 64), (53, 47)):
        a, b = texture(1, *shape), texture(2, *shape)
        fused = np.minimum(np.rint(0.5 * a + 0.6 * b), 240)
        assert value(name, fused, a, b) == pytest.approx(SLOW[name](fused, a, b), rel=1e-9)


# ------------------------------------------------------------------------------------------- properties of all variants


@pytest.fixture(scope="module")
def images():
    """Three different triples as one batch each: fused, a, b."""
    a, b = [texture(s) for s in (1, 3, 5)], [texture(s) for s in (2, 4, 6)]
    fused = [np.rint(w * x + (1 - w) * y) for w, x, y in zip((0.5, 0.3, 0.9), a, b, strict=True)]
    return batch(*fused), batch(*a), batch(*b)


@pytest.mark.parametrize("name", NAMES)
def test_batch_equals_single(name, images):
    function = variants()[name].function
    together = function(*images)
    assert together.shape == (3,)
    assert together.dtype == torch.float64
    for i in range(3):
        torch.testing.assert_close(together[i : i + 1], function(*(x[i : i + 1] for x in images)), rtol=1e-13, atol=0)
    assert len(set(together.tolist())) == 3


@pytest.mark.parametrize("name", NAMES)
def test_number_format_does_not_matter(name, images):
    function = variants()[name].function
    assert torch.equal(function(*images), function(*(x.float() for x in images)))
    assert torch.equal(function(*images), function(*(x.half() for x in images)))


@pytest.mark.parametrize("name", NAMES)
def test_order_of_sources_does_not_matter(name, images):
    fused, a, b = images
    function = variants()[name].function
    torch.testing.assert_close(function(fused, a, b), function(fused, b, a), rtol=1e-13, atol=0)


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"vif_sum", "qabf"}))
def test_mirroring_does_not_matter(name, images):
    function = variants()[name].function
    mirrored = (x.flip(-1).flip(-2).transpose(-1, -2) for x in images)
    torch.testing.assert_close(function(*images), function(*mirrored), rtol=1e-11, atol=0)


@pytest.mark.parametrize("name", ["en", "mi_nats_sum", "mi_bits_sum"])
def test_grey_levels_are_only_labels_to_histograms(name, images):
    shuffled = torch.from_numpy(np.random.default_rng(0).permutation(256)).double() / 255
    relabelled = (shuffled[(x * 255).round().long()] for x in images)
    function = variants()[name].function
    torch.testing.assert_close(function(*images), function(*relabelled), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "name", ["sd", "sf_mean", "sf_vifb", "ag_mean", "ag_matlab", "ag_no_half", "cc_mean", "psnr_255"]
)
def test_common_brightness_does_not_matter(name, images):
    function = variants()[name].function
    darker = [x * (200 / 255) for x in images]
    brighter = [x + 55 / 255 for x in darker]
    torch.testing.assert_close(function(*darker), function(*brighter), rtol=1e-11, atol=0)


def test_more_contrast_in_the_fused_image_raises_vif(images):
    _, a, _ = images
    vif = variants()["vif_sum"].function
    assert (vif(0.5 * a, a, a) < 2).all()
    assert (vif(a, 0.5 * a, 0.5 * a) > 2).all()


@pytest.mark.parametrize("name", NAMES)
def test_degenerate_images_give_numbers_in_range(name):
    """All combinations of black, white, a grey between two levels, a step, and a texture; NaN would fail too."""
    kinds = [flat(0), flat(255), flat(76.4), HALVES, texture(1, 48, 48)]
    fused, a, b = (batch(*[c[i] for c in [(x, y, z) for x in kinds for y in kinds for z in kinds]]) for i in range(3))
    values = variants()[name].function(fused, a, b)
    low, high = variants()[name].card.range
    assert ((values >= low - 1e-9) & (values <= high + 1e-9)).all()


@pytest.mark.parametrize("name", NAMES)
def test_too_small_names_the_smallest_legal_size(name):
    function = variants()[name].function
    for size in range(1, 60):
        image = torch.rand(2, 1, size, size + 1, dtype=torch.float64)
        try:
            assert function(image, image.flip(0), image.flip(2)).isfinite().all()
            break
        except UserError as error:
            refused = error
    if size > 1:
        assert f"{size}x{size}" in str(refused)
        with pytest.raises(UserError, match=f"{size}x{size}"):
            function(*[torch.rand(1, 1, 100, size - 1)] * 3)
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
    function = variants()[name].function
    with pytest.raises(UserError, match=message):
        function(images[0], images[1], spoil(images[2]))
    with pytest.raises(UserError):
        function(spoil(images[0]), images[1], images[2])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", NAMES)
def test_gpu_agrees(name, images):
    function = variants()[name].function
    on_gpu = function(*(x.cuda() for x in images))
    assert on_gpu.is_cuda
    torch.testing.assert_close(on_gpu.cpu(), function(*images), rtol=1e-9, atol=0)


# ------------------------------------------------------------------------------------------- names and conventions


def test_cards_are_complete_and_names_unique():
    owners: dict[str, set[str]] = {}
    for module in pkgutil.iter_modules(mmfuse.metrics.__path__):
        for name, member in vars(importlib.import_module(f"mmfuse.metrics.{module.name}")).items():
            if inspect.isfunction(member) and hasattr(member, "card"):
                owners.setdefault(name, set()).add(member.__module__)
    assert {name for name, modules in owners.items() if len(modules) > 1} == set()
    assert set(owners) == set(NAMES)
    for name, found in variants().items():
        assert isinstance(found, Metric)
        assert isinstance(found.card, Card)
        assert found.name == found.function.__name__ == name
        assert found.card.better in {"higher", "lower"}
        assert found.card.range[0] < found.card.range[1]
        assert found.card.source
        assert found.card.used_by
        for part in ("Shape:", "Range:", "Raises:"):
            assert part in found.function.__doc__, name


def test_conventions_name_existing_variants_and_the_same_quantities():
    plain = {"EN", "SD", "SF", "AG", "MI", "SCD", "SSIM", "VIF", "Qabf", "PSNR", "CC"}
    for convention, meaning in CONVENTIONS.items():
        assert plain <= set(meaning), convention
        assert set(meaning.values()) <= set(NAMES), convention
        for name, variant in meaning.items():
            assert variant.lower().startswith(name.lower()), (convention, name)


def test_resolve():
    found = resolve("lkc_funet", ["SSIM", "EN"])
    assert list(found) == ["SSIM", "EN"]
    assert found["SSIM"] is variants()["ssim_gauss_mean_l255"]
    assert resolve("cddfuse", ["SF"])["SF"].name == "sf_mean"
    with pytest.raises(UserError, match="did you mean Qabf"):
        resolve("lkc_funet", ["EN", "QABF"])
    with pytest.raises(UserError, match="did you mean SSIM"):
        resolve("lkc_funet", ["SIM"])
    with pytest.raises(UserError, match="did you mean cddfuse"):
        resolve("cdd_fuse", ["EN"])


def test_score_keys_and_errors(images):
    metrics = resolve("lkc_funet", CONVENTIONS["lkc_funet"])
    values = score(*images, metrics)
    assert list(values) == list(CONVENTIONS["lkc_funet"])
    assert torch.equal(values["AG"], variants()["ag_matlab"].function(*images))
    with pytest.raises(UserError, match=r"VIF: .*small"):
        score(*(x[..., :20, :] for x in images), metrics)
    broken = Metric("broken", lambda fused, *_: fused.mean((1, 2, 3)) / 0, metrics["EN"].card)
    with pytest.raises(MmfuseError, match="broken"):
        score(*images, {"X": broken})


# ------------------------------------------------------------------------------------------------------ golden values

# variant -> keys in the group derived_f64, added up (and halved for the mean of two)
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
}
# Rounding of variances that are nearly zero: with C2 = 0.0036 (L = 2), and at VIF's threshold of 1e-10 in areas of a
# constant grey other than black, where the evaluators' own float64 versions differ by 6e-10.
GOLDEN_TOLERANCE = {"ssim_uniform_sum_l2": 5e-10, "vif_sum": 1e-9}


@pytest.fixture(scope="module")
def golden():
    """Golden triples, with our value of every variant."""
    if not (GOLDEN / "golden.json").is_file():
        pytest.skip(f"no golden values in {GOLDEN}: set MMFUSE_GOLDEN to their folder")
    triples = json.loads((GOLDEN / "golden.json").read_text())["triples"]
    for triple in triples:
        files = (GOLDEN / triple["files"][role]["file"] for role in ("fused", "a", "b"))
        images = [image[None] for image in read_triple(*files)]
        triple["ours"] = {name: found.function(*images).item() for name, found in variants().items()}
        triple["pixels"] = dict(zip(("fused", "a", "b"), images, strict=True))
    return triples


def test_golden_grey(golden):
    for triple in golden:
        for role, image in triple["pixels"].items():
            pixels = (image * 255).round().to(torch.uint8).numpy()
            digest = hashlib.sha256(pixels.tobytes()).hexdigest()
            assert digest == triple["grey"][role]["sha256_uint8_rowmajor"], (triple["name"], role)


@pytest.mark.parametrize("name", NAMES)
def test_golden_value(name, golden):
    assert len(golden) >= 11
    for triple in golden:
        expected = sum(triple["values"]["derived_f64"][key] for key in GOLDEN_KEYS[name])
        expected /= 2 if name in {"ssim_uniform_mean_l255", "ssim_gauss_mean_l255"} else 1
        tolerance = GOLDEN_TOLERANCE.get(name, 1e-13)
        assert triple["ours"][name] == pytest.approx(expected, rel=tolerance), triple["name"]


def test_golden_convention_cddfuse(golden):
    """The convention as a whole against the evaluator's own single-precision run."""
    for triple in golden:
        for plain, variant in CONVENTIONS["cddfuse"].items():
            expected = triple["values"]["cddfuse_f32"]["VIFF" if plain == "VIF" else plain]
            tolerance = 5e-4 if plain == "SSIM" else 5e-7  # C2 = 0.0036 in single precision
            assert triple["ours"][variant] == pytest.approx(expected, rel=tolerance), (triple["name"], plain)
