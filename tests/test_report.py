"""The report: self-contained, repeatable, honest about ties, gaps and where each number comes from."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from mmfuse.data.images import write_image
from mmfuse.data.packs import Sample, write_pack
from mmfuse.errors import UserError
from mmfuse.reporting import style
from mmfuse.reporting.means import score_means
from mmfuse.stages import report
from mmfuse.study import plan
from mmfuse.study.plan import System

ROOT = Path(__file__).parents[1]
MLFLOW_RUN = "http://127.0.0.1:5000/#/experiments/1/runs/f00d?workflowType=machine_learning"
NASTY = "<script>alert(1)</script>"
NAMES = ["p1", "p2", 'odd "<i>&', "p4"]
METRICS = {"EN": ("en", "higher"), "Nabf": ("nabf", "lower")}
BESIDE = {"EN.ivif_zoo": ("en_ivif_zoo", "higher"), "Nabf.ivif_zoo": ("nabf", "lower")}
PARAMETERS: dict[str, Any] = {
    "study": {
        "name": f"tiny {NASTY}",
        "seeds": [0],
        "tasks": {"ivif": {"train": ["road"], "test": ["road"]}, "mif": {"train": ["brain"], "test": ["brain"]}},
        "systems": [
            {"method": "average", "variant": "base", "tasks": ["ivif", "mif"]},
            {"method": "maximum", "variant": "base", "tasks": ["ivif", "mif"]},
            {"method": "net", "variant": "base", "tasks": ["ivif"]},
        ],
    },
    "report": {"images": 2, "patch": 8, "zoom": 4, "width": 24, "viewer": {"pairs": None, "seeds": "all"}},
    "methods": {"net": {"parts": {"first": {"patches": "whole"}, "second": {"patches": "square"}}}},
}


def _entry(task: str, title: str) -> dict[str, Any]:
    return {
        "title": title,
        "task": task,
        "roles": {"a": "infrared", "b": "visible"},
        "layout": {"a": "a/{name}.png", "b": "b/{name}.png", "mask": "mask/{name}.png", "boxes": "boxes/{name}.txt"},
        "common_size": None,
        "colour": {"a": "grey", "b": "colour"},
        "value_range": [0, 255],
        "splits": {"by": "all", "to": "test"},
        "labels": {"mask": {"classes": {0: "nothing", 1: "car"}}, "boxes": {"format": "yolo", "classes": {0: "Lamp"}}},
        "licence": "CC0",
        "citation": "Somebody et al., example.org/paper",
        "mirror": "elsewhere",
        "manifest": None,
        "sources": [{"git": "https://example.org/data", "commit": None}],
        "defects": ["<b>three</b> images are missing"],
    }


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def renew_record(project: Path, system: str = "average.base.s0") -> None:
    """Let the record of `evaluate` on the dataset road list the scores that are there now."""
    room = project / "reports/scores/road"
    path = room / f"{system}.run.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    files = [room / f"{system}{end}" for end in (".csv", ".json")]
    record["outputs"] = {file.relative_to(project).as_posix(): _digest(file) for file in files}
    path.write_text(json.dumps(record), encoding="utf-8")


def _record(path: Path, stage: str, root: Path, inputs: list[Path], outputs: list[Path]) -> None:
    record = {
        "stage": stage,
        "command": f"mmfuse stage {stage}",
        "inputs": {p.relative_to(root).as_posix(): _digest(p) for p in inputs},
        "outputs": {p.relative_to(root).as_posix(): _digest(p) for p in outputs},
        "parameters": {"note": "</pre>" + NASTY},
        "versions": {"python": "3.11", "mmfuse": "0.1.0"},
        "commit": "abc123",
        "dirty": False,
        "seed": 0,
        "machine": {"system": "Linux", "processor": "any", "cores": 2, "device": "cpu"},
        "mlflow": {"uri": "sqlite:///mlflow.db", "experiment": "tiny", "run_id": "f00d", "page": MLFLOW_RUN},
    }
    path.write_text(json.dumps(record), encoding="utf-8")


def _scores(folder: Path, dataset: str, system: System, values: dict[str, list[float]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{system.label}.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["name", *values])
        writer.writerows([name, *row] for name, row in zip(NAMES, zip(*values.values(), strict=True), strict=True))
    metrics = {}
    for name, series in values.items():
        defined = [v for v in series if np.isfinite(v)]
        definition, better = {**METRICS, **BESIDE}[name]
        metrics[name] = {
            "convention": name.partition(".")[2] or "lkc_funet",
            "definition": definition,
            "better": better,
            "mean": float(np.mean(defined)) if defined else None,
            "count": len(defined),
        }
    summary = {"dataset": dataset, "convention": "lkc_funet", "images": len(NAMES), "metrics": metrics}
    (folder / f"{system.label}.json").write_text(json.dumps(summary), encoding="utf-8")


VALUES = {
    "average": {"EN": [5.0, 5.0, 6.0, 6.0], "Nabf": [0.1, 0.1, 0.1, 0.1]},
    "maximum": {"EN": [6.0, 6.0, 7.0, 7.0], "Nabf": [0.3, 0.3, 0.3, 0.3]},
    "net": {"EN": [6.0, 6.0, 7.0, 7.0], "Nabf": [float("nan")] * 4},
}


def _dataset(root: Path, dataset: str, random: np.random.Generator) -> None:
    folder = root / "data/prepared" / dataset
    samples: list[Sample] = [
        {
            "name": name,
            "a": random.integers(0, 256, (20, 32), dtype=np.uint8),
            "b": random.integers(0, 256, (20, 32, 3), dtype=np.uint8),
        }
        for name in NAMES
    ]
    if dataset == "road":
        for sample in samples:
            sample["mask"] = np.eye(20, 32, dtype=np.uint8)
            sample["boxes"] = np.array([[0, 0.5, 0.5, 0.2, 0.2]], dtype=np.float32)
    write_pack(folder / "test.safetensors", samples)
    lines = ["name,split,height,width,a,b", *(f"t{i},train,20,32,x,y" for i in range(7))]
    lines += [f"p{i},test,20,32,x,y" for i in range(4)]
    lines += ["Damaged image: p5.png,dropped,,,,"] if dataset == "brain" else []
    (folder / "pairs.csv").write_text("\n".join(lines), encoding="utf-8")
    raw = root / "data/raw" / dataset
    raw.parent.mkdir(exist_ok=True)
    raw.write_text("as downloaded", encoding="utf-8")
    _record(raw.with_name(f"{dataset}.run.json"), "download", root, [], [raw])
    _record(folder / "run.json", "prepare", root, [raw], [folder / "test.safetensors"])
    _record(folder / "patches.square.run.json", "crop", root, [], [])


def _training(root: Path, seed: int) -> None:
    for part in ("first", "second"):
        weights = root / f"data/checkpoints/ivif/net/base/s{seed}" / f"{part}.safetensors"
        weights.parent.mkdir(parents=True, exist_ok=True)
        weights.write_bytes(part.encode())
        rows = [f"{i},0.1,{1 / i},{1 / i if i % 5 == 0 else ''}" for i in range(1, 21)]
        history = "\n".join(["step,lr,train/total,val/total", *rows])
        weights.with_name(f"{part}.history.csv").write_text(history, encoding="utf-8")
        _record(weights.with_suffix(".run.json"), "train", root, [], [weights])


def _results(
    root: Path, dataset: str, system: System, values: dict[str, list[float]], random: np.random.Generator
) -> None:
    fused = root / "data/fused" / dataset / system.label
    for name in NAMES:
        write_image(fused / f"{name}.png", random.integers(0, 256, (20, 32, 3), dtype=np.uint8))
    made = sorted(fused.iterdir())
    pack = root / "data/prepared" / dataset / "test.safetensors"
    _record(fused.parent / f"{system.label}.run.json", "fuse", root, [pack], made)
    scores = root / "reports/scores" / dataset
    _scores(scores, dataset, system, values)
    table = scores / f"{system.label}.csv"
    _record(scores / f"{system.label}.run.json", "evaluate", root, made, [table, table.with_suffix(".json")])


def make_study(root: Path) -> None:
    """Write a whole made-up study of two datasets and three systems into a folder."""
    random = np.random.default_rng(0)
    entries = {"road": _entry("ivif", f"Roads {NASTY}"), "brain": _entry("mif", "Brains")}
    (root / "catalog.yaml").write_text(yaml.safe_dump({"datasets": entries}), encoding="utf-8")
    (root / "published.csv").write_text("paper,table,dataset,method,metric,value\n", encoding="utf-8")
    for dataset in entries:
        _dataset(root, dataset, random)
    _training(root, seed=0)
    for dataset, system in plan.scored_pairs(PARAMETERS):
        _results(root, dataset, system, VALUES[system.method], random)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Draw figures only where a test looks at them."""
    monkeypatch.chdir(ROOT)  # the catalog's schema is found from the project's root
    if "really_drawn" not in request.fixturenames:
        monkeypatch.setattr(style, "_files", lambda *_: dict.fromkeys(("svg", "pdf", "png"), b"<svg/>"))


