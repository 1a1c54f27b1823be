"""CKA against its definition, what is read off it, and the stage that looks into trained networks."""

from __future__ import annotations

import inspect
import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from mmfuse import analyses, methods
from mmfuse.analyses import cka
from mmfuse.benchmarks import cka as measured
from mmfuse.data.packs import Pack
from mmfuse.errors import UserError
from mmfuse.nn.cka import Alignment, best_pairing, centred_gram, change_point
from mmfuse.reporting.style import Album
from mmfuse.stages import analyse as stage
from mmfuse.study import plan
from mmfuse.study.plan import System
from mmfuse.study.stages import ANALYSE, report_inputs
from mmfuse.training.checkpoints import WeightsCard, build, save_weights, weights_of
from test_methods import small

ROOT = Path(__file__).parents[1]
STUDIES = [ROOT / "params.yaml", *sorted((ROOT / "workflow/configs").glob("*.yaml"))]

# ------------------------------------------------------------------------------------------------------------ CKA


def related(count: int, seed: int = 0) -> list[torch.Tensor]:
    """Representations of `count` examples: two that share most of what they hold, and a third of its own."""
    draw = torch.Generator().manual_seed(seed)
    common, first, second, third = (torch.randn(count, 6, generator=draw) for _ in range(4))
    mix = torch.randn(6, 9, generator=draw)
    return [common + 0.3 * first, (common + 0.3 * second) @ mix + 5, third]


def similarity(*representations: torch.Tensor, batch: int | None = None) -> np.ndarray:
    alignment = Alignment(len(representations))
    for parts in zip(*(x.split(batch or len(x)) for x in representations), strict=True):
        alignment.add([centred_gram(part) for part in parts])
    return alignment.matrix()


def unbiased_hsic(x: np.ndarray, y: np.ndarray) -> float:
    """The estimator as Song et al. and Nguyen et al. print it, with K and L without their diagonals."""
    k, ones, n = x @ x.T, np.ones(len(x)), len(x)
    l_ = y @ y.T
    np.fill_diagonal(k, 0)
    np.fill_diagonal(l_, 0)
    sums = (ones @ k @ ones) * (ones @ l_ @ ones) / ((n - 1) * (n - 2))
    return (np.trace(k @ l_) + sums - 2 / (n - 2) * (ones @ k @ l_ @ ones)) / (n * (n - 3))


@pytest.mark.parametrize("count", [4, 5, 17])
def test_cka_is_what_its_definition_says(count):
    representations = related(count)
    arrays = [x.double().numpy() for x in representations]
    hsic = np.array([[unbiased_hsic(x, y) for y in arrays] for x in arrays])
    norms = np.sqrt(np.diag(hsic))
    assert np.allclose(similarity(*representations), hsic / norms[:, None] / norms, atol=1e-6)


def test_cka_does_not_see_rotation_scale_and_shift():
    x, y, _ = related(12)
    turn = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(3)))[0]
    table = similarity(x, x @ turn, -4 * x, x + 100, x * torch.arange(1, 7), y)
    assert np.allclose(np.diag(table), 1)
    assert np.allclose(table[0, :4], 1, atol=1e-4)
    assert table[0, 4] < 0.99, "a scale for each direction is seen"
    assert np.allclose(table[:4, 5], table[0, 5], atol=1e-4)


def test_feature_maps_are_flattened_and_split_alike(monkeypatch):
    maps = torch.rand(5, 3, 4, 6)
    whole = centred_gram(maps)
    assert torch.allclose(whole, centred_gram(maps.flatten(1)))
    monkeypatch.setattr("mmfuse.nn.cka._VALUES", 50)
    assert torch.allclose(centred_gram(maps), whole, atol=1e-12)
    assert torch.allclose(whole.sum(dim=1), torch.zeros(5, dtype=torch.float64), atol=1e-9)


def test_minibatches_estimate_the_full_value_within_their_error():
    representations = related(1200)
    full = similarity(*representations)
    alignment = Alignment(3, resamples=300, seed=1)
    for parts in zip(*(x.split(8) for x in representations), strict=True):
        alignment.add([centred_gram(part) for part in parts])
    estimate, resampled = alignment.matrix(), alignment.resamples()
    error = resampled.std(axis=0)
    assert np.all(np.abs(estimate - full) <= 4 * error + 1e-9)
    assert 0.001 < error[0, 1] < 0.05
    assert abs(estimate[0, 2]) < 0.1, "unrelated representations: the plain estimator would say much more"
    repeated = Alignment(3, resamples=300, seed=1)
    for parts in zip(*(x.split(8) for x in representations), strict=True):
        repeated.add([centred_gram(part) for part in parts])
    assert np.array_equal(repeated.resamples(), resampled)


