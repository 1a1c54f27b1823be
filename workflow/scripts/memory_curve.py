"""Measure the peak memory of `mmfuse fuse` over the size of the images, and write it into docs/how-to/large-images.md.

`python workflow/scripts/memory_curve.py measure memory.json` runs the command once for each size, network and limit, in
a process of its own, and writes the file after each; `... write memory.json` writes the page's table and figure.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from mmfuse.data.images import resize, write_image
from mmfuse.errors import UserError
from mmfuse.files.writing import whole_file, write_json, write_text
from mmfuse.inference.memory import parsed
from mmfuse.scenes import synthetic_road

PAGE = Path("docs/how-to/large-images.md")
FIGURE = Path("docs/pictures/memory.svg")
BEGIN, END = "<!-- table of memory_curve.py -->\n", "<!-- end of the table -->"


def main() -> None:
    """Parse the arguments and run one of the two commands."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    measure = commands.add_parser("measure")
    measure.add_argument("file", type=Path, help="JSON file; what it contains already is not measured again")
    measure.add_argument("--sizes", nargs="+", default=["1000x750", "2000x1500", "4000x3000", "8000x6000"])
    measure.add_argument("--systems", nargs="+", default=["lkc_ivif", "laplacian", "average"])
    measure.add_argument("--limits", nargs="+", default=["4GiB"], help="`none` is the machine's memory")
    write = commands.add_parser("write")
    write.add_argument("file", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "measure":
        run_all(arguments.file, arguments.sizes, arguments.systems, arguments.limits)
    else:
        write_page(json.loads(arguments.file.read_text(encoding="utf-8")))


def run_all(file: Path, sizes: list[str], systems: list[str], limits: list[str]) -> None:
    """Measure all cases that the file lacks, and write it after each."""
    rows = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    done = {(row["size"], row["system"], row["limit"]) for row in rows}
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            draw(Path(folder), size)
            for system in systems:
                for limit in limits:
                    if (size, system, limit) not in done:
                        rows.append({"size": size, "system": system, "limit": limit} | run(Path(folder), system, limit))
                        write_json(file, rows)
                        print(rows[-1], flush=True)


def draw(folder: Path, size: str) -> None:
    """Write a drawn pair of a size, WIDTHxHEIGHT: enlarged, with noise so that pixels differ."""
    width, height = map(int, size.split("x"))
    random = np.random.default_rng(0)
    pair = synthetic_road.render(random, "night", 480, 640)
    for name in ("infrared", "visible"):
        image = resize(getattr(pair, name), height, width)
        image = np.maximum(image, 6) - random.integers(0, 7, image.shape, dtype=np.uint8)
        write_image(folder / f"{name}.bmp", image)


def run(folder: Path, system: str, limit: str) -> dict[str, Any]:
    """Fuse the pair in a process of its own, and return its peak memory, its processor time and the tiles."""
    words = [sys.executable, "-m", "mmfuse", "fuse", *(str(folder / f"{n}.bmp") for n in ("infrared", "visible"))]
    words += [str(folder / "out"), *(("--weights", system) if "_" in system else ("--method", system))]
    words += ["--memory", limit] if limit != "none" else []
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log)
        _, status, used = os.wait4(process.pid, 0)
        log.seek(0)
        said = log.read()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise UserError(f"{' '.join(words)} failed.", found=said[-2000:])
    tiles = re.search(r"\d+ tiles of \d+x\d+", said)
    used_for = {"peak": used.ru_maxrss * 1024, "seconds": used.ru_utime + used.ru_stime}
    return used_for | {"tiles": tiles[0] if tiles else "none"}


def write_page(rows: list[dict[str, Any]]) -> None:
    """Write the table and the figure into the page."""
    lines = ["| network or method | size | limit | peak memory | tiles | processor time |", "|---|---|---|---|---|---|"]
    for row in sorted(rows, key=lambda row: (row["system"], row["limit"], pixels(row["size"]))):
        lines.append(
            f"| {row['system']} | {row['size'].replace('x', ' x ')} | {row['limit']} | {row['peak'] / 2**30:.2f} GiB "
            f"| {row['tiles']} | {row['seconds']:.0f} s |"
        )
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    write_text(PAGE, f"{before}{BEGIN}\n" + "\n".join(lines) + f"\n\n{END}{after}")
    draw_curves(rows)


def draw_curves(rows: list[dict[str, Any]]) -> None:
    """Draw peak memory over megapixels, one curve for each system and limit."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "mmfuse"  # equal bytes each time
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for system, limit in sorted({(row["system"], row["limit"]) for row in rows}):
        own = (row for row in rows if (row["system"], row["limit"]) == (system, limit))
        points = sorted((pixels(row["size"]) / 1e6, row["peak"] / 2**30) for row in own)
        axes.plot(*zip(*points, strict=True), marker="o", label=system if limit == "none" else f"{system}, {limit}")
    for limit in {row["limit"] for row in rows} - {"none"}:
        axes.axhline(parsed(limit) / 2**30, color="grey", linestyle="--", linewidth=1)
    axes.set(xlabel="image size in megapixels", ylabel="peak memory in GiB", ylim=(0, None))
    axes.legend()
    with whole_file(FIGURE) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None})


def pixels(size: str) -> int:
    """Return the pixels of WIDTHxHEIGHT."""
    width, height = map(int, size.split("x"))
    return width * height


if __name__ == "__main__":
    main()
