"""One network in all programs that can apply it: time, memory, and difference from double precision.

Each backend runs in its own process, one after the other, so that the memory is its own, and so that a backend that
fails does not end the measurement.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmfuse import methods
from mmfuse.benchmarks.memory import peak_mib
from mmfuse.benchmarks.network import Case, set_up
from mmfuse.errors import MmfuseError, UserError, unknown_name
from mmfuse.fastconv.large_kernel import plain
from mmfuse.inference import backends
from mmfuse.inference.fusing import best_device
from mmfuse.inference.half_precision import Fuse, agreement, noise_pair
from mmfuse.methods.base import FusionMethod
from mmfuse.progress import progress
from mmfuse.training.checkpoints import build, load_method
from mmfuse.training.seeding import seed_everything
from mmfuse.weights import shipped
from mmfuse.words import number_of

OURS = ("readable", "copy", "bf16")
ALL = (*OURS, "onnxruntime", "openvino", "compile")
NAMES = (*ALL, "direct")
_EXACT = "exact"


def chosen(words: str) -> tuple[str, ...]:
    """Return the backends in a list separated by commas; `all` stands for all but `direct`.

    Raises:
        UserError: one of them is unknown.
    """
    names = tuple(
        dict.fromkeys(n for word in words.split(",") for n in (ALL if word.strip() == "all" else [word.strip()]))
    )
    for name in names:
        if name not in NAMES:
            raise unknown_name("Unknown backend.", name, ("all", *NAMES), "choose some of these, separated by commas")
    return names


def network_of(case: Case) -> FusionMethod:
    """Return the network: shipped weights by name, a weights file, or a method with random weights.

    Random weights are scaled by `with_statistics`.

    Raises:
        UserError: there is no such method and no such weights, or the method does not take the options.
    """
    if case.method not in methods.available():
        name = case.method if case.method.endswith(".safetensors") else shipped.verified(shipped.named(case.method))
        if case.network:
            raise UserError("Trained weights bring their own options.", found=case.network, fix="leave the options out")
        return load_method(Path(name))[0]
    seed_everything(0)
    return with_statistics(build(case.method, case.network))


@torch.no_grad()
def with_statistics(network: FusionMethod) -> FusionMethod:
    """Scale the features of an untrained network, in place, as training would: otherwise images fade or are clipped.

    Batch norms get the statistics of a random pair. If the last layer gives the image, it gets a mean of 0.5 and a
    standard deviation of 0.2.
    """
    pair = noise_pair(64, 64)
    norms = [module for module in network.eval().modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0  # only this pair counts
    if norms:
        network(*pair)
    network.eval()
    last: list[tuple[nn.Conv2d, Tensor]] = []
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    hooks = [layer.register_forward_hook(lambda layer, _, out: last.append((layer, out))) for layer in layers]
    image = network(*pair)
    for hook in hooks:
        hook.remove()
    if last and torch.equal(last[-1][1].mean(dim=1, keepdim=True).clamp(0, 1), image):
        layer, out = last[-1]
        scale = 0.2 / out.mean(dim=1).std()
        layer.weight *= scale
        if layer.bias is not None:
            layer.bias.copy_((layer.bias - out.mean()) * scale + 0.5)
    return network


def run(case: Case, names: Sequence[str], *, limit: float) -> dict[str, Any]:
    """Measure one network with several backends.

    Args:
        case: Network and settings; not for training.
        names: Some of `NAMES`.
        limit: Seconds after which a backend is given up, preparation included.

    Returns:
        The settings, and by backend: `seconds` (median), `processor_seconds` (median), `seconds_to_prepare`,
        `peak_mib`, `difference` (largest, from the network in double precision, of images in [0, 1]), `psnr` (likewise,
        in dB), `within_one_level` (share of pixels), and `reasons` for those that cannot run.

    Raises:
        UserError: the network cannot be built.
    """
    network_of(case)
    found: dict[str, Any] = {
        key: {}
        for key in (
            "seconds",
            "processor_seconds",
            "seconds_to_prepare",
            "peak_mib",
            "difference",
            "psnr",
            "within_one_level",
        )
    }
    reasons: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        exact = Path(folder, f"{_EXACT}.pt")
        _in_own_process(case, _EXACT, exact, limit=3600)
        for name in progress(names, "measure", unit="backends"):
            try:
                result = _in_own_process(case, name, Path(folder, f"{name}.pt"), limit=limit)
            except UserError as error:
                reasons[name] = f"{error.problem} {error.found or ''}".strip()
                continue
            ours, reference = (
                torch.load(path, weights_only=True).double() for path in (Path(folder, f"{name}.pt"), exact)
            )
            close = agreement(reference, ours)
            result |= {
                "difference": float((ours - reference).abs().max()),
                "psnr": close.psnr,
                "within_one_level": close.within_one,
            }
            for key, value in result.items():
                found[key][name] = value
    settings = {key: value for key, value in asdict(case).items() if key not in ("train", "batch")}
    return {**settings, "device": str(best_device()), **found, "reasons": reasons}


def lines(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield the result of `run` as readable lines."""
    threads = number_of(result["threads"], "thread")
    yield f"{result['method']}, {result['height']} x {result['width']}, {threads}, {result['device']}"
    for name, seconds in result["seconds"].items():
        yield (
            f"  {name:<12} {seconds:8.3f} s (CPU: {result['processor_seconds'][name]:.3f} s), peak "
            f"{result['peak_mib'][name]:6.0f} MiB, difference {result['difference'][name]:.1e}, "
            f"{result['psnr'][name]:.0f} dB, prepared in {result['seconds_to_prepare'][name]:.1f} s"
        )
    for name, reason in result["reasons"].items():
        yield f"  {name:<12} cannot run: {reason}"