@pytest.fixture
def really_drawn() -> None:
    """Figures are drawn in full."""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A made-up study."""
    make_study(tmp_path)
    return tmp_path


def _run(project: Path, out: Path | None = None, parameters: dict[str, Any] | None = None) -> str:
    out = out or project / "out"
    report.run(
        parameters=parameters or PARAMETERS,
        root=project,
        out=out,
        catalog=project / "catalog.yaml",
        printed=project / "published.csv",
    )
    return (out / "index.html").read_text(encoding="utf-8")


class _Page(HTMLParser):
    """Collects what a browser would load, the ids, the links and the images of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def all(self, attribute: str) -> list[str]:
        return [value or "" for _, attrs in self.tags for name, value in attrs.items() if name == attribute]


def test_page_loads_nothing_but_what_it_holds(project):
    text = _run(project)
    page = _Page(text)
    assert page.all("src") and all(src.startswith("data:") for src in page.all("src"))
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|import\(", text)
    downloads = [attrs["href"] for tag, attrs in page.tags if tag == "a" and "download" in attrs]
    assert all((project / "out" / href).is_file() for href in downloads)
    others = {h.partition("#")[0] for h in page.all("href") if h not in downloads and not h.startswith(("#", "data:"))}
    tracked = {h for h in page.all("href") if h.startswith("http")}
    assert tracked == {MLFLOW_RUN, MLFLOW_RUN.replace("/f00d", "")}, "of MLflow"
    assert others - {h.partition("#")[0] for h in tracked} == {"viewer.html"}


def test_every_table_and_figure_can_be_downloaded(project):
    text = _run(project)
    hrefs = set(_Page(text).all("href"))
    rooms = [project / "out/tables", project / "out/figures"]
    made = {p.relative_to(project / "out").as_posix() for room in rooms for p in room.rglob("*") if p.is_file()}
    assert made - hrefs == {"tables/published.csv"}, "a study without papers' tables has no page for them"
    assert {"tables/road.tex", "tables/road.pairs.tex", "tables/provenance.csv", "figures/road/ranks.pdf"} <= made
    for path in (project / "out/tables").glob("*.tex"):
        latex = path.read_text(encoding="utf-8")
        assert latex.count("\\begin{") == latex.count("\\end{") >= 1
        columns = re.findall(r"\\begin{(?:tabular|longtable)}{(.*)}\n", latex)
        parts = latex.split("\\begin{tabular}" if "\\begin{tabular}" in latex else "\\begin{longtable}")[1:]
        for spec, part in zip(columns, parts, strict=True):
            body = part.rpartition("\\endfoot\n" if "\\endfoot" in part else "\\midrule\n")[2].splitlines()
            count = len(re.sub(r">{.*?arraybackslash}p{.*?linewidth}", "p", spec))
            lines = [line for line in body if line.endswith(r" \\")]
            assert lines
            assert all(line.count(" & ") == count - 1 for line in lines), path.name


def test_links_lead_somewhere_and_ids_are_unique(project):
    page = _Page(_run(project))
    ids = page.all("id")
    assert len(ids) == len(set(ids))
    assert {href[1:] for href in page.all("href") if href.startswith("#")} <= set(ids)


def test_every_number_of_the_table_links_to_its_run(project):
    text = _run(project)
    row = re.search(r'<tr id="row-road-average\.base".*?</tr>', text, re.DOTALL)
    assert row is not None
    assert row.group().count('href="#run-evaluate-road-average.base.s0"') == len(METRICS)


def test_pictures_have_alternative_texts_and_figures_captions(project):
    text = _run(project)
    images = [attrs for tag, attrs in _Page(text).tags if tag == "img"]
    assert all(image["alt"] for image in images)
    # all datasets: the radar; two datasets: grey levels, distributions and ranks; one trained system: curves
    plots = r'<figure class="plot">\s*<h3>[^<]+</h3>\s*<div [^>]+><img [^>]+></div>\s*<figcaption>[^<]{20,}'
    assert text.count('<figure class="plot">') == len(re.findall(plots, text)) == 8


@pytest.mark.usefixtures("really_drawn")
def test_equal_inputs_give_equal_bytes_in_every_file(project):
    _run(project, project / "one")
    _run(project, project / "two")
    one = {p.relative_to(project / "one"): p.read_bytes() for p in (project / "one").rglob("*") if p.is_file()}
    two = {p.relative_to(project / "two"): p.read_bytes() for p in (project / "two").rglob("*") if p.is_file()}
    assert one == two
    starts = {".svg": b"<?xml", ".pdf": b"%PDF", ".png": b"\x89PNG"}
    figures = [path for path in one if path.parts[0] == "figures"]
    assert {path.suffix for path in figures} == set(starts)
    assert all(one[path].startswith(starts[path.suffix]) for path in figures)
    assert (project / "one/index.html").read_text().count("data:image/svg+xml") == len(figures) / 3


HOSTILE = "savefig.dpi: 37\nlines.linewidth: 9\naxes.facecolor: red\npath.sketch: 1, 100, 2\nbackend: TkAgg\n"


@pytest.mark.parametrize("settings", ["", HOSTILE, "no such key: 1\n", "axes.facecolor: nonsense\n"])
def test_settings_of_the_users_matplotlib_change_no_figure(tmp_path, settings):
    (tmp_path / "matplotlibrc").write_text(settings)
    code = """
import hashlib
from mmfuse.reporting.style import Album
album = Album()
album.draw("x", "y", "t", "w", (3, 2), lambda figure: figure.subplots().plot([1, 3, 2], label="a"))
print(hashlib.sha256(b"".join(album.files.values())).hexdigest())
"""

    def drawn(**settings):
        run = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
            env=os.environ | settings,
        )
        return run.stdout

    assert drawn(MATPLOTLIBRC=str(tmp_path), MPLBACKEND="nonsense") == drawn(MATPLOTLIBRC="/nowhere")


