"""Check the study on a GPU in one go: tests, LKC-FUNet at paper size in three precisions, scores, speed of inference.

`prepare` writes one small folder on a machine with the data; `run` needs that folder, this project and a GPU, but no
network access and no installation of mmfuse, MLflow, DVC or Snakemake. See docs/how-to/check-on-a-gpu.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import gpu_packages

ROOT = Path(__file__).resolve().parents[2]
LOCK, PARAMS, PRINTED = (
    ROOT / p for p in ("envs/requirements.lock", "workflow/configs/paper.yaml", "data/published.csv")
)
PARTS = ("tests", "trainings", "inference")
FEW = 20  # steps that need no time plan
TINY_PAIR, PAPER_STEPS = (64, 64), 1000


def arguments() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    prepare = commands.add_parser("prepare", help="write the folder with data and parameters")
    prepare.add_argument("--out", type=Path, required=True, help="the folder; that of an earlier `prepare` is replaced")
    prepare.add_argument("--drawn", action="store_true", help="use small synthetic pairs: no mirror, no network needed")
    run = commands.add_parser("run", help="run everything and write report.md and report.json after each step")
    run.add_argument("--data", type=Path, help="the folder of `prepare`; synthetic pairs in a dry run without it")
    run.add_argument("--out", type=Path, required=True, help="folder of the report")
    run.add_argument("--work", type=Path, help="folder of weights, states and images; by default OUT.work")
    run.add_argument("--minutes", type=float, default=9.0, help="time limit in minutes")
    run.add_argument("--steps", type=int, default=PAPER_STEPS, help="steps of a complete training")
    run.add_argument("--test-pairs", type=int, help="test pairs of each set; by default all")
    run.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    run.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="run only these parts")
    run.add_argument("--dry-run", action="store_true", help="everything on the CPU at tiny size, in about a minute")
    packages = commands.add_parser("packages", help="list what `run` imports, or how to bring what a machine lacks")
    packages.add_argument("--lacks", nargs="+", default=[], metavar="NAME", help="packages that the machine lacks")
    packages.add_argument("--python", default="3.12", help="the machine's version of Python")
    return parser.parse_args()


def check_packages(parts: list[str]) -> None:
    """Exit with one message if a required package is missing."""
    needed = gpu_packages.NEEDED | (gpu_packages.FOR_TESTS if "tests" in parts else {})
    lacking = gpu_packages.missing(needed)
    if lacking:
        hint = "" if lacking.keys() & set(gpu_packages.NEEDED.values()) else "\nOr leave out the tests with --only."
        sys.exit(gpu_packages.advice(lacking, LOCK) + hint)


def write_data(out: Path, *, drawn: bool) -> None:
    """Write the folder to bring to the machine with a GPU."""
    import gpu_data

    golden = Path(os.environ.get("MMFUSE_GOLDEN") or ROOT.parent / "shared/golden") / "networks"
    held = gpu_data.write_folder(out, params=PARAMS, drawn=drawn, golden=golden)
    pairs = ", ".join(f"{name} {count}" for name, count in held["pairs"].items())
    print(f"{out}: {gpu_data.size_in_megabytes(out):.1f} MB; {pairs}")


def tiny(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters of a dry run: narrow networks, small crops and batches."""
    from mmfuse.study.settings import merged

    kernels = {"kernels": [5, 3, 3], "bottleneck_kernel": 3, "init_kernel": 5}
    narrow = {
        "lkc_funet": {
            "network": {"width": 4, "channels": 4, "groups": 2, **kernels},
            "parts": {"net": {"batch": 2, "crop": {"height": 32, "width": 32}}},
        },
        "mma_unet": {"network": {"width": 4}},
        "smfnet": {"network": {"dim": 8, "heads": 2, "base_groups": 1, "base_pairs": 1}},
    }
    return merged(parameters, {"methods": narrow, "train": {"log_every": 1, "threads": 1}})


