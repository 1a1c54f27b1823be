"""A whole network with our layers and with torch's: time, memory and difference.

Both have the same weights and inputs. For inference, "ours" is the result of `for_inference`; for a training step it is
the network itself. "Direct" is the network with an `nn.Conv2d` for each large kernel.
"""

from __future__ import annotations

import copy
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mmfuse.benchmarks.memory import peak_mib
from mmfuse.errors import MmfuseError, UserError
from mmfuse.fastconv.large_kernel import plain
from mmfuse.fastconv.workspace import keep_freed_memory, set_limits
from mmfuse.inference.fast_copy import for_inference
from mmfuse.inference.fusing import best_device
from mmfuse.methods.base import FusionMethod
from mmfuse.progress import progress
from mmfuse.training.checkpoints import build
from mmfuse.training.seeding import seed_everything
from mmfuse.words import number_of

WAYS = ("direct", "ours")
# the first call creates the buffers, the second the kept spectra
_WARM_UP = {"direct": 0, "ours": 2}
_DROPOUT = ("Dropout", "Dropout2d", "StochasticDepth")


@dataclass(frozen=True)
class Case:
    """The network and the settings of a measurement.

    Args:
        method: The method's name.
        network: Its options.
        height: Height of the images.
        width: Width of the images.
        batch: Number of pairs at once.
        train: Whether to measure a training step of the last part (forward, backward, optimiser) instead of inference.
        repeats: Measurements of each version, alternating.
        threads: Number of CPU threads.
        workspace: Limit of the shared buffers in MiB; see `mmfuse.fastconv.workspace`.
        spectra: Limit of the kept spectra in MiB.
    """

    method: str
    network: Mapping[str, Any]
    height: int
    width: int
    batch: int
    train: bool
    repeats: int
    threads: int
    workspace: float
    spectra: float


def options_of(method: str, params: Path | None, variant: str, assignments: Sequence[str]) -> dict[str, Any]:
    """Return a method's options: from parameters, if given, changed by KEY=VALUE assignments.

    Raises:
        UserError: the parameters lack the variant, or an assignment has no `=`.
    """
    from mmfuse.study.parameters import load_parameters
    from mmfuse.study.plan import settings_of
    from mmfuse.study.settings import assigned, network_options, without_adaptive

    options: dict[str, Any] = {}
    if params is not None:
        options = without_adaptive(network_options(settings_of(load_parameters(params), method, variant)))
    return options | assigned(assignments)


def run(case: Case) -> dict[str, Any]:
    """Measure both versions of one network.

    Raises:
        UserError: the method cannot be built with these options, or has nothing to train.
    """
    set_up(case)
    ways = _both(case)
    peaks = {way: _peak_in_own_process(case, way) for way in WAYS}
    images = _images(case)
    compared = _compare(case, ways, images)
    calls = {way: _call(case, ways[way], images) for way in WAYS}
    for _ in range(_WARM_UP["ours"]):
        calls["ours"]()
    wall, processor = _by_turns(calls, case.repeats)
    return {
        **asdict(case),
        "device": str(best_device()),
        "parameters": sum(parameter.numel() for parameter in ways["direct"].parameters()),
        "speedup": wall["direct"] / wall["ours"],
        "speedup_processor": processor["direct"] / processor["ours"],
        **compared,
        **{f"seconds_{way}": wall[way] for way in WAYS},
        **{f"processor_seconds_{way}": processor[way] for way in WAYS},
        **{f"peak_mib_{way}": peaks[way] for way in WAYS},
        "stages": {} if case.train else {way: _stages(ways[way], calls[way]) for way in WAYS},
    }