def _measure(project: Path, method: str, **measured: float) -> None:
    path = project / f"data/fused/road/{method}.base.s0.run.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    record["measured"] = measured
    path.write_text(json.dumps(record), encoding="utf-8")


def test_costs_stand_beside_the_places(project):
    assert 'id="efficiency"' not in _run(project), "records of an earlier version have no times"
    _measure(project, "average", seconds_per_image=0.002, parameters=0)
    size = {"height": 20, "width": 32, "multiply_adds": 1_500_000_000, "peak_mib": 512.25}
    _measure(project, "net", seconds_per_image=0.5, parameters=12345, **size)
    text = _run(project)
    assert (
        text.count("<h3>Time and quality, road</h3>")
        == text.count("<h3>Places on the metrics, and time, road</h3>")
        == 1
    )
    row = re.search(r'<tr><th scope="row">net</th>.*?</tr>', text)
    assert row is not None
    assert re.findall(r">([^<>]+)</a></td>", row.group()) == ["32×20", "12.3 k", "1.5 G", "0.5", "512 MiB"]
    assert "measured on Linux, any, 2 cores, cpu." in text
    assert "Left out, because their time was not measured: maximum." in text
    with (project / "out/tables/efficiency.csv").open(encoding="utf-8") as stream:
        lines = {line["method"]: line for line in csv.DictReader(stream)}
    assert lines["net"]["multiply-adds"] == "1500000000"
    assert lines["average"]["peak MiB"] == ""


