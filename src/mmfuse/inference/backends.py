"""Programs that apply a trained network on a CPU: torch with our copy, torch.compile, ONNX Runtime, OpenVINO.

ONNX Runtime and OpenVINO are the optional extra `mmfuse[backends]`; only this module imports them. They compute the
readable network, with an `nn.Conv2d` for each large kernel, because they bring their own fast convolutions. Each of
them prepares a network for one image size.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from mmfuse.errors import UserError, check_choices
from mmfuse.fastconv.large_kernel import plain
from mmfuse.inference.fast_copy import for_inference
from mmfuse.inference.half_precision import Fuse, check, has_bf16, in_bf16
from mmfuse.methods.base import FusionMethod

Prepare = Callable[[FusionMethod, Tensor, Tensor], Fuse]

BACKENDS = ("torch", "compile", "onnxruntime", "openvino")
IN_BF16 = ("torch", "openvino")
PACKAGES = {"onnxruntime": ("onnxruntime", "onnx", "onnxscript"), "openvino": ("openvino",)}
PRECISIONS = ("fp32", "bf16", "auto")
_SIZES = 4  # prepared sizes that are kept
_GRAPH = property(lambda module: module._modules["graph_module"])


def prepared(
    network: FusionMethod, device: torch.device, *, backend: str = "torch", precision: str = "fp32"
) -> tuple[Fuse, dict[str, str | float]]:
    """Return a function that fuses two images, (B, 1, H, W) in [0, 1], and a record of how.

    Args:
        network: The trained network, on the device.
        device: The device of the images.
        backend: One of `BACKENDS`.
        precision: fp32, bf16, or auto: bf16 if the device has it in hardware and a fixed pair agrees with fp32 within
            `half_precision.LEAST_PSNR` and `LEAST_SHARE`.

    Returns:
        The function, and `backend`, `precision` (fp32 or bf16) and, if bf16 was tried, its PSNR against fp32 in dB and
        the share of pixels within one grey level.

    Raises:
        UserError: the backend's packages are missing, or the backend has no bf16. The function raises it if the backend
            cannot run the network.
    """
    record: dict[str, str | float] = {"backend": backend, "precision": "fp32"}
    check_choices("mmfuse", {"backend": BACKENDS, "precision": PRECISIONS}, backend=backend, precision=precision)
    if precision == "fp32" or (precision == "auto" and not has_bf16(device)):
        return in_fp32(network, backend), record
    half = in_half(network, backend)
    found = check(for_inference(network), half, device)
    record |= {"bf16_psnr": found.psnr, "bf16_within_one_level": found.within_one}
    if precision == "auto" and not found.good:
        return in_fp32(network, backend), record
    return half, record | {"precision": "bf16"}


def in_fp32(network: FusionMethod, backend: str) -> Fuse:
    """Return a function that fuses two images, (B, 1, H, W) in [0, 1], in single precision.

    Raises:
        UserError: the backend's packages are missing. The function raises it if the backend cannot run the network.
    """
    if backend == "torch":
        return for_inference(network)
    check_packages(backend)
    return _PerSize(network, backend, {"compile": _compiled, "onnxruntime": _onnx, "openvino": _openvino}[backend])


def in_half(network: FusionMethod, backend: str) -> Fuse:
    """Return the same as `in_fp32` with products in bf16.

    Raises:
        UserError: as `in_fp32`; or the backend has no bf16 here.
    """
    if backend not in IN_BF16:
        raise UserError(
            f"The backend {backend} only computes in single precision here.",
            expected=f"bf16 with the backend {' or '.join(IN_BF16)}",
            fix="choose --precision fp32, or another backend",
        )
    if backend == "torch":
        return in_bf16(for_inference(network))
    check_packages(backend)
    return _PerSize(network, backend, partial(_openvino, precision="bf16"))


def check_packages(backend: str) -> None:
    """Check that a backend's packages are installed.

    Raises:
        UserError: one of them is missing.
    """
    missing = [name for name in PACKAGES.get(backend, ()) if find_spec(name) is None]
    if missing:
        raise UserError(
            f"The backend {backend} needs packages that are not installed.",
            expected="the optional extra mmfuse[backends]",
            found=f"no {', no '.join(missing)}",
            fix="pip install 'mmfuse[backends]', or choose the backend `torch`",
        )


class _PerSize:
    """A network in another program, prepared at the first use of an image size; (B, 1, H, W) twice, to the same."""

    def __init__(self, network: FusionMethod, backend: str, prepare: Prepare) -> None:
        self.network = _renamed(plain(copy.deepcopy(network))).eval().requires_grad_(False).cpu()
        self.backend, self.prepare = backend, prepare
        self.ready: dict[tuple[int, ...], Fuse] = {}
        self.told = False

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        a, b = a.cpu(), b.cpu()
        size = tuple(a.shape)
        if size not in self.ready:
            if len(self.ready) == _SIZES:
                self._forget()
            self.ready[size] = self._prepared(a, b)
        return self.ready[size](a, b)

    def _forget(self) -> None:
        """Make room for another size, and say once that each one takes time."""
        if self.backend == "compile":
            # torch keeps what it has compiled, and after some sizes would run the network uncompiled
            self.ready.clear()
            torch.compiler.reset()
        else:
            del self.ready[next(iter(self.ready))]
        if not self.told:
            print(
                f"note: {self.backend} prepares the network for each image size and keeps {_SIZES} of them; with many "
                "sizes, the backend torch, which needs no preparation, may be faster",
                file=sys.stderr,
            )
            self.told = True

    def _prepared(self, a: Tensor, b: Tensor) -> Fuse:
        try:
            with _quiet():
                return self.prepare(self.network, a, b)
        except MemoryError:
            raise
        except Exception as error:  # these programs raise errors of any type for a network that they cannot convert
            raise UserError(
                f"The backend {self.backend} cannot run this network.",
                found=f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}",
                fix="choose the backend `torch`, which runs every network",
            ) from error


def _renamed(network: FusionMethod) -> FusionMethod:
    """Rename each submodule `graph`, in place: a traced or exported module has an attribute of that name itself."""
    for module in list(network.modules()):
        if "graph" in module._modules:
            module._modules["graph_module"] = module._modules.pop("graph")
            module.__class__ = type(type(module).__name__, (type(module),), {"graph": _GRAPH})
    return network


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide the warnings of tracers and exporters, which concern their own code and networks with other inputs."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _compiled(network: FusionMethod, a: Tensor, b: Tensor) -> Fuse:
    compiled: Fuse = torch.compile(network, dynamic=False)

    @torch.inference_mode()  # in another mode, torch would compile it again
    def fuse(a: Tensor, b: Tensor) -> Tensor:
        return compiled(a, b)

    fuse(a, b)  # compiles; fails here, not later, if there is no compiler
    return fuse


def _onnx(network: FusionMethod, a: Tensor, b: Tensor) -> Fuse:
    import onnxruntime

    with torch.no_grad():
        exported = torch.onnx.export(network, (a.clone(), b.clone()), dynamo=True, verbose=False)
    assert exported is not None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    model = exported.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]

    def fuse(a: Tensor, b: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, dict(zip(names, (a.numpy(), b.numpy()), strict=True)))[0])

    return fuse


def _openvino(network: FusionMethod, a: Tensor, b: Tensor, precision: str = "f32") -> Fuse:
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type] # so that no usage data is sent
    import openvino

    shapes: Any = [list(a.shape), list(b.shape)]
    with torch.no_grad():
        model = openvino.convert_model(network, example_input=(a.clone(), b.clone()), input=shapes)
    options = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = openvino.Core().compile_model(model, "CPU", options)

    def fuse(a: Tensor, b: Tensor) -> Tensor:
        return torch.from_numpy(compiled([a.numpy(), b.numpy()])[0].copy())

    return fuse
