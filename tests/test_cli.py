"""The commands as a person types them: exit codes, messages, help, and whole runs on small folders."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import typer
import yaml
from typer.testing import CliRunner

from mmfuse import methods
from mmfuse.cli import app as cli
from mmfuse.cli import doctor
from mmfuse.data.images import image_files, luminance, read_image, write_image
from mmfuse.data.packs import Pack, write_pack
from mmfuse.inference.fusing import fuse_pair
from mmfuse.study import plan
from mmfuse.study.parameters import load_parameters
from mmfuse.study.stages import STAGES
from mmfuse.training.checkpoints import WeightsCard, build, read_weights, save_weights, weights_of

ROOT = Path(__file__).parents[1]


@pytest.fixture
def refused(mmfuse):
    """Run a command that must fail as the user's mistake, without a traceback; return what it says."""

    def run(*words):
        code, out, err = mmfuse(*words)
        assert code == 2, (out, err)
        assert "Traceback" not in err
        assert re.search(r"^(error|Error|Usage):", err, re.MULTILINE), err
        return err

    return run


def trained(path, **changes):
    """Write complete weights of a small MMA-UNet that was never trained."""
    torch.manual_seed(0)
    method = build("mma_unet", {"width": 4}).eval()
    values = {"method": "mma_unet", "variant": "base", "task": "ivif", "seed": 0, "part": "fusion", "complete": True}
    save_weights(path, weights_of(method.deployed_modules()), WeightsCard(**values, network={"width": 4}, **changes))
    return method


# ------------------------------------------------------------------------------------------------------------- help


def commands():
    """Every command with its path of names."""

    def below(command, names):
        inner = getattr(command, "commands", None)
        if inner is None:
            yield names, command
        else:
            for name, one in inner.items():
                yield from below(one, [*names, name])

    return list(below(typer.main.get_command(cli.app), []))


def test_all_commands_are_here():
    names = {" ".join(names) for names, _ in commands()}
    assert {"fuse", "evaluate", "list", "doctor", "sync"} <= names
    stages = {name.replace("_", "-") for name in STAGES}
    assert {name.removeprefix("stage ") for name in names if name.startswith("stage ")} == stages


@pytest.mark.parametrize(
    ("names", "command"), commands(), ids=lambda value: " ".join(value) if type(value) is list else ""
)
def test_help_names_every_option(names, command):
    result = CliRunner().invoke(cli.app, [*names, "--help"], env={"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"})
    assert result.exit_code == 0
    assert command.help
    for parameter in command.params:
        assert parameter.help, f"{parameter.name} is not explained"
        for option in (
            parameter.opts if parameter.param_type_name == "option" else [parameter.metavar or parameter.name]
        ):
            assert option.lower() in result.output.lower()


WITH_HELP = [[], ["benchmark"], ["params"], ["stage"], *(names for names, _ in commands())]