def test_the_zoomed_window_can_be_placed(project):
    parameters = json.loads(json.dumps(PARAMETERS))
    parameters["report"]["images"] = {"road": ["p4"], "brain": ["p4"]}
    by_rule = _run(project, parameters=parameters)
    parameters["report"]["places"] = {"road": {"p4": [11, 23]}}
    text = _run(project, parameters=parameters)
    assert text != by_rule
    assert "On p4, the parameters set its position" in " ".join(text.split())
    parameters["report"]["places"] = {"road": {"p4": [13, 0]}}
    with pytest.raises(UserError, match="extends beyond the image"):
        _run(project, parameters=parameters)


def test_variants_are_followed_along_an_option(project):
    parameters = json.loads(json.dumps(PARAMETERS))
    parameters["methods"]["maximum"] = {"network": {"kernels": [7, 3]}}
    entry = {"title": "Kernel & more", "method": "maximum", "x": "kernels", "lines": {"plain": ["base"]}}
    parameters["report"]["sweeps"] = [entry | {"metrics": ["Nabf", "EN"]}]
    text = _run(project, parameters=parameters)
    assert text.count("<h3>Kernel &amp; more, ") == 2
    assert "plain: base. Bars: 95 % bootstrap interval of the mean over the test images." in text
    parameters["report"]["sweeps"][0]["method"] = "net"
    parameters["methods"]["net"]["network"] = {"kernels": 5}
    assert _run(project, parameters=parameters).count("<h3>Kernel &amp; more, ") == 1, "only road has it"


