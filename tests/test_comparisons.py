"""The report's comparing figures: grey levels and variants along an option."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mmfuse.errors import UserError
from mmfuse.reporting import comparisons
from mmfuse.reporting.scores import Column, Group, Scores
from mmfuse.reporting.style import Album, Shown
from mmfuse.study.parameters import _check_sweeps
from mmfuse.study.plan import System
from mmfuse.study.settings import place

COLUMNS = (Column("SD", "sd", "higher", "c"), Column("AG", "ag", "higher", "c"))
LINES = {"IN+GN": ["in_3", "base"], "BN": ["bn_3", "bn"]}
ENTRY = {"title": "Kernel", "method": "net", "x": "kernels", "lines": LINES, "metrics": ["AG", "SD"]}


def group(variant: str, value: float, seeds: int = 1, method: str = "net") -> Group:
    members = []
    for seed in range(seeds):
        values = np.array([[value, value + 1, value + 2], [2 * value, value, value]]) + seed
        members.append(Scores(System(method, variant, "mif", seed), "c", COLUMNS, ("1", "2", "3"), values))
    return Group(method, variant, tuple(members), np.mean([m.values for m in members], axis=0))


def groups(seeds: int = 1) -> list[Group]:
    return [group(variant, 3.0 + n, seeds) for n, variant in enumerate(("base", "in_3", "bn_3", "bn"))]


@pytest.fixture
def study() -> dict[str, Any]:
    small = {"network": {"kernels": [3, 3]}}
    return {
        "study": {"systems": [{"method": "net", "variant": v} for v in ("base", "in_3", "bn_3", "bn")]},
        "evaluate": {"metrics": ["SD", "AG"]},
        "report": {"sweeps": [ENTRY]},
        "methods": {
            "net": {
                "network": {"kernels": [11, 15, 5], "width": 8, "norm": "group"},
                "variants": {"base": {}, "in_3": small, "bn_3": small, "bn": {"network": {"norm": "batch"}}},
            }
        },
    }


def sweep(study: dict[str, Any], systems: list[Group]) -> Shown | None:
    return comparisons.sweep(Album(), "brain", study, 0, systems)


def test_grey_levels_are_counted_and_their_deviation_is_that_within_an_image():
    dark, colour = np.zeros((4, 6), np.uint8), np.zeros((4, 6, 3), np.uint8)
    half = dark.copy()
    half[:2] = 100
    colour[..., :] = 200
    samples: Any = [{"name": "1", "a": dark, "b": colour}, {"name": "2", "a": half, "b": colour}]
    found = comparisons.greys(samples, "a")
    assert (found.counts[0], found.counts[100], found.counts.sum()) == (36, 12, 48)
    assert found.deviations.tolist() == [0, 50]
    assert comparisons.greys(samples, "b").counts[200] == 48
    shown = comparisons.modalities(Album(), "x", iter(samples), ("MRI", "PET"))
    assert "MRI (a) 25.0 ± 25.0; PET (b) 0.0 ± 0.0." in shown.words
    assert "2 test pairs" in shown.words
    assert shown == comparisons.modalities(Album(), "x", samples, ("MRI", "PET"))


def test_a_variant_stands_at_its_largest_number(study):
    assert [place(study, "net", v, "kernels") for v in ("base", "in_3", "bn")] == [15, 3, 15]
    assert place(study, "net", "base", "width") == 8
    for option in ("norm", "depth"):
        with pytest.raises(UserError, match=rf"net.base has no number for the option '{option}'"):
            place(study, "net", "base", option)


def test_a_sweep_has_a_line_for_each_series_of_variants(study, monkeypatch):
    seen: dict[str, Any] = {}
    monkeypatch.setattr(comparisons, "_sweep", lambda *given: seen.update(given=given))
    shown = sweep(study, groups())
    assert shown is not None
    lines, columns = seen["given"][:2]
    assert {label: [(x, g.variant) for x, g in points] for label, points in lines.items()} == {
        "IN+GN": [(3, "in_3"), (15, "base")],
        "BN": [(3, "bn_3"), (15, "bn")],
    }
    assert [column.name for column in columns] == ["AG", "SD"]
    assert "IN+GN: in_3, base; BN: bn_3, bn." in shown.words
    assert sweep(study, groups()[:3]) is None, "a variant is missing"
    study["report"]["sweeps"] = [{**ENTRY, "metrics": ["VIF"]}]
    assert sweep(study, groups()) is None


def test_a_sweep_shows_means_intervals_and_seeds(study):
    from matplotlib.figure import Figure

    single = sweep(study, groups())
    several = sweep(study, groups(seeds=2))
    assert single is not None
    assert several is not None
    assert "seeds" not in single.words
    assert "the means of the 2 seeds" in several.words
    assert single.title == "Kernel, brain"
    assert single.uri.startswith("data:image/svg+xml")
    assert single.uri == sweep(study, groups()).uri
    axes = Figure().subplots()
    comparisons._line(axes, COLUMNS[0], "x", [(3, group("in_3", 4.0, 2)), (15, group("base", 6.0, 2))], 0)
    assert axes.lines[0].get_ydata().tolist() == [5.5, 7.5]
    assert list(axes.lines[-1].get_ydata()) == [7.0, 8.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lines": {"all": ["base", "bn_7"]}}, "net.bn_7, which the study does not measure"),
        ({"method": "other"}, "other.in_3, which the study does not measure"),
        ({"metrics": ["SD", "VIF"]}, "metric 'VIF'"),
        ({"x": "norm"}, "no number for the option 'norm'"),
    ],
    ids=str,
)
def test_a_sweep_of_what_there_is_not_is_refused(change, message, study, tmp_path):
    _check_sweeps(study, tmp_path)
    study["report"]["sweeps"] = [ENTRY | change]
    with pytest.raises(UserError, match=message):
        _check_sweeps(study, tmp_path)
