"""The steps of `mmfuse benchmark scale` that are our own code; each runs in its own process.

`python -m mmfuse.benchmarks.scale_steps STEP` works on the simulated study in the current folder and prints the
measurements as JSON: CPU seconds of each part, and the peak memory of the process.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from mmfuse.data.catalog import load_catalog
from mmfuse.study.parameters import load_parameters
from mmfuse.study.stages import DOWNLOAD, STAGES, report_inputs

T = TypeVar("T")
Measured = dict[str, tuple[float, float]]  # part to CPU seconds and MiB


def _timed(into: Measured, part: str, work: Callable[[], T]) -> T:
    start = time.process_time()
    result = work()
    into[part] = time.process_time() - start, _peak()
    return result


def _peak() -> float:
    """Return the peak memory of this process in MiB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def catalog() -> Measured:
    """Read and check the catalog."""
    found: Measured = {}
    _timed(found, "catalog", load_catalog)
    return found


def pairing() -> Measured:
    """Match two folders by name, like `mmfuse fuse`, and find the pairs of a dataset, like `prepare`."""
    from mmfuse.data.pairs import match_folders
    from mmfuse.data.reading import find_pairs

    found: Measured = {}
    raw = Path(DOWNLOAD.folder, "simulated_000")
    entry = load_catalog()["simulated_000"]
    test = raw / "test"
    _timed(found, "pairs of two folders", lambda: match_folders(infrared=test / "infrared", visible=test / "visible"))
    _timed(found, "pairs of a dataset", lambda: find_pairs(entry, raw))
    return found


def planning() -> Measured:
    """Read the parameters and compute all jobs' files and watched keys, on which both engines' graphs are based."""
    found: Measured = {}
    _timed(found, "plan", plan_all)
    return found


def plan_all() -> list[Any]:
    """Return everything in a plan of a study: files, and the watched keys of each job."""
    parameters = load_parameters(Path("params.yaml"))
    found: list[Any] = [report_inputs(parameters)]
    for stage in STAGES.values():
        found += [stage.watched(parameters, key) for key in stage.jobs(parameters)]
    return found


def report() -> Measured:
    """Write the report, part by part like the stage."""
    from mmfuse.reporting import viewer
    from mmfuse.reporting.pages import pages, render
    from mmfuse.reporting.study import read_study

    found: Measured = {}
    reports = Path("reports")
    parameters, entries = load_parameters(Path("params.yaml")), load_catalog()
    study = _timed(
        found, "report: scores, tests", lambda: read_study(parameters, Path(), entries, Path("data/published.csv"))
    )
    shown = _timed(found, "report: tables, figures", lambda: pages(study))
    _timed(found, "report: page", lambda: Path("reports/index.html").write_text(render(study, shown), "utf-8"))
    told: dict[str, Any] = {
        "parameters": parameters,
        "catalog": entries,
        "groups": study.groups,
        "linked": study.linked,
    }
    _timed(
        found,
        "report: viewer",
        lambda: viewer.write(reports, root=Path(), **told),
    )
    return found


STEPS = {"catalog": catalog, "pairs": pairing, "plan": planning, "report": report}

if __name__ == "__main__":
    print(json.dumps(STEPS[sys.argv[1]]()))