def test_counts_and_dropped_pairs_are_told(project):
    text = _run(project)
    assert text.count("train: 7, 32×20") == 2
    assert text.count("Left out") == 1
    assert "Damaged image: p5.png" in text


def test_changed_score_changes_the_page(project):
    before = _run(project)
    system = System("average", "base", "ivif", 0)
    _scores(project / "reports/scores/road", "road", system, {**VALUES["average"], "EN": [5.5, 5.0, 6.0, 6.0]})
    renew_record(project)
    assert _run(project) != before


def test_the_figures_of_an_unchanged_dataset_are_not_drawn_again(project, monkeypatch):
    drawn = []
    quick = style._files
    monkeypatch.setattr(style, "_files", lambda paint, *size: drawn.append(paint.func.__name__) or quick(paint, *size))
    before = _run(project)
    count = len(drawn)
    assert count == len(list((project / ".mmfuse/figures").iterdir()))
    assert _run(project) == before
    assert len(drawn) == count
    _scores(
        project / "reports/scores/road",
        "road",
        System("average", "base", "ivif", 0),
        {**VALUES["average"], "EN": [5.5, 5.0, 6.0, 6.0]},
    )
    renew_record(project)
    _run(project)
    assert sorted(drawn[count:]) == ["_boxes", "_ranks"], "the radar shows the same shares, and brain the same scores"
    assert count == len(list((project / ".mmfuse/figures").iterdir())), "only those of the last report are kept"


def test_means_are_those_of_the_tables(project):
    groups = report.run(
        parameters=PARAMETERS,
        root=project,
        out=project / "out",
        catalog=project / "catalog.yaml",
        printed=project / "published.csv",
    )
    found = score_means(groups)
    assert {dataset: list(of) for dataset, of in found.items()} == {
        "road": ["average.base", "maximum.base", "net.base"],
        "brain": ["average.base", "maximum.base"],
    }
    for dataset, of in found.items():
        for name, means in of.items():
            summary = json.loads((project / f"reports/scores/{dataset}/{name}.s0.json").read_text())["metrics"]
            expected = {metric: summary[metric]["mean"] for metric in METRICS}
            assert means == {
                metric: pytest.approx(value or math.nan, nan_ok=True) for metric, value in expected.items()
            }


def test_html_in_names_is_escaped(project):
    text = _run(project)
    assert NASTY not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "<i>&" not in text
    assert "<b>three" not in text


def test_undefined_scores_are_shown_and_not_ranked(project):
    text = _run(project)
    row = re.search(r'<tr id="row-road-net\.base".*?</tr>', text, re.DOTALL)
    assert row is not None
    assert "n/a" in row.group()
    with (project / "out/tables/road.csv").open(encoding="utf-8") as stream:
        lines = {line["method"]: line for line in csv.DictReader(stream)}
    assert lines["net"]["Nabf mean"] == ""
    # only EN is defined for all: maximum and net share the places 1 and 2
    assert [lines[m]["mean rank"] for m in ("average", "maximum", "net")] == ["3.0", "1.5", "1.5"]
    assert float(lines["average"]["EN std"]) == 0.5