def test_a_constant_representation_and_a_minibatch_that_is_too_small():
    x, _, _ = related(6)
    assert similarity(x, torch.ones(6, 3)).tolist() == [[pytest.approx(1), 0], [0, 0]]
    with pytest.raises(ValueError, match="needs 4 images"):
        similarity(x[:3])


# ------------------------------------------------------------------------------------------------ what is read off


def blocks(*sizes: int, within: float = 0.9, between: float = 0.3) -> np.ndarray:
    kind = np.repeat(np.arange(len(sizes)), sizes)
    table = np.where(kind[:, None] == kind, within, between)
    np.fill_diagonal(table, 1)
    return table


@pytest.mark.parametrize("cut", [1, 2, 12, 22, 39, 50])
def test_the_change_point_of_two_blocks(cut):
    table = blocks(cut, 51 - cut)
    noise = np.random.default_rng(0).normal(0, 0.05, table.shape)
    assert change_point(table) == (cut, pytest.approx(0.6))
    assert change_point(table + (noise + noise.T) / 2)[0] == cut


def test_the_change_point_is_the_best_two_valued_matrix():
    random = np.random.default_rng(1)
    for _ in range(20):
        table = random.random((9, 9))
        table = (table + table.T) / 2
        upper = np.triu_indices(9, 1)

        def left(cut, table=table, upper=upper):
            inside = (upper[0] < cut) == (upper[1] < cut)
            values = table[upper]
            gap = values[inside].mean() - values[~inside].mean()
            rest = sum(((values[m] - values[m].mean()) ** 2).sum() for m in (inside, ~inside))
            return rest if gap > 0 else np.inf

        if min(left(k) for k in range(1, 9)) < np.inf:
            assert change_point(table)[0] == min(range(1, 9), key=left)


def test_equal_cuts_take_the_first():
    assert change_point(np.ones((6, 6)))[0] == 1
    assert change_point(blocks(3, 3, 3))[0] == 3


def test_the_pairing_of_the_paper_is_found_where_levels_are_shifted():
    levels = np.arange(1, 6)
    for shift, expected in (
        (1, [(1, 2), (2, 3), (3, 4), (4, 5)]),
        (-1, [(2, 1), (3, 2), (4, 3), (5, 4)]),
        (0, [(1, 1), (2, 2), (3, 3), (4, 4)]),
    ):
        table = np.exp(-np.abs(levels[:, None] + shift - levels))
        assert best_pairing(table, 4) == expected
    assert best_pairing(np.exp(-np.abs(levels[:, None] + 2 - levels)), 3) == [(1, 3), (2, 4), (3, 5)]


def test_the_pairing_is_monotone_and_deterministic():
    random = np.random.default_rng(0)
    for _ in range(50):
        table = random.random((5, 5))
        pairs = best_pairing(table, 4)
        assert len(pairs) == 4
        assert all(v < w and i < j for (v, i), (w, j) in itertools.pairwise(pairs))
        assert best_pairing(table + 1e-15, 4) == pairs
    assert best_pairing(np.ones((5, 5)), 4) == [(1, 1), (2, 2), (3, 3), (4, 4)]


# ---------------------------------------------------------------------------------------------------- MMA-UNet

OPTIONS = {"images": None, "height": 32, "width": 48, "batch": 4, "resamples": 20, "seed": 0}


def network(seed: int = 0, **options):
    torch.manual_seed(seed)
    return build("mma_unet", {"width": 2} | options).eval()


@pytest.fixture
def result(make_pack):
    return cka.analyse(network(), Pack(make_pack(9)), **OPTIONS)


def test_the_papers_count_of_layers():
    names, counts = cka.layer_names(), cka.paper_counts()
    assert len(names) == len(set(names)) == len(counts) == 39
    levels = [sum(c for n, c in zip(names, counts, strict=True) if n.startswith(f"{level}.")) for level in range(1, 6)]
    assert levels == [7, 11, 11, 11, 11]


