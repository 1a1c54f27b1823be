"""Local consistency against its definition, and its figures."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch

from mmfuse.analyses import local_consistency as analysis
from mmfuse.data.packs import Pack
from mmfuse.errors import UserError
from mmfuse.reporting.style import Album
from mmfuse.study.plan import System
from mmfuse.training.checkpoints import build

SMALL = {"width": 4, "channels": 4, "kernels": [3, 3], "bottleneck_kernel": 3, "init_kernel": 3, "groups": 2}


def network(**options):
    torch.manual_seed(0)
    return build("lkc_funet", SMALL | options).eval()


def test_consistency_is_the_mean_cosine_of_all_pairs_of_pixels():
    features = torch.randn(3, 7, 9, generator=torch.Generator().manual_seed(0))
    found = analysis.consistency(features, 3)
    assert found.shape == (2, 3), "incomplete chunks are left out"
    for row, column in itertools.product(range(2), range(3)):
        part = features[:, 3 * row : 3 * row + 3, 3 * column : 3 * column + 3].flatten(1).T
        pairs = [torch.cosine_similarity(p, q, dim=0).item() for p, q in itertools.combinations(part, 2)]
        assert found[row, column].item() == pytest.approx(np.mean(pairs), abs=1e-6)


def test_consistency_of_what_is_constant_opposed_and_nothing():
    constant = torch.tensor([1.0, -2.0])[:, None, None].expand(2, 4, 4)
    assert torch.allclose(analysis.consistency(constant, 4), torch.ones(1, 1, dtype=torch.float64))
    assert torch.allclose(analysis.consistency(7 * constant, 4), torch.ones(1, 1, dtype=torch.float64))
    signs = torch.ones(4, 4)
    signs[:2] = -1
    assert analysis.consistency(constant * signs, 4).item() == pytest.approx(-1 / 15)
    assert analysis.consistency(0 * constant, 4).item() == 0


def test_chunks_are_halved_by_the_structure_of_the_sources():
    sources = torch.zeros(2, 4, 8)
    sources[1, :2, 4:6] = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    sources[0, 2:, :2] = torch.tensor([[0.0, 0.5], [0.5, 0.0]])
    found = analysis.structure(sources, 2)
    assert torch.allclose(found, torch.tensor([[0, 0, 0.5, 0], [0.25, 0, 0, 0]], dtype=torch.float64))
    values = torch.arange(4.0)
    assert analysis.halves(values, torch.tensor([5.0, 1.0, 1.0, 1.0])) == (1.5, 1.5)  # 1 and 2; 3 and 0
    assert analysis.halves(values, torch.tensor([0.0, 3.0, 0.0, 3.0])) == (1.0, 2.0)


def test_the_result_is_about_the_features_after_the_init_block(make_pack):
    pack, net = Pack(make_pack(5, 41, 50)), network()
    result = analysis.analyse(net, pack, chunk=8)
    seen = []
    hook = net.net.init.register_forward_hook(lambda _module, _inputs, output: seen.append(output[1]))
    a, b = (torch.from_numpy(pack[2][key].copy())[None, None].float() / 255 for key in ("a", "b"))
    with torch.no_grad():
        net(a, b)
    hook.remove()
    expected = analysis.consistency(seen[0][0, :, :41, :50], 8)
    assert result["shown"]["name"] == pack.names[2]
    assert np.allclose(result["shown"]["map"], expected, atol=1e-4)
    assert result["values"]["all"][2] == pytest.approx(expected.mean().item(), abs=1e-4)
    assert {kind: len(series) for kind, series in result["values"].items()} == {"all": 5, "plain": 5, "structured": 5}
    for number in range(5):  # 5 x 6 chunks: the halves are equally large
        plain, structured = (result["values"][kind][number] for kind in ("plain", "structured"))
        assert (plain + structured) / 2 == pytest.approx(result["values"]["all"][number], abs=2e-4)
    assert result["summary"]["consistency/all"] == pytest.approx(np.mean(result["values"]["all"]), abs=1e-4)
    assert json.dumps(analysis.analyse(network(), pack, chunk=8)) == json.dumps(result)


@pytest.mark.parametrize("chunk", [1, 30])
def test_a_chunk_that_does_not_fit_is_refused(chunk, make_pack):
    with pytest.raises(UserError, match="cannot be computed with this chunk"):
        analysis.analyse(network(), Pack(make_pack(1, 40, 48)), chunk=chunk)


def test_intervals_and_seeds():
    assert analysis.interval(np.full(6, 0.5)) == (0.5, 0.5)
    values = np.random.default_rng(1).normal(0.3, 0.1, 400)
    low, high = analysis.interval(values)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * 0.1 / 20, rel=0.15)

    def result(value):
        return {"values": {kind: [value, value + 0.2] for kind in analysis.KINDS}}

    systems = [System("lkc_funet", "base", "mif", seed) for seed in (0, 1)]
    found = analysis.over_seeds(dict(zip(systems, (result(0.1), result(0.3)), strict=True)))
    assert found["base"]["all"].tolist() == pytest.approx([0.2, 0.4])


def test_the_figures_are_drawn_alike_for_equal_results(make_pack):
    pack = Pack(make_pack(3))
    results = {
        System("lkc_funet", name, "mif", seed): analysis.analyse(network(init_norm=norm), pack, chunk=8)
        for name, norm in (("base", "instance"), ("bn_gn", "batch"))
        for seed in (0, 1)
    }
    maps, numbers = analysis.draw(results)
    assert "p1 in chunks of 8 x 8 pixels" in maps.caption
    mean = np.mean(next(iter(results.values()))["values"]["structured"])
    assert f"structured {mean:.3f} [" in numbers.caption
    assert "bn_gn: all chunks" in numbers.caption
    for drawing in (maps, numbers):
        size = (drawing.width, drawing.height)
        pictures = [Album().draw("x", "y", "", "", size, drawing.paint) for _ in range(2)]
        assert pictures[0] == pictures[1]
        assert pictures[0].uri.startswith("data:image/svg+xml")