def test_verdict_names_the_tie(project):
    _run(project)
    text = _run(project)
    assert "maximum and net share the lowest mean rank on the one metric EN" in text


@pytest.mark.parametrize(
    ("path", "stage"),
    [
        ("reports/scores/road/net.base.s0.csv", "evaluate"),
        ("reports/scores/brain/average.base.s0.json", "evaluate"),
        ("reports/scores/road/net.base.s0.run.json", "evaluate"),
        ("data/fused/road/maximum.base.s0.run.json", "fuse"),
        ("data/fused/road/maximum.base.s0/p4.png", "fuse"),
        ("data/checkpoints/ivif/net/base/s0/second.history.csv", "train"),
        ("data/checkpoints/ivif/net/base/s0/first.run.json", "train"),
        ("data/prepared/brain/pairs.csv", "prepare"),
        ("data/prepared/road/patches.square.run.json", "crop"),
        ("data/raw/road.run.json", "download"),
        ("data/prepared/brain/test.safetensors", "prepare"),
    ],
)
def test_missing_file_is_named_with_its_stage_and_nothing_is_written(project, path, stage):
    (project / path).unlink()
    with pytest.raises(UserError) as caught:
        _run(project)
    assert path in str(caught.value)
    assert f"`{stage}`" in str(caught.value)
    assert not (project / "out").exists()


def test_table_and_summary_that_disagree_are_refused(project):
    path = project / "reports/scores/road/average.base.s0.csv"
    path.write_text(path.read_text(encoding="utf-8").replace("5.0", "5.9"), encoding="utf-8")
    renew_record(project)
    with pytest.raises(UserError, match="disagree on EN"):
        _run(project)


def test_systems_measured_on_other_images_are_refused(project):
    path = project / "reports/scores/road/average.base.s0.csv"
    path.write_text(path.read_text(encoding="utf-8").replace("p4", "p5"), encoding="utf-8")
    renew_record(project)
    with pytest.raises(UserError, match="cannot be put in one table"):
        _run(project)


def test_stale_input_is_reported(project):
    assert "other checksum than" not in _run(project)
    path = project / "reports/scores/road/average.base.s0.run.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    name = "data/fused/road/average.base.s0/p1.png"
    record["inputs"][name] = "0" * 64
    path.write_text(json.dumps(record), encoding="utf-8")
    text = _run(project)
    assert "1 with a checksum other than the one recorded" in text
    assert f"{name}, read by evaluate road · average.base.s0" in text


def test_named_images_are_shown_and_unknown_ones_refused(project):
    wish = {**PARAMETERS, "report": {**PARAMETERS["report"], "images": {"road": ["p4"], "brain": 1}}}
    assert "<h4>p4</h4>" in _run(project, parameters=wish)
    wish["report"]["images"]["road"] = ["p9"]
    with pytest.raises(UserError, match="p9"):
        _run(project, parameters=wish)


def test_seeds_are_averaged_and_listed(project):
    parameters = {**PARAMETERS, "study": {**PARAMETERS["study"], "seeds": [0, 1]}}
    values = {"EN": [8.0, 8.0, 9.0, 9.0], "Nabf": [0.2] * 4}
    _training(project, seed=1)
    _results(project, "road", System("net", "base", "ivif", 1), values, np.random.default_rng(1))
    page = _Page(_run(project, parameters=parameters))
    with (project / "out/tables/road.csv").open(encoding="utf-8") as stream:
        lines = [line for line in csv.DictReader(stream) if line["method"] == "net"]
    assert [(line["seed"], float(line["EN mean"])) for line in lines] == [("mean of 2", 7.5), ("0", 6.5), ("1", 8.5)]
    assert float(lines[0]["EN seeds std"]) == pytest.approx(2**0.5)  # of 6.5 and 8.5, divided by n - 1
    assert lines[1]["EN seeds std"] == lines[1]["EN low"] == ""
    assert {"row-road-net.base", "row-road-net.base.s0", "row-road-net.base.s1"} <= set(page.all("id"))
    assert {href[1:] for href in page.all("href") if href.startswith("#")} <= set(page.all("id"))


