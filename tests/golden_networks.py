"""The rule that makes weights and images for `shared/golden/networks`, and its expected values.

The folder holds what the authors' own networks give for these weights and images; its README states the rule.
`MMFUSE_GOLDEN` names another place for `shared/golden`.
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mmfuse import methods
from mmfuse.methods.base import FusionMethod

FOLDER = Path(os.environ.get("MMFUSE_GOLDEN") or Path(__file__).resolve().parents[2] / "shared/golden") / "networks"
needs_golden = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no expected values of the networks in {FOLDER}")
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]
GAINS = {"mma_unet": 2.0}  # of the normal distribution of weights; 1 elsewhere


def rows(name: str) -> list[dict[str, str]]:
    """Return the rows of a table."""
    with (FOLDER / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def shape_of(row: Mapping[str, str]) -> tuple[int, ...]:
    """Return the shape in a row of a table, such as 1x64x48x64."""
    return () if row["shape"] == "scalar" else tuple(map(int, row["shape"].split("x")))


def generator(text: str) -> np.random.Generator:
    """Return the generator whose seed a text gives."""
    return np.random.Generator(np.random.PCG64(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")))


def tensor(stem: str, case: str, name: str, shape: tuple[int, ...], kind: str) -> Tensor:
    """Return a tensor of a checkpoint by the rule, rounded to float32."""
    drawn = generator(f"{stem}/{case}/{name}")
    if kind == "counter":
        return torch.zeros(shape, dtype=torch.int64)
    if kind in {"norm_weight", "running_var", "scalar"}:
        values = drawn.uniform(0.5, 1.5, shape)
    else:
        gain = GAINS.get(stem.partition(".")[0], 1.0)
        scale = {"weight": np.sqrt(gain / max(1, int(np.prod(shape[1:])))), "bias": 0.05, "running_mean": 0.1}[kind]
        values = drawn.standard_normal(shape) * scale
    return torch.from_numpy(np.asarray(values, dtype=np.float32))


def checkpoint(stem: str, case: str = "alpha") -> dict[str, Tensor]:
    """Return all tensors of a checkpoint by the rule, under the authors' names."""
    made = {}
    for row in rows(f"{stem}.tensors.csv"):
        made[row["name"]] = tensor(stem, case, row["name"], shape_of(row), row["kind"])
    return made


def unused(stem: str) -> set[str]:
    """Return the names of the tensors that no output depends on."""
    return {row["name"] for row in rows(f"{stem}.tensors.csv") if row["used"] == "no"}


def field(text: str, height: int, width: int) -> NDArray[np.float64]:
    """Return the smooth field with noise that images are made of."""
    drawn = generator(text)
    amplitudes = drawn.uniform(0.05, 0.20, 8)
    by_row, by_column = drawn.integers(0, 5, 8), drawn.integers(0, 5, 8)
    phases = drawn.uniform(0, 2 * np.pi, 8)
    noise = drawn.standard_normal((height, width))
    y, x = np.arange(height)[:, None] / height, np.arange(width)[None] / width
    drawn_waves = zip(amplitudes, by_row, by_column, phases, strict=True)
    waves = [a * np.cos(2 * np.pi * (r * y + c * x) + p) for a, r, c, p in drawn_waves]
    return 0.4 + np.sum(waves, axis=0) + 0.05 * noise


def source(text: str, height: int, width: int) -> Tensor:
    """Return a source image, (1, 1, H, W), float64 with values of float32."""
    pixels = np.round(np.clip(field(text, height, width), 0, 1) * 255) / 255
    return torch.from_numpy(pixels.astype(np.float32).astype(np.float64))[None, None]


def result(text: str, height: int, width: int) -> Tensor:
    """Return a fused or restored image, (1, 1, H, W), float64 with values of float32."""
    pixels = 0.5 + 0.4 * np.tanh(field(text, height, width) - 0.5)
    return torch.from_numpy(pixels.astype(np.float32).astype(np.float64))[None, None]


def batch(make: Callable[[str, int, int], Tensor], text: str, height: int, width: int, count: int = 2) -> Tensor:
    """Return images TEXT/0, TEXT/1, …, (count, 1, H, W)."""
    return torch.cat([make(f"{text}/{number}", height, width) for number in range(count)])


def published(
    name: str, tables: Mapping[str, str], *, form: int = 0, case: str = "alpha", **changes: object
) -> FusionMethod:
    """Return a method with its published options and the rule's weights, in double precision and eval mode.

    Args:
        name: The method's name.
        tables: The table of each of the method's groups of published names.
        form: Which of `published_options`.
        case: The case of the rule.
        **changes: Options that differ from the published ones.
    """
    network = methods.load(name)
    method = network(**{**network.published_options[form], **changes}).double().eval()
    weights = {}
    for group, names in method.published_names().items():
        made = checkpoint(tables[group], case)
        weights |= {ours: made[theirs] for theirs, ours in names.items()}
    method.load_state_dict(weights, strict=True)
    return method