class Run:
    """One run: its results so far, saved after every step, so that a stop loses nothing.

    Args:
        asked: What the results depend on; results of another request are deleted.
        out: Folder of the report.
        work: Folder of everything else.
        minutes: Time limit of the run.
    """

    def __init__(self, asked: dict[str, Any], out: Path, work: Path, minutes: float) -> None:
        self.out, self.work, self.deadline = out, work, time.monotonic() + 60 * minutes
        self.kept = work / "results.json"
        old = json.loads(self.kept.read_text(encoding="utf-8")) if self.kept.is_file() else {}
        if old and old["asked"] != asked:
            shutil.rmtree(work)
            old = {}
        for folder in (out, work):
            folder.mkdir(parents=True, exist_ok=True)
        self.results: dict[str, Any] = {**old, "asked": asked, "errors": {}, "notes": []}
        self.parameters: dict[str, Any] = {}
        self.training_ends = self.deadline  # when this run itself stops a training

    @property
    def left(self) -> float:
        """Seconds left."""
        return self.deadline - time.monotonic()

    def note(self, text: str) -> None:
        """Print a note, and add it to the report."""
        print(f"check: {text}", flush=True)
        self.results["notes"].append(text)
        self.save()

    def do(self, group: str, name: str, work: Callable[[], Any]) -> Any:
        """Do one step unless an earlier run of the same command has done it; store its result, or its error."""
        known = self.results.setdefault(group, {})
        if name in known:
            return known[name]
        print(f"check: {group} {name}, {self.left:.0f} s left", flush=True)
        begin = time.monotonic()
        try:
            known[name] = work()
        except Exception as error:  # whatever it is, the other steps can still run
            self.results["errors"][f"{group} {name}"] = traceback.format_exc()
            print(f"check: {group} {name} failed: {error}", flush=True)
            if "Asked to stop" in str(error) and time.monotonic() < self.training_ends:  # by somebody else
                self.save()
                raise SystemExit(128 + signal.SIGTERM) from error
        self.results.setdefault("took", {})[f"{group} {name}"] = time.monotonic() - begin
        self.save()
        return known.get(name)

    def save(self) -> None:
        """Write the results and the report."""
        import gpu_report

        from mmfuse.files.writing import write_json, write_text

        for path in (self.kept, self.out / "report.json"):
            write_json(path, self.results)
        write_text(self.out / "report.md", gpu_report.text(self.results, self.parameters, PRINTED))


def run(args: argparse.Namespace) -> None:
    """Run what was requested, with the most important results first."""
    import gpu_data
    import gpu_report
    import gpu_steps

    from mmfuse.files.reading import read_yaml

    work = args.work or args.out.with_name(f"{args.out.name}.work")
    data = args.data or work.with_name(f"{work.name}.drawn")
    if args.data is None and not (data / "data.json").is_file():
        write_data(data, drawn=True)
    whole = read_yaml(data / "params.yaml")
    held = json.loads((data / "data.json").read_text(encoding="utf-8")) if (data / "data.json").is_file() else {}
    few = 2 if args.dry_run else args.test_pairs
    asked = {"steps": args.steps, "device": args.device, "dry run": args.dry_run, "test pairs": few}
    asked["data"] = held.get("sha256")
    this = Run(asked, args.out, work, args.minutes)
    this.parameters = tiny(whole) if args.dry_run else whole
    this.results |= {"data": gpu_data.unpack(data, work / "packs", test_pairs=few)}
    this.results["machine"] = machine(args.device)
    sets = gpu_report.printed_sets(this.parameters)
    metrics = list(gpu_report.read_table(PRINTED, next(iter(sets.values())))[gpu_report.OURS])
    check = gpu_steps.Check(this.parameters, work / "packs", work, args.device, metrics)
    this.save()
    if "tests" in args.only:
        limit = max(60.0, 0.3 * this.left)
        tests = this.do("steps", "tests", lambda: gpu_steps.run_tests(check, ROOT, data, limit))
        this.results["tests"] = tests or this.results.get("tests")
    if "trainings" in args.only:
        train_all(this, check, args.steps, fast=True)
    if "inference" in args.only and (args.device == "cuda" or args.dry_run):
        for method in ("lkc_funet", "mma_unet", "smfnet"):
            for size in [TINY_PAIR] if args.dry_run else gpu_steps.INFERENCE_SIZES:
                seconds = 0.0 if args.dry_run else 0.5
                name = f"{method} {size[0]} x {size[1]}"
                this.do(
                    "inference", name, lambda m=method, s=size, t=seconds: gpu_steps.time_inference(check, m, *s, t)
                )
    if "trainings" in args.only:
        train_all(this, check, args.steps, fast=False)
    this.save()
    print(f"check: steps that failed: {len(this.results['errors'])}; the report is {args.out / 'report.md'}")
    sys.exit(1 if this.results["errors"] or (this.results.get("tests") or {}).get("failed") else 0)