def lines(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield the result of `run` as readable lines."""
    what = "training step" if result["train"] else "inference"
    size = f"{result['batch']} x {result['height']} x {result['width']}"
    yield f"{result['method']}, {what}, {size}, {number_of(result['threads'], 'thread')}, {result['device']}"
    yield f"  {result['parameters']:,} parameters, {result['multiply_adds'] / 1e9:,.2f} billion multiply-adds"
    for way in WAYS:
        yield (
            f"  {way:>6}: {result[f'seconds_{way}']:.3f} s (CPU: {result[f'processor_seconds_{way}']:.3f} s), "
            f"peak {result[f'peak_mib_{way}']:.0f} MiB"
        )
    yield f"  {result['speedup']:.2f} times as fast (CPU: {result['speedup_processor']:.2f} times)"
    of = "gradients" if result["train"] else "outputs and features"
    yield f"  largest difference of {of}: {result['max_abs_diff']:.2g}, of values up to {result['max_abs_value']:.3g}"
    if "error_ours" in result:
        errors = ", ".join(f"{way} {result[f'error_{way}']:.2g}" for way in WAYS)
        yield f"  largest difference from the network in double precision: {errors}"
    for name, ours in result["stages"].get("ours", {}).items():
        yield f"  {name:<20} direct {result['stages']['direct'][name]:8.3f} s, ours {ours:8.3f} s"


def set_up(case: Case) -> None:
    """Apply the settings of a case to this process."""
    torch.set_num_threads(case.threads)
    torch.backends.cudnn.benchmark = True
    set_limits(workspace=case.workspace, spectra=case.spectra)
    keep_freed_memory()


def _build(case: Case) -> FusionMethod:
    seed_everything(0)
    method = build(case.method, case.network)
    if case.train and not method.parts:
        raise UserError(f"{case.method} has nothing to train.", fix="remove --train")
    return method.to(best_device())


def _ours(case: Case, method: FusionMethod) -> FusionMethod:
    return method if case.train else for_inference(method)


def _both(case: Case) -> dict[str, FusionMethod]:
    """Return both versions of the network, with the same weights, in the mode to measure."""
    method = _build(case).eval()
    ways = {"direct": plain(copy.deepcopy(method)), "ours": _ours(case, method)}
    if case.train:
        for network in ways.values():
            _prepare(network)
    return ways


def _prepare(network: FusionMethod) -> None:
    """Put the last part into its training state."""
    from mmfuse.training.loop import prepare_part

    prepare_part(network, network.parts[-1])


def _images(case: Case) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shape = (case.batch, 1, case.height, case.width)
    first, second = (torch.rand(shape, generator=generator).to(best_device()) for _ in range(2))
    return first, second


def _call(case: Case, network: FusionMethod, images: tuple[Tensor, Tensor]) -> Callable[[], None]:
    """Return a function that performs the measured work once."""
    if not case.train:

        def infer() -> None:
            with torch.inference_mode():
                network(*images)

        return infer
    optimiser = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=1e-4)

    def step() -> None:
        optimiser.zero_grad()
        _loss(network, images).backward()
        optimiser.step()

    return step


def _loss(network: FusionMethod, images: tuple[Tensor, Tensor]) -> Tensor:
    part = network.parts[-1]
    terms = network.part_losses(part, *images, dict.fromkeys(network.loss_terms[part], 1.0))
    return torch.stack(list(terms.values())).sum()


def _by_turns(calls: Mapping[str, Callable[[], None]], repeats: int) -> tuple[dict[str, float], dict[str, float]]:
    """Return the medians of wall time and CPU time of each call."""
    wall: dict[str, list[float]] = {way: [] for way in calls}
    processor: dict[str, list[float]] = {way: [] for way in calls}
    for _ in progress(range(repeats), "measure", unit="repeats"):
        for way, call in calls.items():
            begin, used = time.perf_counter(), time.process_time()
            call()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            wall[way].append(time.perf_counter() - begin)
            processor[way].append(time.process_time() - used)
    medians = ({way: statistics.median(times[way]) for way in calls} for times in (wall, processor))
    return next(medians), next(medians)


def _stages(network: nn.Module, call: Callable[[], None]) -> dict[str, float]:
    """Return the seconds of each submodule in one call, and of their submodules, two levels deep."""
    begun: dict[str, float] = {}
    seconds: dict[str, float] = {}

    def clock() -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()

    def begin(name: str) -> Callable[..., None]:
        return lambda *_: begun.update({name: clock()})

    def end(name: str) -> Callable[..., None]:
        return lambda *_: seconds.update({name: seconds.get(name, 0.0) + clock() - begun[name]})

    blocks = [(n, m) for n, m in network.named_children() if type(m).forward is not nn.Sequential.forward]
    inside = [(f"{name}.{part}", child) for name, block in blocks for part, child in block.named_children()]
    hooks = []
    for name, module in [*network.named_children(), *inside]:
        hooks += [module.register_forward_pre_hook(begin(name)), module.register_forward_hook(end(name))]
    call()
    for hook in hooks:
        hook.remove()
    return dict(sorted(seconds.items()))


def _compare(case: Case, ways: Mapping[str, FusionMethod], images: tuple[Tensor, Tensor]) -> dict[str, float]:
    """Compare all gradients, or the fused images and each submodule's output; count the operations.

    Fused images alone would hide much, because they are clamped to [0, 1]. On a CPU, both versions are also compared
    with the network in double precision, because each of them rounds.
    """
    look = _gradients if case.train else _features
    with FlopCounterMode(display=False) as counted:
        direct = look(ways["direct"], images)
    ours = look(ways["ours"], images)
    found = {
        "multiply_adds": counted.get_total_flops() // 2,
        "max_abs_diff": _farthest(direct, ours),
        "max_abs_value": max(float(tensor.abs().max()) for tensor in direct),
    }
    if case.train or best_device().type != "cpu":
        return found
    # direct convolution with large kernels in double precision would take tens of gigabytes
    exact = _features(_build(case).eval().double(), (images[0].double(), images[1].double()))
    return found | {f"error_{way}": _farthest(exact, tensors) for way, tensors in (("direct", direct), ("ours", ours))}


def _farthest(ones: Sequence[Tensor], others: Sequence[Tensor]) -> float:
    return max(float((one - other).abs().max()) for one, other in zip(ones, others, strict=True))


def _features(network: FusionMethod, images: tuple[Tensor, Tensor]) -> list[Tensor]:
    found: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: object) -> None:
        for tensor in output if isinstance(output, (list, tuple)) else [output]:
            if isinstance(tensor, Tensor):
                found.append(tensor.clone())

    hooks = [child.register_forward_hook(keep) for child in network.children()]
    with torch.inference_mode():
        found.append(network(*images))
    for hook in hooks:
        hook.remove()
    return found


def _gradients(network: FusionMethod, images: tuple[Tensor, Tensor]) -> list[Tensor]:
    """Return the gradients of a step without dropout, whose random numbers depend on the memory layout."""
    chance = [m for m in network.modules() if type(m).__name__ in _DROPOUT and m.training]
    for module in chance:
        module.eval()
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(_loss(network, images), trained, allow_unused=True)
    for module in chance:
        module.train()
    return [gradient for gradient in gradients if gradient is not None]


def _peak_in_own_process(case: Case, way: str) -> float:
    """Return the peak memory in MiB of a separate process that does only this."""
    command = [sys.executable, "-m", __spec__.name, json.dumps(asdict(case)), way]
    run = subprocess.run(command, check=False, capture_output=True, text=True)
    if run.returncode:
        raise MmfuseError(f"The memory measurement failed ({way}).\n{run.stderr}")
    return float(run.stdout.splitlines()[-1])


def _peak(case: Case, way: str) -> float:
    """Repeat the measured work until the memory no longer grows, and return the process's peak memory in MiB."""
    set_up(case)
    method = _build(case).eval()
    network = plain(method) if way == "direct" else _ours(case, method)
    del method
    if case.train:
        _prepare(network)
    call = _call(case, network, _images(case))
    for _ in range(1 + _WARM_UP[way]):
        call()
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return peak_mib()


if __name__ == "__main__":
    print(_peak(Case(**json.loads(sys.argv[1])), sys.argv[2]))