@pytest.mark.parametrize("names", WITH_HELP, ids=" ".join)
def test_help_fits_80_columns_and_has_a_short_option(names):
    said = [
        CliRunner().invoke(cli.app, [*names, option], env={"COLUMNS": "80", "TERM": "dumb", "NO_COLOR": "1"})
        for option in ("--help", "-h")
    ]
    assert said[0].exit_code == said[1].exit_code == 0
    assert said[0].output == said[1].output
    assert "Usage:" in said[0].output
    assert max(map(len, said[0].output.splitlines())) <= 80
    assert "…" not in said[0].output, "a word of the help is cut off"


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("what", cli.Listed)
def test_lists_fit_80_columns(mmfuse, what, monkeypatch):
    whole = mmfuse("list", what)[1]
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = mmfuse("list", what)
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    assert out.split() == whole.split()
    if max(map(len, whole.splitlines())) > 80:
        assert len(whole.splitlines()) < len(out.splitlines()), "a pipe gets whole lines"
    else:
        assert what not in {"metrics", "datasets"}


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("mmfuse ev", ["evaluate"]), ("mmfuse list met", ["methods", "metrics"]), ("mmfuse fuse --wei", ["--weights"])],
)
def test_tab_completion(typed, offered):
    environment = {"_MMFUSE_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
    result = CliRunner().invoke(cli.app, [], env=environment, prog_name="mmfuse")
    assert sorted(result.output.split()) == offered


def test_completion_is_installed_on_request():
    assert "--install-completion" in CliRunner().invoke(cli.app, ["--help"], env={"COLUMNS": "80"}).output


def test_help_of_the_program_itself(mmfuse):
    code, out, _ = mmfuse("--help")
    assert code == 0
    for word in ("--log", "--version", "fuse", "evaluate", "list", "doctor", "sync", "stage"):
        assert word in out
    assert mmfuse("--version")[1].startswith("mmfuse ")


# ------------------------------------------------------------------------------------------------------------- fuse


@pytest.mark.parametrize("method", [name for name in methods.available() if not methods.load(name).parts])
def test_fusing_a_mixed_folder(mmfuse, folders, tmp_path, method):
    a, b = folders
    code, out, _ = mmfuse("fuse", a, b, tmp_path / "new/out", "--method", method)
    assert code == 0
    assert "3 fused images" in out
    results = image_files(tmp_path / "new/out")
    assert [path.name for path in results.values()] == ["3.png", "one.png", "two words.png"]
    for name, path in results.items():
        first, second = read_image(image_files(a)[name]), read_image(image_files(b)[name])
        expected = fuse_pair(methods.load(method)(), first, second, torch.device("cpu"))
        assert np.array_equal(read_image(path), expected)
        assert expected.shape[:2] == first.shape[:2]
        assert expected.ndim == (2 if name == "two words" else 3)


def test_fusing_with_trained_weights(mmfuse, folders, tmp_path):
    method = trained(tmp_path / "w.safetensors")
    code, _, err = mmfuse("fuse", *folders, tmp_path / "out", "--weights", tmp_path / "w.safetensors")
    assert code == 0, err
    first, second = (read_image(image_files(folder)["3"]) for folder in folders)
    expected = fuse_pair(method, first, second, torch.device("cpu"))
    if not torch.cuda.is_available():
        assert np.array_equal(read_image(tmp_path / "out/3.png"), expected)
    assert len(image_files(tmp_path / "out")) == 3


def test_fusing_two_files(mmfuse, folders, tmp_path):
    a, b = folders
    code, _, _ = mmfuse("fuse", a / "one.png", b / "two words.png", tmp_path / "out", "--method", "laplacian")
    assert code == 2  # unequal sizes
    assert mmfuse("fuse", a / "one.png", b / "one.jpg", tmp_path / "out", "--method", "laplacian")[0] == 0
    assert read_image(tmp_path / "out/one.png").shape == (33, 47, 3)


def test_fuse_and_evaluate_end_to_end(mmfuse, folders, tmp_path):
    a, b = folders
    mmfuse("fuse", a, b, tmp_path / "out", "--method", "average")
    code, out, err = mmfuse(
        "evaluate", "--a", a, "--b", b, "--fused", tmp_path / "out", "--out", tmp_path / "s/scores.csv",
        "--metrics", "EN, SD,CC",
    )  # fmt: skip
    assert code == 0, err
    table = pd.read_csv(tmp_path / "s/scores.csv")
    assert table.columns.tolist() == ["name", "EN", "SD", "CC"]
    assert table["name"].tolist() == ["3", "one", "two words"]
    assert table["EN"][1] == pytest.approx(entropy(tmp_path / "out/one.png"))
    summary = json.loads((tmp_path / "s/scores.json").read_text(encoding="utf-8"))
    assert summary["images"] == 3
    assert summary["convention"] == "lkc_funet"
    assert summary["metrics"]["EN"]["mean"] == pytest.approx(table["EN"].mean())
    for word in ("EN", "higher is better", "3 images", "lkc_funet"):
        assert word in out


@pytest.mark.parametrize("systems", [1, 2])
@pytest.mark.parametrize(
    ("metrics", "beside", "names"),
    [
        ("EN,Qcb.mma_unet", "", ["EN", "Qcb.mma_unet"]),
        ("EN,EN.vifb,Qcb.vifb", "", ["EN", "EN.vifb", "Qcb.vifb"]),
        ("SD,Qcb.mma_unet", "cddfuse", ["SD", "SD.cddfuse", "Qcb.mma_unet"]),
    ],
)
def test_evaluate_a_single_metric_of_another_convention(mmfuse, folders, tmp_path, metrics, beside, names, systems):
    a, b = folders
    fused = [f"--fused={name}{a}" for name in ([""] if systems == 1 else ["one=", "two="])]
    said = mmfuse(
        "evaluate", "--a", a, "--b", b, *fused, "--out", tmp_path / "s.csv", "--metrics", metrics, "--beside", beside
    )
    assert said[0] == 0, said[2]
    assert set(names) <= set(said[1].split()) or systems == 2
    scores = tmp_path / ("s.csv" if systems == 1 else "s.one.csv")
    assert sorted(pd.read_csv(scores).columns) == sorted(["name", *names])


def test_evaluate_by_two_conventions(mmfuse, folders, tmp_path):
    a, b = folders
    code, out, err = mmfuse(
        "evaluate", "--a", a, "--b", b, "--fused", a, "--out", tmp_path / "s.csv", "--metrics", "SF,SD",
        "--beside", "cddfuse, vifb",
    )  # fmt: skip
    assert code == 0, err
    table = pd.read_csv(tmp_path / "s.csv")
    assert table.columns.tolist() == ["name", "SF", "SD", "SF.cddfuse", "SD.cddfuse", "SF.vifb", "SD.vifb"]
    assert (table["SD.cddfuse"] == table["SD"]).all()
    assert (table["SF.cddfuse"] != table["SF"]).all()
    summary = json.loads((tmp_path / "s.json").read_text(encoding="utf-8"))["metrics"]
    assert {name: one["convention"] for name, one in summary.items() if name.startswith("SF")} == {
        "SF": "lkc_funet",
        "SF.cddfuse": "cddfuse",
        "SF.vifb": "vifb",
    }
    assert re.search(r"SD\.cddfuse +the same as SD\n", out)
    assert "sf_mean" in out


def entropy(path):
    """EN of an image file by hand."""
    pixels = luminance(read_image(path))
    share = np.bincount(pixels.ravel(), minlength=256) / pixels.size
    return -(share[share > 0] * np.log2(share[share > 0])).sum()


@pytest.mark.parametrize("allowed", [False, True])
def test_a_lone_file(mmfuse, folders, tmp_path, allowed):
    a, b = folders
    (b / "one.jpg").unlink()
    words = ["fuse", a, b, tmp_path / "out", "--method", "laplacian", *(["--allow-missing"] if allowed else [])]
    code, _, err = mmfuse(*words)
    assert f"{a}/one.png: no image with this name in {b}" in err
    assert code == (0 if allowed else 2)
    assert (tmp_path / "out").exists() == allowed
    if allowed:
        assert len(image_files(tmp_path / "out")) == 2


def test_unequal_sizes(refused, folders, tmp_path, image):
    a, b = folders
    write_image(b / "3.png", image(1, 61, 41))
    said = refused("fuse", a, b, tmp_path / "out", "--method", "laplacian")
    assert f"61x41 in {b}/3.png" in said
    assert "61x40" in said


def test_a_truncated_image(refused, folders, tmp_path):
    a, b = folders
    good = (a / "one.png").read_bytes()
    (a / "one.png").write_bytes(good[: len(good) // 2])
    said = refused("fuse", a, b, tmp_path / "out", "--method", "laplacian")
    assert f"Damaged or unreadable image: {a}/one.png" in said
    assert f"{len(good) // 2} bytes" in said


@pytest.mark.parametrize("place", ["file/out", "/proc/mmfuse", "/proc/mmfuse/out"])
def test_an_unwritable_output_folder(refused, folders, tmp_path, place):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    said = refused("fuse", *folders, tmp_path / place, "--method", "laplacian")
    assert f"Cannot write {tmp_path / place}" in said
    assert "choose another output folder" in said


def test_sources_are_never_overwritten(refused, folders, tmp_path):
    a, b = folders
    before = {path: path.read_bytes() for folder in folders for path in folder.iterdir()}
    (tmp_path / "link").symlink_to(a)
    for words in ((a, b, a), (a, b, b), (a, b, tmp_path / "link"), (a / "one.png", b / "one.jpg", a)):
        assert "overwrite" in refused("fuse", *words, "--method", "laplacian")
    assert {path: path.read_bytes() for folder in folders for path in folder.iterdir()} == before


def test_wrong_methods_and_weights(refused, folders, tmp_path):
    assert "did you mean 'laplacian'" in refused("fuse", *folders, tmp_path / "out", "--method", "laplacean")
    assert "needs trained weights" in refused("fuse", *folders, tmp_path / "out", "--method", "mma_unet")
    garbage = tmp_path / "w.safetensors"
    assert "Weights not found" in refused("fuse", *folders, tmp_path / "out", "--weights", garbage)
    for content in (b"", b"garbage" * 100):
        garbage.write_bytes(content)
        assert f"Not a readable weights file: {garbage}" in refused(
            "fuse", *folders, tmp_path / "out", "--weights", garbage
        )
    assert not (tmp_path / "out").exists()


def test_folders_that_are_not_there(refused, tmp_path, folders):
    assert "Folder not found" in refused("fuse", tmp_path / "none", folders[1], tmp_path / "out")
    (tmp_path / "empty").mkdir()
    (tmp_path / "void").mkdir()
    assert "no images" in refused("fuse", tmp_path / "empty", tmp_path / "void", tmp_path / "out")
    assert "Missing argument" in refused("fuse", folders[0])


def test_wrong_options_of_evaluate(refused, folders, tmp_path):
    a, b = folders
    words = ["evaluate", "--a", a, "--b", b, "--fused", a, "--out", tmp_path / "s.csv"]
    assert "did you mean 'SSIM'" in refused(*words, "--metrics", "SIM")
    assert "convention" in refused(*words, "--convention", "none")
    assert "did you mean 'vifb'" in refused(*words, "--beside", "vif")
    assert "at least 41x41 pixels" in refused(*words)  # one of the images is too small for one of the metrics
    assert "--out" in refused(*words[:-2])
    said = refused("evaluate", "--a", a, "--b", b, "--fused", a, "--out", tmp_path / "s.json")
    assert ".csv" in said
    assert not (tmp_path / "s.csv").exists()


# ----------------------------------------------------------------------------------------------------- list, doctor


def test_lists(mmfuse, project):
    code, out, _ = mmfuse("list", "methods")
    assert code == 0
    for name in methods.available():
        assert f"{name}: {methods.load(name).summary}" in out
    assert "pairing=None" in out
    assert "laplacian" in out
    _, out, _ = mmfuse("list", "metrics")
    assert "convention lkc_funet: EN = en" in out
    assert "higher is better" in out
    _, out, _ = mmfuse("list", "datasets")
    catalog = yaml.safe_load((project / "data/catalog.yaml").read_text(encoding="utf-8"))
    for name, entry in catalog["datasets"].items():
        assert f"{name}: {entry['title']}" in out
    _, out, _ = mmfuse("list", "variants")
    assert "mma_unet.base: nothing changed" in out
    _, out, _ = mmfuse("list", "studies")
    assert out.startswith("no study is tracked yet;")


def test_list_mistakes(refused, project, tmp_path, monkeypatch):
    assert "methods" in refused("list", "everything")
    assert "File not found" in refused("list", "variants", "--params", project / "none.yaml")
    monkeypatch.chdir(tmp_path)
    assert "root" in refused("list", "datasets")


def test_doctor_finds_what_is_wrong(mmfuse, project):
    code, out, err = mmfuse("doctor")
    assert code == 2
    assert "FAIL environment" in out  # this folder has no lock file
    for word in (
        "ok   devices",
        "ok   parameters: params.yaml is valid",
        "mma_unet.base (",
        "synthetic_road: to be generated",
    ):
        assert word in out
    assert "1 of the checks above failed" in err
    values = yaml.safe_load((project / "params.yaml").read_text(encoding="utf-8"))
    values["methods"]["mma_unet"]["parts"]["fusion"]["loss"] = {"mse": 1.0}
    values["analyse"] = {}
    (project / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    _, out, _ = mmfuse("doctor")
    assert "FAIL methods: methods.mma_unet.parts.fusion.loss" in out
    values["study"]["tasks"]["ivif"]["test"] = ["nowhere"]
    (project / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    _, out, _ = mmfuse("doctor")
    for check in ("parameters", "methods", "data"):
        assert f"FAIL {check}: " in out
    assert "nowhere" in out


def test_every_check_of_the_doctor_can_fail(project, monkeypatch):
    def broken():
        raise OSError("a library cannot be loaded")

    monkeypatch.setattr(doctor, "_devices", broken)
    checks = {check.what: check for check in doctor.examine(project / "params.yaml")}
    assert not checks["devices"].good
    assert "a library cannot be loaded" in str(checks["devices"])


# ------------------------------------------------------------------------------------------------------------ stages


@pytest.fixture
def prepared(project, image):
    """Train, val and test packs of the two datasets."""
    for dataset in ("synthetic_road", "synthetic_brain"):
        for split, count in (("train", 4), ("val", 2), ("test", 2)):
            samples = [
                {"name": f"n{n}", "a": image(n, 48, 64), "b": image(n + 9, 48, 64, colour=split == "test")}
                for n in range(count)
            ]
            write_pack(project / f"data/prepared/{dataset}/{split}.safetensors", samples)
    return project


ROAD = "data/prepared/synthetic_road"
SYSTEM = ["--method", "mma_unet", "--variant", "base", "--seed", "0"]


def train_all(mmfuse, part):
    return mmfuse("stage", "train", "--trained-on", "ivif", *SYSTEM, "--part", part)


@pytest.mark.usefixtures("database")
def test_the_stages_from_training_to_scores(mmfuse, prepared):
    for part in ("vi_unet", "ir_unet", "fusion"):
        code, _, err = train_all(mmfuse, part)
        assert code == 0, err
    weights = "data/checkpoints/ivif/mma_unet/base/s0/fusion"
    complete, _ = read_weights(Path(f"{weights}.safetensors"))
    for part in ("vi_unet", "ir_unet"):
        own, _ = read_weights(Path(weights).with_name(f"{part}.safetensors"))
        shared = own.keys() & complete.keys()
        assert len(shared) > 50
        assert all(torch.equal(own[key], complete[key]) for key in shared), (
            "stage II starts from stage I's best weights"
        )
    history = pd.read_csv(f"{weights}.history.csv")
    assert history["step"].tolist() == [1, 2, 3, 4, 5, 6]
    assert history["val/total"].notna().tolist() == [False, True] * 3
    assert {"lr", "train/mse", "train/ssim", "train/detail"} <= set(history.columns)
    fused = "data/fused/synthetic_road/mma_unet.base.s0"
    code, _, err = mmfuse("stage", "fuse", "--dataset", "synthetic_road", *SYSTEM)
    assert code == 0, err
    assert [read_image(path).shape for path in image_files(prepared / fused).values()] == [(48, 64, 3)] * 2
    measured = json.loads(Path(f"{fused}.run.json").read_text(encoding="utf-8"))["measured"]
    assert measured["seconds_per_image"] > 0
    assert measured["parameters"] > 100
    assert (measured["height"], measured["width"]) == (48, 64)
    assert measured["multiply_adds"] > 48 * 64 * 100
    assert measured["peak_mib"] > 10
    assert measured["precision"] == "fp32"
    scores = "reports/scores/synthetic_road/mma_unet.base.s0"
    code, _, err = mmfuse("stage", "evaluate", "--dataset", "synthetic_road", *SYSTEM)
    assert code == 0, err
    table = pd.read_csv(f"{scores}.csv")
    assert table["name"].tolist() == Pack(prepared / ROAD / "test.safetensors").names
    assert table["EN"].tolist() == pytest.approx([entropy(f) for f in image_files(prepared / fused).values()])
    assert (table["SSIM.cddfuse"] != table["SSIM"]).all()
    assert (table["SD.cddfuse"] == table["SD"]).all()
    summary = json.loads(Path(f"{scores}.json").read_text(encoding="utf-8"))
    assert (summary["method"], summary["task"], summary["images"]) == ("mma_unet", "ivif", 2)
    for path, outputs in (
        (f"{weights}.run.json", {f"{weights}{end}" for end in (".safetensors", ".last.safetensors", ".history.csv")}),
        (f"{fused}.run.json", {fused}),
        (f"{scores}.run.json", {f"{scores}.csv", f"{scores}.json"}),
    ):
        record = json.loads(Path(path).read_text(encoding="utf-8"))
        assert set(record["outputs"]) == outputs
        assert record["mlflow"]["run_id"]
    assert not list((prepared / "data/resume").rglob("*.pt"))


@pytest.mark.usefixtures("database")
def test_training_again_gives_the_same_bytes(mmfuse, prepared):
    folder = prepared / "data/checkpoints/ivif/mma_unet/base/s0"
    contents = []
    for _ in range(2):
        assert train_all(mmfuse, "vi_unet")[0] == 0
        contents.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert contents[0] == contents[1]
    assert set(contents[0]) == {"vi_unet.safetensors", "vi_unet.last.safetensors", "vi_unet.history.csv",
                                "vi_unet.run.json"}  # fmt: skip


@pytest.mark.usefixtures("database", "prepared")
@pytest.mark.parametrize("named", ["once", "for each task"])
def test_one_network_is_trained_on_both_tasks(mmfuse, named):
    """Also if the study tests only one of them."""
    study = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    both = {"task": "both", "train": ["synthetic_road", "synthetic_brain"], "val": ["synthetic_road"]}
    scans = {"task": "mif", "train": ["synthetic_brain"], "val": ["synthetic_brain"]}
    study |= {"analyse": {}, "downstream": {}}
    study["study"]["training_sets"] = {"all": both, "scans": scans}
    study["methods"]["mma_unet"]["trained_on"] = "all" if named == "once" else {"ivif": "all", "mif": "all"}
    study["methods"]["mma_unet"]["variants"] |= {"scans": {"trained_on": "scans"}}
    if named == "once":
        del study["study"]["tasks"]["mif"]
    study["study"]["systems"] = [
        {"method": "mma_unet", "variant": variant, "tasks": [*study["study"]["tasks"]]} for variant in ("base", "scans")
    ]
    Path("params.yaml").write_text(yaml.safe_dump(study, sort_keys=False), encoding="utf-8")
    wanted = {"all", "scans"}
    for training in plan.trainings(load_parameters(Path("params.yaml"))):
        if training.trained_on in wanted and training.part == "vi_unet":
            key = {name.replace("_", "-"): str(value) for name, value in asdict(training).items()}
            words = [word for name, value in key.items() for word in (f"--{name}", value)]
            code, _, err = mmfuse("stage", "train", *words)
            assert code == 0, err
            wanted.remove(training.trained_on)
    assert not wanted


def test_mistakes_in_stages(refused, monkeypatch, prepared):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    fuse = ["stage", "fuse", "--dataset", "synthetic_road"]
    weights = Path("data/checkpoints/ivif/mma_unet/base/s0/fusion.safetensors")
    assert f"expected: {weights}" in refused(*fuse, *SYSTEM)
    assert "Unknown method" in refused(*fuse, "--method", "averag")
    assert "'none' of average" in refused(*fuse, "--method", "average", "--variant", "none")
    assert "'none' of mma_unet" in refused(*fuse, "--method", "mma_unet", "--variant", "none")
    assert "not part of the study" in refused("stage", "fuse", "--dataset", "tno", "--method", "average")
    assert "no dataset 'synthetic_raod'" in refused("stage", "prepare", "--dataset", "synthetic_raod")
    assert "prepare.patches.none" in refused("stage", "crop", "--dataset", "synthetic_road", "--patches", "none")
    assert "--seed has no such value" in refused(*fuse, "--method", "average", "--seed", "one")
    assert "--method has no such value" in refused(*fuse, "--method", "../average")
    assert "no protocol 'boxes' of the stage detect" in refused("stage", "detect", "--protocol", "boxes", "--set", "a")
    detect = ["stage", "detect", "--protocol", "road_boxes"]
    assert "no image set 'average.base.s9'" in refused(*detect, "--set", "average.base.s9")
    test = prepared / ROAD / "test.safetensors"
    test.unlink()
    assert f"expected: {ROAD}/test.safetensors" in refused(*fuse, "--method", "average")
    test.write_text("no pack")
    assert f"Not a readable pack: {ROAD}/test.safetensors" in refused(*fuse, "--method", "average")
    shutil.copy(prepared / ROAD / "val.safetensors", test)
    weights.parent.mkdir(parents=True)
    weights.write_text("no weights")
    assert str(weights) in refused(*fuse, *SYSTEM)
    assert not Path("data/fused").exists()


# ------------------------------------------------------------------------------------------ as a process of its own


def process(*words):
    run = subprocess.run(
        [sys.executable, "-m", "mmfuse", *map(str, words)], capture_output=True, text=True, check=False
    )
    return run.returncode, run.stdout, run.stderr


def test_an_unknown_key_as_a_process(project):
    path = project / "params.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("save_every:", "save_evry:"), encoding="utf-8")
    code, out, err = process("stage", "crop", "--dataset", "x", "--patches", "square")
    assert code == 2
    assert out == ""
    assert re.match(r"error: params\.yaml: \d+ mistakes\.\n", err)
    assert re.search(r"^params\.yaml, line \d+: unknown key 'save_evry' in train\.$", err, re.MULTILINE)
    assert "did you mean 'save_every'?" in err
    assert "Traceback" not in err


def test_the_log_holds_what_is_said_and_errors_are_shown_too(project):
    code, out, err = process("--log", "logs/deep/x.log", "fuse", project / "none", project / "none", project / "out")
    log = (project / "logs/deep/x.log").read_text(encoding="utf-8")
    assert code == 2
    assert out == ""
    assert "error: Folder not found" in log
    assert "error: Folder not found" in err
    code, out, err = process("--log", "logs/list.log", "list", "datasets")
    assert (code, out, err) == (0, "", "")
    assert "msrs: " in (project / "logs/list.log").read_text(encoding="utf-8")
    code, _, err = process("--log", "logs/option.log", "list", "datasets", "--none")
    assert code == 2
    assert "No such option" in (project / "logs/option.log").read_text(encoding="utf-8")
    assert "option.log" in err


@pytest.mark.parametrize("name", ["params.yaml", "data/catalog.yaml", "reports/scores.csv", "1.png", "no_suffix"])
def test_a_log_replaces_no_other_file(refused, tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine", encoding="utf-8")
    assert f"Cannot write {path}: this file exists" in refused("--log", path, "list", "metrics")
    assert path.read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("name", ["1.png", "s.txt", "s", "s.json", "s.CSV"])
def test_scores_are_a_csv(refused, tmp_path, name):
    (tmp_path / name).write_text("mine", encoding="utf-8")
    words = ["evaluate", "--a", tmp_path, "--b", tmp_path, "--fused", tmp_path, "--out", tmp_path / name]
    assert "a name ending in .csv" in refused(*words)
    assert (tmp_path / name).read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    ("name", "content"),
    [("s.csv", "city,people\n"), ("s.csv", "mine"), ("s.json", "{}"), ("s.json", "[1]"), ("s.json", "mine")],
)
def test_scores_replace_no_other_file(refused, tmp_path, name, content):
    (tmp_path / name).write_text(content, encoding="utf-8")
    words = ["evaluate", "--a", tmp_path, "--b", tmp_path, "--fused", tmp_path, "--out", tmp_path / "s.csv"]
    assert f"{name}: this file exists and contains no scores" in refused(*words)
    assert (tmp_path / name).read_text(encoding="utf-8") == content


def test_a_log_that_cannot_be_written(refused, tmp_path):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    for place in (tmp_path / "file/x.log", Path("/proc/mmfuse/x.log"), tmp_path):
        assert f"Cannot write {place}" in refused("--log", place, "list", "metrics")
