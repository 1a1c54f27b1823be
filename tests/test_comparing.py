"""`mmfuse compare` and `mmfuse register` on made-up results: what differs, what it did, what is refused."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from mmfuse import comparing
from mmfuse.cli import registering
from mmfuse.cli.app import app
from mmfuse.comparing import output
from mmfuse.errors import UserError
from mmfuse.files.writing import checksum, write_json, write_text
from mmfuse.reporting import statistics
from mmfuse.study.plan import System
from mmfuse.tracking import results

IMAGES = 12
CARDS = {"SSIM": "higher", "MI": "higher", "MSE": "lower"}


def scores(seed, shift=0.0):
    random = np.random.default_rng(seed)
    return {name: random.uniform(0.2, 0.8, IMAGES) + shift for name in CARDS}


def write_system(root, label, values, *, convention="lkc_funet", pack="p" * 64, images=None, code="c" * 64):
    """Write the scores of one system as `evaluate` does, and the records of it and of the data."""
    method, variant, seed = label.split(".")
    stem = root / "reports/scores/synthetic_road" / label
    names = images or [f"p{n}" for n in range(IMAGES)]
    rows = [
        ",".join(["name", *values]),
        *(",".join([n, *(repr(float(v[k])) for v in values.values())]) for k, n in enumerate(names)),
    ]
    write_text(stem.with_name(f"{label}.csv"), "\n".join(rows) + "\n")
    metrics = {
        name: {
            "convention": convention,
            "definition": f"{name.lower()}_{convention}",
            "better": CARDS[name],
            "mean": float(np.mean(v)),
        }
        for name, v in values.items()
    }
    summary = {"dataset": "synthetic_road", "task": "ivif", "method": method, "variant": variant, "seed": int(seed[1:])}
    write_json(
        stem.with_name(f"{label}.json"), {**summary, "convention": convention, "images": len(names), "metrics": metrics}
    )
    inputs = {"data/prepared/synthetic_road/test.safetensors": pack, "src/mmfuse/metrics/structure.py": code}
    common = {"parameters": {}, "versions": {"torch": "2"}, "commit": "a" * 40, "dirty": False}
    common["machine"] = {"processor": "x", "device": "cpu"}
    written = [stem.with_name(f"{label}{end}") for end in (".csv", ".json")]
    outputs = {path.relative_to(root).as_posix(): checksum(path) for path in written}
    record = {"stage": "evaluate", "inputs": inputs, "outputs": outputs}
    write_json(stem.with_name(f"{label}.run.json"), {**record, **common})
    prepared = {"stage": "prepare", "inputs": {}, "outputs": {"data/prepared/synthetic_road/test.safetensors": pack}}
    write_json(root / "data/prepared/synthetic_road/run.json", {**prepared, **common})


@pytest.fixture
def make(tmp_path, parameters):
    """Make a project with results: `make(name, {label: values}, detail=3.0, **how)`."""

    def run(name, systems, detail=3.0, **how):
        root = tmp_path / name
        root.mkdir()
        parameters["methods"]["mma_unet"]["parts"]["fusion"]["loss"]["detail"] = detail
        (root / "params.yaml").write_text(yaml.safe_dump(parameters, sort_keys=False))
        for label, values in systems.items():
            write_system(root, label, values, **how)
        return str(root)

    return run


def row(found, system, metric):
    return next(r for r in found.rows if (r.system, r.metric) == (system, metric))


def test_a_changed_weight_and_what_it_did(make):
    old, new = scores(1), scores(1)
    new["SSIM"] = old["SSIM"] + 0.1
    new["MSE"] = old["MSE"] + 0.1 * np.linspace(0.5, 1, IMAGES)
    new["MI"] = old["MI"] + np.tile([0.1, -0.1], IMAGES // 2)
    still = scores(2)
    first = make("first", {"average.base.s0": still, "mma_unet.base.s0": old})
    second = make("second", {"average.base.s0": still, "mma_unet.base.s0": new}, detail=6.0)
    found = comparing.compare([first, second])
    assert found.parameters == {"methods.mma_unet.parts.fusion.loss.detail": [3.0, 6.0]}
    assert found.code == found.data == found.environment == {}
    assert found.jobs == ["reports/scores/synthetic_road/mma_unet.base.s0.run.json"]
    up = row(found, "mma_unet.base", "SSIM")
    assert up.difference == pytest.approx(0.1)
    assert (up.difference_low, up.difference_high) == pytest.approx((0.1, 0.1))
    assert (up.reference, up.mean) == pytest.approx((old["SSIM"].mean(), new["SSIM"].mean()))
    low, high = statistics.interval(old["SSIM"][None])[0]
    assert (up.reference_low, up.reference_high) == pytest.approx((low, high))
    assert up.verdict == "better"
    assert up.p == pytest.approx(2 * 0.5**IMAGES)  # all differences have one sign
    assert row(found, "mma_unet.base", "MSE").verdict == "worse"  # more is worse
    middle = row(found, "mma_unet.base", "MI")
    assert middle.verdict == "no difference shown"
    assert middle.difference_low < 0 < middle.difference_high
    assert {r.verdict for r in found.rows if r.system == "average.base"} == {"equal"}

    text = "\n".join(output.lines(found))
    assert "methods.mma_unet.parts.fusion.loss.detail  3.0" in text
    assert "code: no difference" in text
    assert f"equal on every image in {second}: average.base" in text
    assert "jobs with other results: 1 of" in text
    value = json.loads(output.as_json(found))
    assert len(value["scores"]) == 6
    assert value["parameters"] == found.parameters
    table = list(csv.DictReader(output.as_csv(found).splitlines()))
    assert float(table[3]["mean"]) == found.rows[3].mean


def test_the_comparison_fits_the_terminal(make, monkeypatch):
    old = scores(1)
    runs = [make("first", {"mma_unet.base.s0": old, "smfnet.base.s0": old})]
    for n in (1, 2):
        new = {**old, "SSIM": old["SSIM"] - 0.1 * n, "MI": old["MI"] + np.tile([0.1, -0.1], IMAGES // 2)}
        systems = {"mma_unet.base.s0": new, "smfnet.base.s0": new}
        runs.append(make(f"a_run_whose_name_is_long_and_has_the_number_{n}", systems, detail=n))
    found = comparing.compare(runs)
    whole = output.lines(found)
    table = [line.split() for line in whole if "SSIM" in line]
    assert [line[3] for line in table] == ["2", "2", "3", "3"], "runs are named by their numbers"
    assert max(map(len, whole)) > 120
    monkeypatch.setenv("COLUMNS", "80")
    narrow = output.lines(found)
    tables = [line for line in narrow if not line.startswith("  equal")]
    assert max(map(len, tables)) <= 80
    for row in (row for row in found.rows if row.verdict != "equal"):
        for number in (row.mean, row.difference_low, row.difference_high):
            assert f"{number:.4g}".lstrip("+-") in " ".join(narrow)


def test_several_runs_are_corrected_together(make):
    old = scores(1)
    runs = [make("first", {"mma_unet.base.s0": old})]
    runs += [make(f"run{n}", {"mma_unet.base.s0": {**old, "SSIM": old["SSIM"] + 0.1 * n}}) for n in (1, 2)]
    found = comparing.compare(runs)
    tested = [r for r in found.rows if r.metric == "SSIM"]
    assert [r.run for r in tested] == runs[1:]
    assert [r.p for r in tested] == pytest.approx([2 * 2 * 0.5**IMAGES] * 2)


def test_code_and_data_that_differ_are_named_and_other_images_are_not_tested(make):
    old = scores(1)
    first = make("first", {"mma_unet.base.s0": old})
    second = make("second", {"mma_unet.base.s0": scores(3)}, pack="q" * 64, code="d" * 64)
    found = comparing.compare([first, second])
    assert found.code == {"src/mmfuse/metrics/structure.py": ["c" * 12, "d" * 12]}
    assert found.data == {"data/prepared/synthetic_road/test.safetensors": ["p" * 12, "q" * 12]}
    assert {(r.verdict, r.p, r.difference_low) for r in found.rows} == {("untested", None, None)}
    assert any("other content" in note for note in found.notes)
    path = Path(second) / "data/prepared/synthetic_road/run.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    record["parameters"] = {"data/catalog.yaml:datasets.synthetic_road": {"licence": "other"}}
    write_json(path, record)
    assert comparing.compare([first, second]).parameters == {
        "data/catalog.yaml:datasets.synthetic_road.licence": [None, "other"]
    }
    third = make("third", {"mma_unet.base.s0": old}, images=[f"q{n}" for n in range(IMAGES)])
    assert any("different images" in note for note in comparing.compare([first, third]).notes)


def test_seeds_are_averaged_on_each_image(make):
    one, two = scores(1), scores(2)
    first = make("first", {"mma_unet.base.s0": one})
    second = make("second", {"mma_unet.base.s0": one, "mma_unet.base.s1": two})
    path = Path(second) / "params.yaml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    values["study"]["seeds"] = [0, 1]
    write_text(path, yaml.safe_dump(values))
    found = comparing.compare([first, second])
    assert row(found, "mma_unet.base", "SSIM").mean == pytest.approx((one["SSIM"].mean() + two["SSIM"].mean()) / 2)
    assert found.parameters == {"study.seeds": [[0], [0, 1]]}


def test_a_folder_of_reports_and_one_without_parameters(make, tmp_path):
    first = make("first", {"mma_unet.base.s0": scores(1)})
    (tmp_path / "bare").mkdir()
    shutil.copytree(f"{first}/reports", tmp_path / "bare/reports")
    for name in (f"{first}/reports", f"{first}/reports/scores", str(tmp_path / "bare")):
        found = comparing.compare([first, name])
        assert {r.verdict for r in found.rows} == {"equal"}


def test_single_systems_of_other_names_are_held_against_each_other(make):
    first = make("first", {"mma_unet.base.s0": scores(1)})
    second = make("second", {"average.base.s0": scores(2)})
    found = comparing.compare([first, second])
    assert {r.system for r in found.rows} == {"mma_unet.base -> average.base"}


def test_what_cannot_be_compared_is_refused(make, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.chdir(tmp_path)
    first = make("first", {"mma_unet.base.s0": scores(1)})
    other = make("other", {"mma_unet.base.s0": scores(1)}, convention="cddfuse")
    with pytest.raises(UserError, match="nothing in common"):
        comparing.compare([first, other])
    with pytest.raises(UserError, match="neither a folder nor a commit"):
        comparing.compare([first, "nonsense"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no results in"):
        comparing.compare([first, str(tmp_path / "empty")])
    with pytest.raises(UserError, match="A single run"):
        comparing.compare([first])
    assert not (tmp_path / "mlflow.db").exists()


def test_the_command_prints_and_writes(make, tmp_path):
    first, second = make("first", {"mma_unet.base.s0": scores(1)}), make("second", {"mma_unet.base.s0": scores(2)})
    ran = CliRunner().invoke(app, ["compare", first, second, "--json", "--out", str(tmp_path / "found.csv")])
    assert ran.exit_code == 0
    assert json.loads(ran.stdout)["runs"][1] == {"name": second, "kind": "folder", "commits": ["aaaaaaaaa"]}
    assert (tmp_path / "found.csv").read_text().startswith("dataset,system,metric")


def test_a_commit_without_results_says_what_to_commit(make, monkeypatch):
    first = make("first", {"mma_unet.base.s0": scores(1)})
    monkeypatch.chdir(first)
    for command in (
        ["init", "-q"],
        ["add", "params.yaml"],
        ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "x"],
    ):
        subprocess.run(["git", *command], check=True)
    with pytest.raises(UserError, match=r"no dvc\.lock"):
        comparing.compare([first, "HEAD"])


def commit(folder):
    for command in (
        ["init", "-q"],
        ["add", "params.yaml", "dvc.lock"],
        ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "x"],
    ):
        subprocess.run(["git", *command], cwd=folder, check=True)


@pytest.mark.parametrize("name", ["../../evil", "/evil", "a/b", "..", "evil\n", "A", "a b", ""])
def test_a_commit_cannot_name_files_outside(make, monkeypatch, name):
    first = Path(make("first", {"mma_unet.base.s0": scores(1)}))
    monkeypatch.chdir(first)
    text = (first / "params.yaml").read_text()
    assert "synthetic_road" in text
    values = yaml.safe_load(text)
    values["study"]["tasks"]["ivif"]["test"] = [name]
    (first / "params.yaml").write_text(yaml.safe_dump(values))
    (first / "dvc.lock").write_text("stages: {}\n")
    commit(first)
    with pytest.raises(UserError, match="--dataset has no such value"):
        comparing.compare([str(first), "HEAD"])


@pytest.mark.parametrize("md5", ["../../../../etc/passwd", "/etc/passwd", "ab", 7, "0" * 31 + "\n"])
def test_a_commit_cannot_read_files_outside_the_cache(make, monkeypatch, md5):
    first = Path(make("first", {"mma_unet.base.s0": scores(1)}))
    monkeypatch.chdir(first)
    out = {"path": "reports/scores/synthetic_road/mma_unet.base.s0.csv", "md5": md5}
    (first / "dvc.lock").write_text(yaml.safe_dump({"stages": {"evaluate": {"outs": [out]}}}))
    commit(first)
    subprocess.run(["dvc", "init", "-q"], check=True)
    with pytest.raises(UserError, match=r"dvc\.lock of HEAD is damaged"):
        comparing.compare([str(first), "HEAD"])


def test_a_damaged_file_in_the_cache_is_named(make, monkeypatch):
    first = Path(make("first", {"mma_unet.base.s0": scores(1)}))
    monkeypatch.chdir(first)
    path = Path("reports/scores/synthetic_road/mma_unet.base.s0.csv")
    md5 = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    (first / "dvc.lock").write_text(
        yaml.safe_dump({"stages": {"evaluate": {"outs": [{"path": path.as_posix(), "md5": md5}]}}})
    )
    commit(first)
    subprocess.run(["dvc", "init", "-q"], check=True)
    write_text(first / ".dvc/cache/files/md5" / md5[:2] / md5[2:], path.read_text().replace("0.4", "0.5", 1))
    with pytest.raises(UserError, match="DVC's cache has a damaged result of HEAD"):
        comparing.compare([str(first), "HEAD"])


def test_an_archive_gives_the_same_comparison_and_the_same_bytes(make, tmp_path, parameters):
    first = Path(make("first", {"mma_unet.base.s0": scores(1)}))
    parameters["study"]["systems"] = []
    for file in results.small_files(parameters):
        if not (first / file).exists():
            write_text(first / file, "{}")
    for name in ("a.zip", "b.zip"):
        results.pack(first, first / "params.yaml", parameters, tmp_path / name)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


# ------------------------------------------------------------------------------------------------------ registering


def test_the_best_trained_system_is_chosen_by_the_metrics_direction(make, monkeypatch, parameters):
    low, high = scores(1, -0.1), scores(1, 0.1)
    systems = {
        "mma_unet.base.s0": low,
        "lkc_funet.base.s0": high,
        "smfnet.base.s0": scores(1),
        "average.base.s0": scores(1, 9),
    }
    named = [entry for entry in parameters["study"]["systems"] if f"{entry['method']}.{entry['variant']}.s0" in systems]
    parameters["study"]["systems"] = named  # the study may name others, which have no scores here
    monkeypatch.chdir(make("first", systems))
    chosen, mean, means = registering.best(parameters, "synthetic_road", "SSIM")
    assert chosen == System("lkc_funet", "base", "ivif", 0)
    assert mean == pytest.approx(high["SSIM"].mean())
    assert list(means) == ["lkc_funet.base.s0", "smfnet.base.s0", "mma_unet.base.s0"]
    assert registering.best(parameters, "synthetic_road", "MSE")[0].method == "mma_unet"
    with pytest.raises(UserError, match="Systems cannot be ranked by 'XY'"):
        registering.best(parameters, "synthetic_road", "XY")
    with pytest.raises(UserError, match="no trained system"):
        registering.best(parameters, "tno", "SSIM")
