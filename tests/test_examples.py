"""The examples of the how-to pages, as they stand there: put into a copy of the project and used as the pages say."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from conftest import ROOT, draw_image
from mmfuse.data.images import write_image
from mmfuse.data.packs import Pack

HOW_TO = ROOT / "docs/how-to"


def blocks(page, language):
    """The contents of a page's fenced blocks in one language, in order."""
    text = (HOW_TO / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def merged(old, new):
    """A block of a page put into a whole file: blocks are merged, lists of blocks appended."""
    if isinstance(old, dict) and isinstance(new, dict):
        return old | {key: merged(old[key], value) if key in old else value for key, value in new.items()}
    return old + new if isinstance(old, list) and isinstance(new, list) and isinstance(new[0], dict) else new


@pytest.fixture
def copy(tmp_path):
    """A copy of the project with the parameters of the tiny study, and folders of images."""
    folder = tmp_path / "project"
    for name in ("src", "tests", "workflow", "data/manifests", "profiles"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("data/catalog.yaml", "pyproject.toml", "Snakefile"):
        shutil.copy(ROOT / name, folder / name)
    shutil.copy(ROOT / "workflow/configs/tiny.yaml", folder / "params.yaml")
    for number, images in enumerate(("INFRARED", "VISIBLE", "FUSED")):
        for image in range(2):
            write_image(folder / images / f"n{image}.png", draw_image(number + 10 * image, 48, 56))
    return folder


def add(folder, page, *numbers, file="params.yaml"):
    """Put YAML blocks of a page into a file."""
    values = yaml.safe_load((folder / file).read_text(encoding="utf-8"))
    for number in numbers:
        values = merged(values, yaml.safe_load(blocks(page, "yaml")[number]))
    (folder / file).write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")


def call(folder, *words):
    """Run a command with the code of a copy; return what it prints."""
    words = [sys.executable, "-m", *words]
    environment = {**os.environ, "PYTHONPATH": "src", "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
    run = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, f"{words}\n{run.stdout[-4000:]}\n{run.stderr[-4000:]}"
    return run.stdout + run.stderr


def check(folder, *words):
    """Run some tests of a copy, as a page says."""
    said = call(folder, "pytest", "-q", "-p", "no:cacheprovider", *words)
    assert int(re.search(r"(\d+) passed", said)[1]) > 1, said


def test_every_python_block_is_used_here():
    used = {"add-a-method.md": 2, "add-a-metric.md": 1, "add-an-analysis.md": 1, "use-from-python.md": 6}
    elsewhere = {"compare-runs.md": 1}  # tests/test_engines.py runs it on a registered model
    found = {path.name: len(blocks(path.name, "python")) for path in HOW_TO.glob("*.md")}
    assert {name: count for name, count in found.items() if count} == used | elsewhere


def test_use_from_python(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("infrared", "visible")):
        write_image(tmp_path / f"{name}.png", draw_image(number, 48, 56, colour=name == "visible"))
    names: dict[str, object] = {}
    for code in blocks("use-from-python.md", "python"):
        exec(compile(code, "use-from-python.md", "exec"), names)  # noqa: S102 - the page's own programs, in their order
    said = capsys.readouterr().out
    assert re.match(r"0\.\d+\n", said), "the SSIM"
    assert "differ in size" in said, "the error"
    assert names["fused"].shape == (48, 56, 3)


def test_add_a_method(copy):
    page = "add-a-method.md"
    for name, code in zip(("weighted", "tiny"), blocks(page, "python"), strict=True):
        (copy / f"src/mmfuse/methods/{name}.py").write_text(code, encoding="utf-8")
    said = call(copy, "mmfuse", "list", "methods")
    assert "weighted: weighted mean of both images" in said
    assert "tiny: three convolutions" in said
    call(copy, "mmfuse", "fuse", "INFRARED/", "VISIBLE/", "OUT/", "--method", "weighted")
    assert len(list((copy / "OUT").glob("*.png"))) == 2
    add(copy, page, 0, 1)
    values = yaml.safe_load((copy / "params.yaml").read_text(encoding="utf-8"))
    values["methods"]["tiny"] |= yaml.safe_load(blocks(page, "yaml")[2])
    named = re.findall(r"`(\{method: tiny,[^`]*\})`", (HOW_TO / page).read_text(encoding="utf-8"))
    values["study"]["systems"] += [yaml.safe_load(one) for one in [*named, named[0].replace("no_gradient", "base")]]
    (copy / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    call(copy, "mmfuse", "list", "variants")
    checked = subprocess.run(
        [sys.executable, "-m", "mmfuse", "doctor"], cwd=copy, env={**os.environ, "PYTHONPATH": "src"},
        capture_output=True, text=True, check=False,
    ).stdout  # fmt: skip
    assert re.search(r"ok +methods: .*weighted\.base.*tiny\.no_gradient.*tiny\.base", checked), checked
    check(copy, "tests/test_methods.py", "tests/test_precision.py", "-k", "weighted or tiny")


def test_add_a_metric(copy):
    page, module = "add-a-metric.md", copy / "src/mmfuse/metrics/error.py"
    [code] = blocks(page, "python")
    module.write_text(f"{module.read_text(encoding='utf-8')}\n\n{code}", encoding="utf-8")
    assert "mae_mean: lower is better" in call(copy, "mmfuse", "list", "metrics")
    words = ["--a", "INFRARED/", "--b", "VISIBLE/", "--fused", "FUSED/", "--out", "scores.csv", "--metrics", "MAE"]
    assert "(lower is better; mae_mean)" in call(copy, "mmfuse", "evaluate", *words)
    said = call(copy, "mmfuse", "benchmark", "metrics", "--height", "161", "--width", "175", "--repeats", "1")
    assert re.search(r"^mae_mean +\d+\.\d %$", said, re.MULTILINE)
    add(copy, page, 0)
    assert "MAE" in call(copy, "mmfuse", "params", "set", "evaluate.metrics=[MAE,EN]")
    check(copy, "tests/test_metrics.py", "-k", "mae_mean")


def test_a_formula_without_its_tables_breaks_no_command(copy):
    """As a published formula, the example needs further tables; until they have it, tests fail, but no command does."""
    module, table = copy / "src/mmfuse/metrics/error.py", copy / "src/mmfuse/metrics/conventions.py"
    [code] = blocks("add-a-metric.md", "python")
    code = code.replace('        name="MAE",', "")
    module.write_text(f"{module.read_text(encoding='utf-8')}\n\n{code}", encoding="utf-8")
    text = table.read_text(encoding="utf-8")
    table.write_text(
        text.replace('        "EN": "en",', '        "EN": "en",\n        "MAE": "mae_mean",', 1), encoding="utf-8"
    )
    said = call(copy, "mmfuse", "benchmark", "metrics", "--height", "161", "--width", "175", "--repeats", "1")
    assert "not compared: mae_mean" in said
    assert "MAE = mae_mean" in call(copy, "mmfuse", "list", "metrics")


def test_add_a_dataset(copy):
    page = "add-a-dataset.md"
    catalog = yaml.safe_load((copy / "data/catalog.yaml").read_text(encoding="utf-8"))
    catalog["datasets"] |= yaml.safe_load(blocks(page, "yaml")[0])
    (copy / "data/catalog.yaml").write_text(yaml.safe_dump(catalog, sort_keys=False), encoding="utf-8")
    for split, count in (("train", 6), ("test", 3)):
        for number in range(count):
            for room, colour in (("ir", False), ("vi", True)):
                pixels = draw_image(number + 20 * colour, 48, 64, colour=colour)
                write_image(copy / f"data/manual/mine/{split}/{room}/p{number}.png", pixels)
    values = yaml.safe_load((copy / "params.yaml").read_text(encoding="utf-8"))
    values["study"]["tasks"]["ivif"] = {"train": ["mine"], "test": ["mine"]}
    values["prepare"]["subset"] = {"mine": {"train": 5, "test": 2}}  # the page's numbers are for a larger one
    assert yaml.safe_load(blocks(page, "yaml")[1])["prepare"]["subset"].keys() == {"mine"}
    assert yaml.safe_load(blocks(page, "yaml")[2])["prepare"]["val_pairs"] == {"mine": 10}
    values["prepare"]["val_pairs"] = {"mine": 1}
    (copy / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    assert "mine: in data/manual" in subprocess.run(
        [sys.executable, "-m", "mmfuse", "doctor"], cwd=copy, env={**os.environ, "PYTHONPATH": "src"},
        capture_output=True, text=True, check=False,
    ).stdout  # fmt: skip
    for stage in ("download", "prepare"):
        call(copy, "mmfuse", "stage", stage, "--dataset", "mine")
    counts = {split: len(Pack(copy / f"data/prepared/mine/{split}.safetensors")) for split in ("train", "val", "test")}
    assert counts == {"train": 5, "val": 1, "test": 2}
    check(copy, "tests/test_catalog.py", "-k", "mine or every or entry")
    # the other blocks of the page are parts of an entry
    for number in (3, 4):
        part = yaml.safe_load(blocks(page, "yaml")[number])
        catalog["datasets"]["mine"] |= part
    films = catalog["datasets"]["mine"]
    films["splits"] = {"by": "list", "lists": {"test": "test_films.txt"}, "rest": "train"}
    (copy / "data/catalog.yaml").write_text(yaml.safe_dump(catalog, sort_keys=False), encoding="utf-8")
    call(copy, "mmfuse", "list", "datasets")


def test_add_an_analysis(copy):
    page = "add-an-analysis.md"
    [code] = blocks(page, "python")
    (copy / "src/mmfuse/analyses/brightness.py").write_text(code, encoding="utf-8")
    add(copy, page, 0)
    assert "brightness: Brightness [mma_unet] (example)" in call(copy, "mmfuse", "list", "analyses")
    call(copy, "mmfuse", "params", "set", "analyse.brightness.options.images=4")  # checks the whole study
    check(copy, "tests/test_analysis.py", "-k", "brightness")


def test_the_page_of_stages_names_what_exists():
    from mmfuse.study.stage import Stage

    text = (HOW_TO / "add-a-stage.md").read_text(encoding="utf-8")
    for name in ("jobs", "inputs", "watched", "entries", "unread", "resume"):
        assert f"`{name}`" in text
        assert hasattr(Stage, name) or name in Stage.__annotations__
    for path in re.findall(r"`((?:src|workflow|tests)/[\w/.]+\.\w+)`", text):
        assert (ROOT / path).is_file() or Path(path).stem == "NAME", path
    for part in re.findall(r"`((?:unpack|logged|watch|command)\(.*?\))`", text):
        rules = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "workflow/rules").glob("*.smk"))
        assert part.replace("NAME", "evaluate") in rules, part
