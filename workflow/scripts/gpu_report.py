"""The report of a check on a GPU in Markdown: what was run, how long it took, and the scores with the paper's."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

TABLE = ("lkc_funet", "1")
OURS = "LKC-FUNet"
NAMES = {
    "fp32": "fp32, without TF32",
    "tf32": "fp32, with TF32",
    "bf16": "bf16-mixed",
    "laplacian": "Laplacian pyramid",
    "maximum": "maximum",
}


def read_table(path: Path, of: str) -> dict[str, dict[str, str]]:
    """Return the rows of the paper's table for one kind of image: method, metric, number as printed."""
    rows: dict[str, dict[str, str]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if (row["paper"], row["table"], row["dataset"]) == (*TABLE, of):
                rows.setdefault(row["method"], {})[row["metric"]] = row["value"]
    return rows


def printed_sets(parameters: Mapping[str, Any]) -> dict[str, str]:
    """Return the dataset of the paper's table for each dataset of the study."""
    entries = parameters["report"]["published"]
    return {e["datasets"][0]: e["of"] for e in entries if (e["paper"], e["table"]) == TABLE}


def text(results: Mapping[str, Any], parameters: Mapping[str, Any], printed: Path) -> str:
    """Return the whole report, without parts that were not run."""
    lines = ["# Check on a GPU", "", *_what(results)]
    for title, part in (
        ("Errors", _errors(results)),
        ("Tests", _tests(results)),
        ("Trainings", _trainings(results)),
        ("Scores and Table 1", _scores(results, parameters, printed)),
        ("Effect of the precision", _differences(results)),
        ("Inference", _inference(results)),
        ("Losses", _losses(results)),
    ):
        body = list(part)
        lines += ["", f"## {title}", "", *body] if body else []
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *rows)]


def _number(value: float | None, places: int = 3) -> str:
    return "" if value is None else f"{value:.{places}f}"


def _what(results: Mapping[str, Any]) -> Iterator[str]:
    asked, data, machine = results["asked"], results["data"], results["machine"]
    if asked["dry run"]:
        yield "**A dry run: narrow networks and small images. The numbers below have no meaning.**"
        yield ""
    if data["drawn"]:
        yield "**Synthetic images, not those of the Harvard sets.**"
        yield ""
    pairs = ", ".join(f"{name} {count}" for name, count in data["pairs"].items())
    yield f"- Machine: {machine['device']}; {machine['processor cores']} processor cores; Python {machine['python']}"
    yield f"- Packages: {', '.join(f'{name} {version}' for name, version in machine['packages'].items())}"
    if machine["not as locked"]:
        other = "; ".join(f"{name} {versions}" for name, versions in machine["not as locked"].items())
        yield f"- Versions that differ from envs/requirements.lock: {other}"
    few = f"; of each test set {asked['test pairs']} are used" if asked.get("test pairs") else ""
    yield f"- Training set {data['training set']}; pairs: {pairs}{few}"
    yield f"- Steps of a complete training: {asked['steps']}"
    for note in results.get("notes", []):
        yield f"- {note}"


def _errors(results: Mapping[str, Any]) -> Iterator[str]:
    for step, error in results.get("errors", {}).items():
        yield f"{step}:"
        yield from ("", "```", *error.splitlines()[-12:], "```", "")


def _tests(results: Mapping[str, Any]) -> Iterator[str]:
    if "tests" not in results:
        return
    tests = results["tests"]
    skipped = sum(tests["skipped"].values())
    yield f"{tests['passed']} passed, {len(tests['failed'])} failed, {skipped} skipped in {tests['seconds']:.0f} s."
    yield from (f"- failed: {name}" for name in tests["failed"])
    yield from (f"- skipped {count}: {reason}" for reason, count in tests["skipped"].items())
    if tests["exit code"] != "0":
        yield from ("", f"pytest ended with {tests['exit code']}:", "", "```", *tests["end of log"][-30:], "```")