def test_each_layer_is_what_the_encoder_computes(make_pack):
    """The trace must not see what in-place operations leave behind."""
    net, pack = network(guidance=True), Pack(make_pack(4))
    a, b = cka._pairs(pack, range(4), 32, 48)
    visible, infrared = cka.traces(net, (a, b))
    names = cka.layer_names()
    with torch.no_grad():
        first = net.vi_unet.encoder.blocks[0]
        image = b.expand(-1, 3, -1, -1)
        convolved = first[0](image)
        normed = first[1](convolved)
        levels = net.vi_unet.encoder(image)
        guided = net.ir_unet.encoder(a.expand(-1, 3, -1, -1), levels)
    expected = {"1.conv1": convolved, "1.norm1": normed, "1.relu1": normed.relu(), "3.out": levels[2]}
    expected["2.pool"] = torch.nn.functional.max_pool2d(levels[0], 2)
    for name, value in expected.items():
        assert torch.allclose(visible[names.index(name)], centred_gram(value), atol=1e-6), name
    assert torch.allclose(visible[names.index("3.relu2")], visible[names.index("3.out")])
    assert torch.allclose(infrared[names.index("3.out")], centred_gram(guided[2]), atol=1e-6)
    assert not torch.allclose(infrared[names.index("3.relu2")], infrared[names.index("3.out")], rtol=1e-3)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_the_result(result, make_pack):
    assert (result["images"], result["batches"]) == (9, 2)
    assert np.array(result["across"]).shape == (39, 39)
    for key in ("visible", "infrared"):
        table = np.array(result[key])
        assert np.allclose(table, table.T)
        assert np.allclose(np.diag(table), 1)
        assert 2 <= result["onset"][key]["layer"] <= 51
        assert len(result["onset"][key]["resampled"]) == 20
    assert np.array(result["levels"]).shape == (5, 5)
    assert 0 <= result["pairing_share"] <= 1
    assert result["guided"]
    again = cka.analyse(network(), Pack(make_pack(9)), **OPTIONS)
    assert json.dumps(again) == json.dumps(result)
    other = cka.analyse(network(), Pack(make_pack(9)), **OPTIONS | {"images": 5})
    assert (other["images"], other["batches"]) == (5, 1)


@pytest.mark.parametrize("change", [{"height": 40}, {"batch": 3}, {"images": 3}], ids=str)
def test_options_that_cannot_work_are_refused(change, make_pack):
    with pytest.raises(UserError, match="CKA cannot be computed"):
        cka.analyse(network(), Pack(make_pack(9)), **OPTIONS | change)


def test_the_figures_are_drawn_alike_for_equal_results(result):
    unguided = result | {"guided": False}
    results = {
        System("mma_unet", variant, "ivif", seed): found
        for variant, found in (("base", result), ("e3", unguided))
        for seed in (0, 1)
    }
    drawings = cka.draw(results)
    assert [d.title for d in drawings] == [
        "mma_unet.base: layer by layer", "mma_unet.e3: layer by layer", "IR-UNet with and without guidance",
        "Feature maps",
    ]  # fmt: skip
    layer = result["onset"]["infrared"]["layer"]
    assert f"IR-UNet: layer {layer}, {layer} [" in drawings[0].caption
    assert "without guidance" in drawings[2].caption
    for drawing in (drawings[0], drawings[2], drawings[3]):
        size = (drawing.width, drawing.height)
        pictures = [Album().draw("x", "y", "", "", size, drawing.paint) for _ in range(2)]
        assert pictures[0] == pictures[1]
        assert pictures[0].uri.startswith("data:image/svg+xml")


def test_an_interval_is_over_all_seeds():
    found = [
        {"batches": 2, "onset": {"visible": {"resampled": [10] * 50}, "infrared": {"resampled": [layer] * 50}}}
        for layer in (20, 24)
    ]
    assert cka.onset_interval(found, "infrared") == (20, 24)
    assert cka.onset_interval(found, "visible", "infrared") == (10, 14)
    found[1]["batches"] = 1
    assert cka.onset_interval(found, "infrared") is None, "one minibatch cannot vary"


# ------------------------------------------------------------------------------------------------------- the stage


class Listener:
    """What a job is given to report to, remembering the numbers."""

    def __init__(self) -> None:
        self.numbers: dict[str, float] = {}

    def log_metrics(self, values):
        """Remember numbers."""
        self.numbers |= values