def in_single_precision(method: FusionMethod, device: str) -> FusionMethod:
    """Return a method in single precision on a device, where no product is rounded to TF32."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    return method.float().to(device)


def features(
    modules: Mapping[str, nn.Module], run: Callable[[], object], inputs: Mapping[str, nn.Module] | None = None
) -> dict[str, Tensor]:
    """Return what each named module gives during a run, and what each of `inputs` gets.

    Of several calls the last counts, of several outputs the first.
    """
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, object, object], None]:
        return lambda _module, _inputs, output: found.update({name: output[0] if isinstance(output, tuple) else output})

    def keep_input(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _module, got: found.update({name: got[0]})

    hooks = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    hooks += [module.register_forward_pre_hook(keep_input(name)) for name, module in (inputs or {}).items()]
    with torch.no_grad():
        run()
    for hook in hooks:
        hook.remove()
    return found


def check_points(stem: str, found: Mapping[str, Tensor]) -> None:
    """Check features at named points against the expected ones, to 1e-6 of each point's standard deviation."""
    outputs = np.load(FOLDER / f"{stem}.outputs.npz")
    expected = {row["point"]: row for row in rows(f"{stem}.points.csv")}
    missing = expected.keys() - found.keys()
    assert not missing, f"not compared: {sorted(missing)}"
    for name, row in expected.items():
        check_point(name, found[name], row, outputs)


def check_point(name: str, value: Tensor, row: Mapping[str, str], outputs: Mapping[str, NDArray[np.floating]]) -> None:
    """Check one feature: shape, mean, deviation, and every value or its means over pixels and over channels."""
    deviation = float(row["std"])
    assert tuple(value.shape) == shape_of(row), name
    values = value.cpu().numpy()
    near = {"rtol": 0.0, "atol": 1e-6 * deviation}
    np.testing.assert_allclose(values.mean(), float(row["mean"]), err_msg=name, **near)
    np.testing.assert_allclose(values.std(), deviation, err_msg=name, **near)
    compared = 0
    parts = {"": values, ":first": (values[0, 0] if values.ndim == 4 else values[0]).reshape(-1)[:16]}
    if values.ndim == 4:
        parts |= {":per_channel": values.mean(axis=(2, 3)), ":over_channels": values.mean(axis=1)}
    for key, part in parts.items():
        if f"{name}{key}" in outputs:
            expected = outputs[f"{name}{key}"].astype(np.float64)
            np.testing.assert_allclose(part.reshape(expected.shape), expected, err_msg=f"{name}{key}", **near)
            compared += 1
    assert compared, f"{name}: nothing to compare with"


def check_terms(stem: str, stage: str, terms: Mapping[str, Tensor], tolerance: float = 1e-6) -> None:
    """Check that each loss term of a stage has the expected value, and that no term is left out."""
    expected = {row["term"]: float(row["value"]) for row in rows(f"{stem}.losses.csv") if row["stage"] == stage}
    assert terms.keys() == expected.keys()
    for name, value in terms.items():
        assert float(value) == pytest.approx(expected[name], rel=tolerance, abs=tolerance), name


def check_gradients(
    stem: str, stage: str, terms: Mapping[str, Tensor], images: Mapping[str, Tensor], tolerance: float = 1e-5
) -> None:
    """Check the gradient of each term with respect to each image; where the table has none, it is zero."""
    table = np.load(FOLDER / f"{stem}.losses.npz")
    for term, value in terms.items():
        found: list[Tensor | None] = [None] * len(images)
        if value.requires_grad:
            found = list(torch.autograd.grad(value, list(images.values()), retain_graph=True, allow_unused=True))
        for (name, image), gradient in zip(images.items(), found, strict=True):
            own = np.zeros(tuple(image.shape)) if gradient is None else gradient.numpy()
            key = f"{stage}:{term}:d_{name}"
            expected = table[key].astype(np.float64) if key in table else np.zeros_like(own)
            np.testing.assert_allclose(own, expected, rtol=0, atol=tolerance * np.abs(expected).max(), err_msg=key)


def check_training(
    stem: str,
    run: str,
    loss: Tensor,
    method: nn.Module,
    names: Mapping[str, str],
    parts: Mapping[str, list[nn.Parameter]],
    tolerance: float,
) -> None:
    """Check a forward and backward pass in train mode: loss, norms of gradients and of running statistics.

    Args:
        stem: Whose table.
        run: Which rows of it.
        loss: The loss, after `backward`.
        method: The network.
        names: From TABLE/NAME of the authors to our name of a tensor.
        parts: The parameters of each part, for the norm of all its gradients.
        tolerance: Relative to each expected value.
    """
    state, gradients = method.state_dict(), {name: p.grad for name, p in method.named_parameters()}
    found = {"loss": lambda _: float(loss)}
    found["gradient_norm"] = lambda key: float(gradients[names[key]].norm())
    found["gradient_norm_of_part"] = lambda key: float(
        torch.stack([p.grad.norm() for p in parts[key] if p.grad is not None]).norm()
    )
    found["norm_after_step"] = lambda key: float(state[names[key]].double().norm())
    compared = 0
    for row in rows(f"{stem}.training.csv"):
        if row["run"] == run and row["quantity"] in found:
            value = found[row["quantity"]](row["tensor"])
            assert value == pytest.approx(float(row["value"]), rel=tolerance), f"{row['quantity']} {row['tensor']}"
            compared += 1
    assert compared > 2, f"{stem}: no rows of {run}"