def _trainings(results: Mapping[str, Any]) -> Iterator[str]:
    rows, wanted = [], results["asked"]["steps"]
    for precision, found in results.get("trainings", {}).items():
        steps = str(found["steps"]) if found["steps"] == wanted else f"**{found['steps']} of {wanted}**"
        each = results.get("speed", {}).get(precision, {}).get("seconds a step", found["seconds"] / found["steps"])
        last = found["losses"][-1]
        cells = [_number(each, 4), _number(found["seconds"], 1), _number(found["peak MiB"], 0)]
        rows.append([NAMES[precision], steps, *cells, _number(last["traintotal"], 4)])
    if rows:
        yield from _table(["precision", "steps", "seconds per step", "total seconds", "peak MiB", "last loss"], rows)
        if any("of" in row[1] for row in rows):
            yield ""
            yield "A training with fewer steps than requested ran out of time; its scores are those after these steps."


def _scores(results: Mapping[str, Any], parameters: Mapping[str, Any], printed: Path) -> Iterator[str]:
    scored = results.get("scores", {})
    for dataset, of in printed_sets(parameters).items():
        rows = read_table(printed, of)
        metrics = list(rows[OURS])
        ours = {name: found[dataset] for name, found in scored.items() if dataset in found}
        if not ours:
            continue
        table = [[f"{name}, printed", *(row[metric] for metric in metrics)] for name, row in rows.items()]
        for name, means in ours.items():
            table.append([_label(results, name), *(_number(means[metric]) for metric in metrics)])
        yield from (f"{of} ({dataset}):", "", *_table(["method", *metrics], table), "")


def _label(results: Mapping[str, Any], name: str) -> str:
    """Return the name of a system in the tables; for an incomplete training, with its steps."""
    if name not in results.get("trainings", {}):
        return NAMES[name]
    steps, wanted = results["trainings"][name]["steps"], results["asked"]["steps"]
    return f"**{OURS}, {NAMES[name]}{'' if steps == wanted else f', {steps} of {wanted} steps'}**"


def _differences(results: Mapping[str, Any]) -> Iterator[str]:
    found = results.get("differences", {})
    if not found:
        return
    metrics = list(next(iter(found.values()))["mean"])
    rows = []
    for one, other in combinations(NAMES, 2):
        pair = found.get(f"{one} to {other}")
        if pair is not None:
            cells = [f"{pair['mean'][metric]:+.4f} ± {pair['std'][metric]:.4f}" for metric in metrics]
            levels = f"{pair['mean grey levels']:.2f} ({pair['largest grey levels']:.0f})"
            rows.append([f"{NAMES[one]} to {NAMES[other]}", levels, *cells])
    yield "Fused images: mean (largest) difference in grey levels. Scores: mean and standard deviation of the"
    yield "differences image by image, over all sets."
    yield from ("", *_table(["from one to the other", "grey levels", *metrics], rows))


def _inference(results: Mapping[str, Any]) -> Iterator[str]:
    rows = [
        [
            row["method"],
            f"{row['height']} x {row['width']}",
            row["precision"] + (", channels last" if row["channels last"] else ""),
            _number(1000 * row["seconds"], 2),
            _number(1 / row["seconds"], 1),
            _number(row["peak MiB"], 0),
        ]
        for found in results.get("inference", {}).values()
        for row in found
    ]
    if rows:
        heads = [
            "method",
            "pair",
            "precision",
            "ms per pair",
            "pairs per second",
            "peak MiB",
            "largest difference from fp32",
        ]
        yield "One pair at a time, in eager mode, with random weights and the network of `mmfuse fuse`."
        yield from ("", *_table(heads, rows))


def _losses(results: Mapping[str, Any]) -> Iterator[str]:
    trained = results.get("trainings", {})
    steps = sorted({int(row["step"]) for found in trained.values() for row in found["losses"]})
    rows = []
    for step in steps:
        at = {name: [r for r in found["losses"] if int(r["step"]) == step] for name, found in trained.items()}
        rows.append([str(step), *(_number(at[name][0]["traintotal"], 4) if at[name] else "" for name in trained)])
    if rows:
        yield from _table(["step", *(NAMES[name] for name in trained)], rows)