def test_the_stage_writes_the_result_and_refuses_what_does_not_fit(make_pack, tmp_path):
    net, weights, out = network(), tmp_path / "fusion.safetensors", tmp_path / "out.json"
    card = WeightsCard("mma_unet", "base", "ivif", 0, "fusion", {"width": 2}, complete=True)
    save_weights(weights, weights_of(net.deployed_modules()), card)
    listener = Listener()

    def run(name="cka", method="mma_unet", options=OPTIONS):
        stage.run(
            name, System(method, "base", "ivif", 0), options=options, weights=weights, test=make_pack(8), threads=1,
            out=out, running=SimpleNamespace(tracker=listener, fingerprint="x"),
        )  # fmt: skip

    run()
    found = json.loads(out.read_text())
    assert listener.numbers == found["summary"]
    with pytest.raises(UserError, match="did you mean 'cka'"):
        run("ckaa")
    with pytest.raises(UserError, match="does not support average"):
        run(method="average")
    with pytest.raises(UserError, match="does not take these options") as caught:
        run(options=OPTIONS | {"imags": 3})
    assert "imags" in str(caught.value)


@pytest.mark.parametrize("name", analyses.available())
def test_an_analysis_says_what_it_is(name):
    analysis = analyses.load(name)
    assert analysis.CARD.title
    assert analysis.CARD.source
    assert set(analysis.CARD.methods) <= set(methods.available())
    assert callable(analysis.analyse)
    assert callable(analysis.draw)


@pytest.mark.parametrize("name", analyses.available())
def test_an_analysis_runs_with_the_options_of_a_study(name, make_pack):
    """It gives the same twice, as JSON, and its figures can be drawn."""
    analysis = analyses.load(name)
    studies = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in STUDIES]
    options = [study["analyse"][name]["options"] for study in studies if name in study.get("analyse", {})]
    assert options, f"neither params.yaml nor workflow/configs names {name}"
    for named in options:
        inspect.signature(analysis.analyse).bind(None, None, **named)
    pack = Pack(make_pack(8))
    for method in analysis.CARD.methods:
        results = {}
        for seed in (0, 1):
            net = small(method, seed).eval()
            once, again = (json.dumps(analysis.analyse(net, pack, **options[0])) for _ in range(2))
            assert once == again
            results[System(method, "base", "ivif", seed)] = json.loads(once)
        drawings = analysis.draw(results)
        assert drawings
        for drawing in drawings:
            picture = Album().draw("x", "y", "", "", (drawing.width, drawing.height), drawing.paint)
            assert picture.uri.startswith("data:image/svg+xml")


def test_the_plan_lists_every_analysis(parameters):
    parameters["study"]["seeds"] = [0, 4]
    systems = [{"method": "mma_unet", "variant": "base"}]
    parameters["analyse"] = {
        "cka": {"datasets": ["synthetic_road", "synthetic_brain"], "systems": systems, "options": {}}
    }
    found = plan.analysed(parameters)
    assert [(name, dataset, system.task, system.seed) for name, dataset, system in found] == [
        ("cka", "synthetic_road", "ivif", 0), ("cka", "synthetic_road", "ivif", 4),
        ("cka", "synthetic_brain", "mif", 0), ("cka", "synthetic_brain", "mif", 4),
    ]  # fmt: skip
    files = report_inputs(parameters)
    assert "reports/analysis/synthetic_brain/cka.mma_unet.base.s4.json" in files
    assert "reports/analysis/synthetic_brain/cka.mma_unet.base.s4.run.json" in files
    assert ANALYSE.watched(parameters, {"analysis": "cka", "dataset": "synthetic_road"}) == ["analyse.cka.options"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"analyses": "ckaa"}, "no analysis 'ckaa'"),
        ({"systems": [{"method": "average", "variant": "base"}]}, "cannot analyse"),
        ({"systems": [{"method": "mma_unet", "variant": "none"}]}, "cannot analyse"),
        ({"datasets": ["tno"]}, "not part of the study"),
    ],
    ids=str,
)
def test_a_study_that_analyses_what_there_is_not_is_refused(change, message, parameters):
    from mmfuse.study.parameters import _check_analyses

    name = change.pop("analyses", "cka")
    parameters["analyse"] = {name: parameters["analyse"]["cka"] | change}
    with pytest.raises(UserError, match=message):
        _check_analyses(parameters, Path("params.yaml"))


# --------------------------------------------------------------------------------------------------------- benchmark


def test_minibatches_take_less_memory_than_all_images_at_once():
    result = measured.run(images=[48], height=48, width=64, batch=8)
    (row,) = result["rows"]
    assert result["layers"] == 78
    assert 0 < row["minibatches"]["peak_mib"] < row["at_once"]["peak_mib"] / 2
    assert row["minibatches"]["seconds"] > 0
    assert 0 < row["difference_mean"] < row["difference_largest"] < 0.5
    assert len(list(measured.lines(result))) == 2
    with pytest.raises(UserError, match="divisible"):
        measured.run(images=[20], height=48, width=64, batch=8)
