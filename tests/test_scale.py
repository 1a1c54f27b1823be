"""What grows with the study grows in proportion: pairing, plan and report; and `mmfuse benchmark scale` measures it."""

from __future__ import annotations

import csv
import json
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mmfuse.benchmarks import scale, scale_steps, simulated
from mmfuse.benchmarks.scale import Measurement, Size
from mmfuse.cli import app as cli
from mmfuse.data.catalog import load_catalog
from mmfuse.data.pairs import match_folders
from mmfuse.data.reading import find_pairs
from mmfuse.errors import UserError
from mmfuse.reporting import statistics, style
from mmfuse.study import plan, settings

ROOT = Path(__file__).parents[1]


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Make a simulated study and go there: `study(pairs, systems, datasets)`."""

    def make(*size, results=False):
        folder = tmp_path / "-".join(map(str, size))
        simulated.make_texts(Size(*size), ROOT, folder)
        if results:
            simulated.make_results(Size(*size), folder)
        monkeypatch.chdir(folder)
        return folder

    return make


def seconds(work):
    """The shortest processor time of three."""
    times = []
    for _ in range(3):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def calls(work):
    """How many functions are called, Python's own and compiled ones: the same number on every machine."""
    count = 0

    def counted(_frame, event, _argument):
        nonlocal count
        count += event in {"call", "c_call"}

    sys.setprofile(counted)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def test_pairing_is_linear(study):
    times: dict[str, list[float]] = {"two folders": [], "a dataset": []}
    for pairs in (500, 8000):
        folder = study(pairs, 1, 1)
        simulated.make_pairs(Size(pairs, 1, 1), folder)
        raw, entry = folder / "data/raw/simulated_000", load_catalog()["simulated_000"]
        roles = {role: raw / "test" / role for role in ("infrared", "visible")}
        assert len(match_folders(**roles)) == len(find_pairs(entry, raw).pairs) == pairs
        times["two folders"].append(seconds(lambda roles=roles: match_folders(**roles)))
        times["a dataset"].append(seconds(lambda entry=entry, raw=raw: find_pairs(entry, raw)))
    for what, (few, many) in times.items():
        assert many / few < 64, f"{what}: 16 times as many pairs take {many / few:.0f} times as long; squared is 256"


@pytest.mark.parametrize(("few", "many"), [((4, 1), (32, 1)), ((2, 2), (2, 16))])
def test_the_plan_is_linear_in_systems_and_datasets(study, monkeypatch, few, many):
    merged, counts = settings.merged, []

    def counted(*arguments):
        counts[-1] += 1
        return merged(*arguments)

    monkeypatch.setattr(settings, "merged", counted)
    found = []
    for systems, datasets in (few, many):
        study(1, systems, datasets)
        counts.append(0)
        found.append(calls(scale_steps.plan_all))
        jobs = len(plan.scored_pairs(scale_steps.load_parameters(Path("params.yaml"))))
        assert jobs == systems * datasets
    assert counts[1] / max(counts[0], 1) < 16, "8 times as many: 64 would be squared"
    assert found[1] / found[0] < 16


def test_variants_that_share_a_training_are_found_in_one_pass():
    part = {"patches": "whole", "rate": 1.0}
    block = {"parts": {"first": part, "second": part}}
    block["variants"] = {
        "late": {"parts": {"second": {"rate": 2.0}}},
        "base": {},
        "same": {"parts": {"second": {"rate": 2}}},
        "early": {"network": {"width": [1, 2]}},
    }
    parameters = {"methods": {"net": block}}
    assert plan.origins(parameters, "net", "first") == {
        "base": "base", "late": "base", "same": "base", "early": "early",
    }  # fmt: skip
    assert plan.origins(parameters, "net", "second") == {
        "base": "base", "late": "late", "same": "late", "early": "early",
    }  # fmt: skip


