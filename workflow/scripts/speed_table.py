"""Measure the networks in every backend, and write the tables of docs/speed.md.

`python workflow/scripts/speed_table.py measure speed.json --minutes 12` measures as many cases as fit, the most
important ones first, and writes the file after each of them. Without `--minutes` it measures all of them, which takes
more than an hour. `... write speed.json` puts the tables into docs/speed.md.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mmfuse.benchmarks import backends
from mmfuse.benchmarks.network import Case
from mmfuse.files.writing import behind_link, write_json, write_text

DOCS = Path("docs/speed.md")
BEGIN, END = "<!-- tables of speed_table.py -->\n", "<!-- end of the tables -->\n"
FAST = tuple(name for name in backends.ALL if name != "compile")  # compiling takes a minute
TITLES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "compile": "torch.compile"}
PACKAGES = ("torch", "onnxruntime", "openvino")
SIZES = ((256, 256), (480, 640), (768, 1024))


class Row(NamedTuple):
    """One case: shipped weights or a method at the paper's size, and the backends to measure."""

    network: str
    height: int
    width: int
    threads: int
    names: Sequence[str]


FIRST = [
    Row("lkc_ivif", 256, 256, 2, backends.ALL),
    Row("mma_unet", 256, 256, 2, backends.ALL),
    Row("smfnet", 256, 256, 2, FAST),
    Row("lkc_ivif", 256, 256, 1, FAST),
    Row("mma_unet", 256, 256, 1, FAST),
    Row("lkc_ivif", 480, 640, 2, FAST),
    Row("mma_unet", 480, 640, 2, FAST),
    Row("lkc_ivif", 768, 1024, 2, FAST),
]
EVERY = [
    Row(network, height, width, threads, FAST)
    for height, width in SIZES
    for network in ("lkc_ivif", "mma_unet", "smfnet", "lkc_funet")
    for threads in (2, 1)
]


def cases() -> Iterator[Row]:
    """Yield all cases once, the most important ones first."""
    yield from FIRST
    measured = {row[:4] for row in FIRST}
    yield from (row for row in EVERY if row[:4] not in measured)


def measure(out: Path, *, minutes: float, repeats: int) -> None:
    """Measure the cases that begin within some minutes, and write the results after each of them."""
    end, found = time.monotonic() + 60 * minutes, []
    for row in cases():
        if time.monotonic() > end:
            print(f"no time for {row.network}, {row.height} x {row.width}, and what follows")
            break
        case = Case(row.network, {}, row.height, row.width, 1, False, repeats, row.threads, 256, 4096)
        result = backends.run(case, row.names, limit=1800)
        found.append(result)
        for line in backends.lines(result):
            print(line, flush=True)
        write_json(out, {"processor": _processor(), "versions": _versions(), "results": found})


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = {line.partition(":")[2].strip() for line in lines if line.startswith("model name")}
    has = torch.cpu.get_capabilities()
    features = [name for name in ("avx2", "avx512_f", "avx512_bf16", "amx_bf16") if has.get(name)]
    return f"{' and '.join(sorted(names))} ({', '.join(features)})"


def _versions() -> dict[str, str]:
    installed = {one.metadata["Name"].lower() for one in importlib.metadata.distributions()}
    return {name: importlib.metadata.version(name) for name in PACKAGES if name in installed}


def tables(measured: Mapping[str, Any]) -> str:
    """Return the tables as Markdown."""
    results = sorted(measured["results"], key=lambda one: (one["method"], one["height"], -one["threads"]))
    versions = ", ".join(f"{name} {version}" for name, version in measured["versions"].items())
    repeats = " or ".join(sorted({str(one["repeats"]) for one in results}))
    text = f"Measured on one {measured['processor']}, with {versions}; medians of {repeats} calls.\n\n"
    text += "Seconds per pair; the shortest time in fp32 is bold:\n\n" + _table(results, _seconds)
    text += "\nPeak memory of the process in MiB:\n\n" + _table(
        results, lambda one, name: f"{one['peak_mib'][name]:.0f}"
    )
    text += (
        "\nLargest difference from the network in double precision, for images in [0, 1], and PSNR of bf16 in dB:\n\n"
    )
    text += _table(results, _difference)
    reasons = {
        f"{one['method']}, {TITLES.get(name, name)}: {reason}"
        for one in results
        for name, reason in one["reasons"].items()
    }
    return text + "".join(f"\n- {reason}" for reason in sorted(reasons)) + ("\n" if reasons else "")


def _seconds(one: Mapping[str, Any], name: str) -> str:
    best = min(seconds for key, seconds in one["seconds"].items() if key != "bf16")
    shown = f"{one['seconds'][name]:.3f}"
    return f"**{shown}**" if one["seconds"][name] == best else shown


def _difference(one: Mapping[str, Any], name: str) -> str:
    shown = f"{one['difference'][name]:.0e}"
    return f"{shown}, {one['psnr'][name]:.0f} dB" if name == "bf16" else shown


def _table(results: Sequence[Mapping[str, Any]], cell: Callable[[Mapping[str, Any], str], str]) -> str:
    """Return one table; "-" is not measured, "no" cannot run."""
    head = ["network", "size", "threads", *(TITLES.get(name, name) for name in backends.ALL)]
    rows = [head, ["---"] * len(head)]
    for one in results:
        cells = [
            cell(one, name) if name in one["seconds"] else "no" if name in one["reasons"] else "-"
            for name in backends.ALL
        ]
        rows.append([one["method"], f"{one['height']} x {one['width']}", str(one["threads"]), *cells])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def write(measured: Path, docs: Path = DOCS) -> None:
    """Replace the tables between the two marks in the documentation."""
    text = docs.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    new = tables(json.loads(measured.read_text(encoding="utf-8")))
    write_text(behind_link(docs), f"{before}{BEGIN}\n{new}\n{END}{after}")


def main() -> None:
    """Run one of the two steps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=["measure", "write"])
    parser.add_argument("file", type=Path, help="the measurements (JSON)")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no case after this time")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    if given.step == "measure":
        measure(given.file, minutes=given.minutes, repeats=given.repeats)
    else:
        write(given.file)


if __name__ == "__main__":
    main()