def _tables(text: str, kind: str) -> list[str]:
    return re.findall(rf'<table class="{kind}">.*?</table>', text, re.DOTALL)


def test_intervals_and_marks_follow_the_images(project):
    """With four images no test can tell anything apart, so all are tied with the best."""
    text = _run(project)
    road, _ = _tables(text, "scores")
    rows = re.findall(r'<tr id="row-road-.*?</tr>', road, re.DOTALL)
    assert [len(re.findall("≈</span> 5.500", row)) for row in rows] == [1, 0, 0]
    assert ["<strong>6.500</strong>" in row for row in rows] == [False, True, True]  # equal means
    assert "EN (en), not significantly worse than the best: 4 of 4 images" in rows[0]
    assert '<span class="below">[5.00, 6.00]</span>' in rows[0]
    assert "With 4 images and so many pairs, no difference can be significant" in text
    with (project / "out/tables/road.csv").open(encoding="utf-8") as stream:
        line = next(csv.DictReader(stream))
    assert (float(line["EN low"]), float(line["EN high"]), float(line["EN rank"])) == (5.0, 6.0, 3.0)
    assert float(line["critical difference"]) == pytest.approx(2.343 * (12 / 24) ** 0.5, rel=1e-3)


def test_paired_tests_are_written_with_all_digits(project):
    text = _run(project)
    with (project / "out/tables/road.pairs.csv").open(encoding="utf-8") as stream:
        lines = list(csv.DictReader(stream))
    found = {(line["metric"], line["first"], line["second"]): (line["images"], line["p"]) for line in lines}
    assert len(found) == 6
    assert found["EN", "average", "maximum"] == ("4", "0.375")  # 2 of 16 choices of signs, three pairs
    assert found["EN", "maximum", "net"] == ("4", "1.0")  # equal on all images
    assert found["Nabf", "average", "maximum"] == ("4", "0.125")  # the only pair with values
    assert found["Nabf", "average", "net"] == ("0", "")
    assert {line["better"] for line in lines} == {""}
    road = re.sub(r"\s+", " ", _tables(text, "tests")[0])
    assert '<th scope="row">average – maximum</th><td class="soft"> 0.375</td><td class="soft"> 0.125</td>' in road


def test_a_second_convention_stands_beside(project):
    alone = _run(project, project / "alone")
    for system in (s for dataset, s in plan.scored_pairs(PARAMETERS) if dataset == "road"):
        own = VALUES[system.method]
        beside = {"EN.ivif_zoo": [12 - v for v in own["EN"]], "Nabf.ivif_zoo": own["Nabf"]}
        _scores(project / "reports/scores/road", "road", system, {**own, **beside})
        renew_record(project, system.label)
    text = _run(project)
    main, beside = _tables(text, "scores")[:2]
    expected = (main, [("3", "lkc_funet")], 3), (beside, [("1", "ivif_zoo")], 1)  # in main the mean rank as well
    for table, names, cells in expected:
        assert re.findall(r'scope="colgroup" colspan="(\d+)" class="convention"><code>(\w+)</code>', table) == names
        assert re.findall(r'<colgroup(?: span="(\d+)")?>', table) == ["", names[0][0]]
        rows = re.findall(r'<tr[^>]*><th scope="row">.*?</tr>', table, re.DOTALL)
        assert [len(re.findall("<td[ >]", row)) for row in rows] == [cells] * 3
    assert "<strong>6.500</strong>" in beside.partition("maximum")[0]  # average is first by ivif_zoo
    assert "Nabf is the same as under" in re.sub("<.*?>", "", text)
    assert "maximum and net share the lowest mean rank on the one metric EN" in text
    with (project / "out/tables/road.csv").open(encoding="utf-8") as stream:
        lines = list(csv.DictReader(stream))
    assert float(lines[0]["EN.ivif_zoo mean"]) == 6.5
    assert not any(name.startswith("Nabf.") for name in lines[0])
    with (project / "alone/tables/road.csv").open(encoding="utf-8") as stream:
        assert [line["mean rank"] for line in csv.DictReader(stream)] == [line["mean rank"] for line in lines]
    assert "ivif_zoo</code>" not in alone