def report():
    """Make the report without drawing; return how many functions it calls, how many intervals and tests it makes."""
    made = {"interval": 0, "signed_ranks": 0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(style, "_files", lambda *_: dict.fromkeys(("svg", "pdf", "png"), b"<svg/>"))
        for name in made:
            original = getattr(statistics, name)

            def counted(*arguments, name=name, original=original):
                made[name] += len(arguments[0]) if name == "signed_ranks" else 1
                return original(*arguments)

            patch.setattr(statistics, name, counted)
        return calls(scale_steps.report), made


def test_the_report_is_linear_in_the_pairs(study):
    counts = []
    for pairs in (60, 480):  # beyond 50 images the tests are no longer exact
        study(pairs, 2, 1, results=True)
        report()  # what is read and imported once does not count
        counts.append(report()[0])
    assert counts[1] / counts[0] < 9, "8 times as many pairs"


def test_each_metric_has_its_intervals_at_once_and_each_pair_of_systems_one_test(study):
    made = []
    for systems in (3, 9):
        folder = study(60, systems, 1, results=True)
        made.append(report()[1])
        summary = json.loads((folder / "reports/scores/simulated_000/mma_unet.base.s0.json").read_text())
    assert made[0]["interval"] == made[1]["interval"], "the ablations' intervals rest on the same resamples"
    assert made[1]["signed_ranks"] == 12 * made[0]["signed_ranks"] <= 36 * len(summary["metrics"])


def test_the_growth_is_the_slope():
    rows = [Measurement("pairs", "linear", n, 1, 1, 0.5 * n, 10.0) for n in (10, 100, 1000)]
    rows += [Measurement("systems", "squared", 1, n, 1, 0.1 * n**2, 10.0) for n in (2, 8)]
    rows += [Measurement("all three", "linear", 9, 9, 9, 1.0, 10.0)]
    found = scale.growth(rows)
    assert found == {"pairs": {"linear": pytest.approx(1)}, "systems": {"squared": pytest.approx(2)}}


def test_one_number_grows_at_a_time():
    found = list(scale.sizes(Size(1000, 4, 20), 2))
    assert found == [
        ("pairs", Size(100, 4, 2)),
        ("pairs", Size(1000, 4, 2)),
        ("systems", Size(100, 4, 2)),
        ("datasets", Size(100, 4, 2)),
        ("datasets", Size(100, 4, 20)),
        ("all three", Size(50, 4, 20)),
    ]


def test_the_command_measures_and_draws(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = [
        "--pairs",
        "20",
        "--systems",
        "3",
        "--datasets",
        "2",
        "--sizes",
        "2",
        "--only",
        "plan",
        "--only",
        "catalog",
    ]
    said = CliRunner().invoke(cli.app, ["benchmark", "scale", *words, "--out", str(tmp_path / "out"), "--json"])
    assert said.exit_code == 0, said.output
    result = json.loads(said.stdout)
    steps = {(row["axis"], row["step"]) for row in result["measurements"]}
    together = {("all three", "plan"), ("all three", "catalog")}
    assert steps == {("systems", "plan"), ("datasets", "plan"), ("datasets", "catalog"), *together}
    assert all(row["seconds"] > 0 and row["peak_mib"] > 5 for row in result["measurements"])
    with (tmp_path / "out/scale.csv").open() as stream:
        assert [row["step"] for row in csv.DictReader(stream)] == [row["step"] for row in result["measurements"]]
    assert (tmp_path / "out/scale.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.engines
def test_the_engines_are_measured(tmp_path):
    found = list(scale._study("systems", Size(1, 1, 1), ROOT, tmp_path / "project", ["engines"]))
    assert [one.step for one in found] == list(scale.ENGINES)
    assert all(one.seconds > 0.05 and one.peak_mib > 20 for one in found)


@pytest.mark.parametrize("wrong", [{"largest": Size(0, 1, 1)}, {"count": 0}, {"only": ["everything"]}])
def test_nonsense_is_refused(wrong):
    with pytest.raises(UserError):
        scale.run(**{"largest": Size(1, 1, 1), "count": 1, **wrong})