def _in_own_process(case: Case, name: str, out: Path, *, limit: float) -> dict[str, float]:
    """Measure one backend in a process of its own.

    Raises:
        UserError: a program other than ours cannot run here, or takes too long.
        MmfuseError: one of ours failed.
    """
    command = [sys.executable, "-m", __spec__.name, json.dumps(asdict(case)), name, str(out)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            told, complaints = process.communicate(timeout=limit)
        except BaseException as error:  # also Ctrl-C, which does not reach a process in a session of its own
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with the compilers that it may have started
            process.communicate()
            if isinstance(error, subprocess.TimeoutExpired):
                raise UserError(f"It took longer than {limit:g} s.") from error
            raise
    if process.returncode == 0:
        result: dict[str, float] = json.loads(told.splitlines()[-1])
        return result
    last = (complaints.strip().splitlines() or ["no message"])[-1]
    if process.returncode == UserError.exit_code:
        problem, _, cause = last.partition("\t")
        raise UserError(problem, found=cause or None)
    if name in (*OURS, "direct", _EXACT):
        raise MmfuseError(f"The measurement of {name} failed.\n{complaints}")
    raise UserError(f"It ended with code {process.returncode}.", found=last)


def _fuse(case: Case, name: str) -> Fuse:
    """Return the function to measure."""
    network = network_of(case).to(best_device())
    if name == "readable":
        return network
    if name == "direct":
        return plain(copy.deepcopy(network))
    if name == _EXACT:
        return network.double()
    if name == "bf16":
        return backends.in_half(network, "torch")
    return backends.in_fp32(network, "torch" if name == "copy" else name)


@torch.inference_mode()
def _measure(case: Case, name: str, out: Path) -> dict[str, float]:
    """Prepare a backend, warm it up, and time it; write its image to `out`."""
    set_up(case)
    images = noise_pair(case.height, case.width)
    dtype = torch.float64 if name == _EXACT else torch.float32
    a, b = (image.to(best_device(), dtype) for image in images)
    begin = time.perf_counter()
    fuse = _fuse(case, name)
    fused = fuse(a, b).cpu()
    prepared = time.perf_counter() - begin
    torch.save(fused.clone(), out)
    if name == _EXACT:
        return {}
    fuse(a, b).cpu()  # the second call of the copy keeps its transformed weights
    wall, processor = [], []
    for _ in range(case.repeats):
        begin, used = time.perf_counter(), time.process_time()
        fuse(a, b).cpu()
        wall.append(time.perf_counter() - begin)
        processor.append(time.process_time() - used)
    return {
        "seconds": statistics.median(wall),
        "processor_seconds": statistics.median(processor),
        "seconds_to_prepare": prepared,
        "peak_mib": peak_mib(),
    }


def _main(case: str, name: str, out: str) -> int:
    try:
        print(json.dumps(_measure(Case(**json.loads(case)), name, Path(out))))
    except UserError as error:
        print(f"{error.problem}\t{error.found or ''}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