def train_all(this: Run, check: Any, wanted: int, *, fast: bool) -> None:
    """Train, fuse and score: the baselines and the two fast precisions, or the slow one in the remaining time."""
    import gpu_steps

    if fast:
        for name in gpu_steps.BASELINES:
            this.do("scores", name, lambda name=name: gpu_steps.fuse_and_score(check, name))
    scoring = 15 + 1.5 * this.results.get("took", {}).get(f"scores {gpu_steps.BASELINES[0]}", 0.0)
    if fast and wanted > FEW:
        for precision in gpu_steps.PRECISIONS:
            this.do("speed", precision, lambda p=precision: gpu_steps.probe(check, p))
    names = [name for name in gpu_steps.PRECISIONS if (name != "fp32") == fast]
    for number, precision in enumerate(names):
        saved = gpu_steps.saved_steps(check, precision)
        steps = min(wanted, saved + affordable(this, names[number:], wanted, scoring))
        known = precision in this.results.setdefault("trainings", {})
        if not known and not steps:
            this.note(f"{precision} is not trained: {this.left:.0f} s are left, too little for a step and its scores.")
            continue
        if not known and steps < wanted:
            this.note(f"{precision} is trained for {steps} of {wanted} steps: there is no time for more.")
        train_and_score(this, check, precision, steps, this.deadline - scoring)
    scored = [name for name in gpu_steps.PRECISIONS if name in this.results["scores"]]
    for one, other in [("fp32", "tf32"), ("fp32", "bf16"), ("tf32", "bf16")]:
        if {one, other} <= set(scored):
            this.do("differences", f"{one} to {other}", lambda a=one, b=other: gpu_steps.compare(check, a, b))


def train_and_score(this: Run, check: Any, precision: str, steps: int, end: float) -> None:
    """Train one precision, fuse and score; earlier results with fewer steps stay until there are better ones."""
    import gpu_steps

    groups = {name: this.results.setdefault(name, {}) for name in ("trainings", "scores")}
    fewer = precision in groups["trainings"] and groups["trainings"][precision]["steps"] < steps
    before = {name: group.pop(precision) for name, group in groups.items() if fewer and precision in group}
    this.training_ends = end
    this.do("trainings", precision, lambda: gpu_steps.train_once(check, precision, steps, end))
    if precision not in groups["trainings"]:
        for name, old in before.items():
            groups[name][precision] = old
        return
    if fewer:
        of_others = {n: found for n, found in this.results.get("differences", {}).items() if precision not in n.split()}
        this.results["differences"] = of_others
    this.do("scores", precision, lambda: gpu_steps.fuse_and_score(check, precision))


def affordable(this: Run, ahead: list[str], wanted: int, scoring: float) -> int:
    """Return for how many steps of the next precision there is time, reserving the time for the scores of all ahead."""
    import gpu_steps

    speed = this.results.get("speed", {})
    if ahead[0] not in speed:  # a few steps, or unknown speed: then only the deadline stops it
        return wanted
    seconds = {name: speed[name]["seconds a step"] for name in ahead if name in speed}
    return gpu_steps.plan_steps(seconds, wanted, this.left - scoring * len(ahead))[ahead[0]]


def machine(device: str) -> dict[str, Any]:
    """Return what the numbers depend on: device, cores, versions."""
    import torch

    packages = (gpu_packages.NEEDED | gpu_packages.FOR_TESTS).values()
    versions = {package: gpu_packages.installed(package) for package in packages}
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    return {
        "device": name,
        "processor cores": os.cpu_count(),
        "python": sys.version.split()[0],
        "cuda": torch.version.cuda,
        "packages": {package: version for package, version in versions.items() if version},
        "not as locked": gpu_packages.differences(LOCK),
    }


def _stop(_number: int, _frame: object) -> NoReturn:
    sys.exit("check: asked to stop; the same command resumes from here")


def main() -> None:
    """Run the command; exit code 1 if a test or a step fails."""
    args = arguments()
    if args.command == "packages":
        print(gpu_packages.listing(args.lacks, LOCK, args.python))
        return
    signal.signal(signal.SIGTERM, _stop)  # a training replaces it by its own handler, which first saves the state
    sys.path.insert(0, str(ROOT / "src"))
    for name in ("out", "data", "work"):
        if getattr(args, name, None) is not None:
            setattr(args, name, getattr(args, name).resolve())
    check_packages(list(getattr(args, "only", PARTS[1:])))
    os.chdir(ROOT)
    from mmfuse.errors import MmfuseError

    try:
        if args.command == "prepare":
            write_data(args.out, drawn=args.drawn)
            return
        if args.dry_run:
            args.device, args.steps = "cpu", min(args.steps, 3)
        if args.data is None and not args.dry_run:
            sys.exit("check: give the folder of `prepare` with --data; only a dry run works without it")
        if args.device == "cpu":
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch checks
        else:
            import torch

            if not torch.cuda.is_available():
                sys.exit("check: torch finds no GPU here; --device cpu and --dry-run work without one")
        run(args)
    except MmfuseError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
