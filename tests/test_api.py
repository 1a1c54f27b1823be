"""mmfuse from Python: the same results as the command, for every kind of image; one clear error for each mistake."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import mmfuse as package
from conftest import draw_image
from mmfuse import methods
from mmfuse.data.images import luminance, read_image, write_image
from mmfuse.errors import UserError
from mmfuse.training.checkpoints import WeightsCard, build, save_weights, weights_of
from mmfuse.weights import shipped

FREE = [name for name in methods.available() if not methods.load(name).parts]
SMALL = {
    "lkc_funet": {"width": 8, "channels": 8, "groups": 4, "kernels": [5, 3, 3]},
    "mma_unet": {"width": 4},
    "smfnet": {"dim": 16, "heads": 4},
}
TRAINED = {name: SMALL.get(name, {}) for name in methods.available() if name not in FREE}
# grey or colour: of a, of b
COLOURS = {"grey": (False, False), "colour_b": (False, True), "colour_a": (True, False), "colour": (True, True)}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Two folders of pairs with and without colour, one of them grey in three channels."""
    folder = tmp_path_factory.mktemp("sources")
    for number, (name, kinds) in enumerate(COLOURS.items()):
        for side, colour in zip("ab", kinds, strict=True):
            write_image(folder / side / f"{name}.png", draw_image(2 * number + (side == "b"), 43, 52, colour=colour))
    for side in "ab":
        grey = draw_image(20 + (side == "b"), 43, 52)
        write_image(folder / side / "grey_in_three.png", np.repeat(grey[..., None], 3, axis=2))
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Weights files of small networks of all trained methods."""
    folder = tmp_path_factory.mktemp("weights")
    files = {}
    for name, options in TRAINED.items():
        torch.manual_seed(0)
        net = build(name, options)
        files[name] = folder / f"{name}.safetensors"
        card = WeightsCard(name, "base", "ivif", 0, net.parts[-1], options, complete=True)
        save_weights(files[name], weights_of(net.deployed_modules()), card)
    return files


def cases():
    yield from (("--method", name) for name in FREE)
    yield from (("--weights", name) for name in shipped.read_index().weights)
    yield from (("--weights", f"trained {name}") for name in TRAINED)


@pytest.mark.parametrize("case", [*cases()], ids=" ".join)
def test_results_equal_the_commands(mmfuse, sources, weights, tmp_path, case):
    option, name = case
    choice = weights[name.removeprefix("trained ")] if name.startswith("trained ") else name
    code, _, err = mmfuse("fuse", sources / "a", sources / "b", tmp_path, option, choice)
    assert code == 0, err
    for pair in [*COLOURS, "grey_in_three"]:
        a, b = (read_image(sources / side / f"{pair}.png") for side in "ab")
        expected = read_image(tmp_path / f"{pair}.png")
        found = package.fuse(a, b, **{option.removeprefix("--"): choice})
        assert found.dtype == np.uint8
        assert found.ndim == max(a.ndim, b.ndim)
        assert np.array_equal(found, expected if found.ndim == expected.ndim else expected[..., None].repeat(3, axis=2))
        loaded = package.load(**{option.removeprefix("--"): choice})
        assert np.array_equal(package.fuse(a, b, method=loaded), found)


def test_the_task_is_found_as_by_the_command(mmfuse, sources, tmp_path):
    a, b = (read_image(sources / side / "grey.png") for side in "ab")
    code, _, err = mmfuse("fuse", sources / "a/grey.png", sources / "b/grey.png", tmp_path)
    assert code == 0, err
    assert np.array_equal(package.fuse(a, b), read_image(tmp_path / "grey.png"))
    assert np.array_equal(package.fuse(a / 255.0, b / 255.0), package.fuse(a / 255.0, b / 255.0, task="ivif"))
    black = np.zeros_like(a)
    with pytest.raises(ValueError, match="The task is not clear from the images"):
        package.fuse(black, black)


def numpy_pair(dtype, colour, value_range=None):
    """The same pair in another type, at the 256 levels of its range."""
    low, high = value_range or ((0, 1) if np.issubdtype(dtype, np.floating) else (0, np.iinfo(dtype).max))
    pair = draw_image(1, 33, 40), draw_image(2, 33, 40, colour=colour)
    return [(low + image / 255 * (high - low)).astype(dtype) for image in pair], (low, high)


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize(
    ("dtype", "value_range"),
    [
        (np.uint8, None), (np.uint16, None), (np.float32, None), (np.float64, None), (np.float16, None),
        (">u2", None), (np.uint16, (1000, 9000)), (np.float32, (-40.0, 120.0)), (np.int32, (-500, 3000)),
        (np.uint8, (0, 255)), (np.int16, (-32768, 32767)),
    ],
    ids=str,
)  # fmt: skip
def test_every_type_keeps_its_type_and_range(dtype, value_range, colour):
    (a, b), (low, high) = numpy_pair(np.dtype(dtype), colour, value_range)
    before = a.copy(), b.copy()
    found = package.fuse(a, b, method="average", value_range=value_range)
    assert found.dtype == a.dtype
    assert found.shape == b.shape
    grey = [image if image.ndim == 2 else image @ np.array([0.299, 0.587, 0.114]) for image in (a, b)]
    y = (grey[0].astype(float) + grey[1]) / 2
    shifted = y if not colour else b.astype(float) + (y - grey[1])[..., None]
    step = (high - low) / 255
    assert np.abs(found - np.clip(shifted, low, high)).max() <= 1.01 * step, "8-bit luminance is rounded"
    assert np.array_equal(a, before[0]) and np.array_equal(b, before[1]), "the images are not changed"


def test_more_bits_are_not_lost():
    a = np.linspace(0, 65535, 40 * 50).reshape(40, 50).astype(np.uint16)
    assert np.array_equal(package.fuse(a, a, method="average"), a)
    assert len(np.unique(package.fuse(a, a, method="laplacian"))) > 1500
    fine = a.astype(np.float32) / 65535
    assert np.abs(package.fuse(fine, fine, method="maximum") - fine).max() == 0


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("channels", [(1, 1), (1, 3), (3, 1), (3, 3)])
def test_tensors_give_what_arrays_give(dtype, channels):
    pair = [draw_image(n, 33, 40, colour=count == 3) for n, count in enumerate(channels)]
    tensors = [torch.from_numpy(np.atleast_3d(image).transpose(2, 0, 1).copy()) for image in pair]
    if dtype != torch.uint8:
        tensors = [(tensor / 255).to(dtype) for tensor in tensors]
    found = package.fuse(*tensors, method="laplacian")
    assert found.dtype == dtype
    assert found.shape == (max(channels), 33, 40)
    arrays = [(tensor.float() if dtype == torch.bfloat16 else tensor).numpy() for tensor in tensors]
    arrays = [array[0] if len(array) == 1 else array.transpose(1, 2, 0) for array in arrays]
    expected = package.fuse(*arrays, method="laplacian")
    expected = torch.from_numpy(np.atleast_3d(expected).transpose(2, 0, 1).copy()).to(dtype)
    assert torch.equal(found, expected)
    batch = package.fuse(*(torch.stack([tensor, tensor.flip(-1)]) for tensor in tensors), method="laplacian")
    assert batch.shape == (2, max(channels), 33, 40)
    assert torch.equal(batch[0], found)


def test_a_batch_decides_on_colour_pair_by_pair():
    colour = torch.from_numpy(draw_image(1, 20, 24, colour=True).transpose(2, 0, 1).copy())
    grey = torch.from_numpy(draw_image(2, 20, 24)).expand(3, -1, -1)
    found = package.fuse(torch.stack([grey, colour]), torch.stack([grey, grey]), method="average")
    assert torch.equal(found[0], grey)
    assert torch.equal(found[1], package.fuse(colour, grey, method="average"))
    assert (found[1][0] != found[1][1]).any()


def test_views_of_other_arrays_are_images_too():
    (a, b), _ = numpy_pair(np.dtype(np.uint8), colour=True)
    expected = package.fuse(np.ascontiguousarray(a[::-1, ::2]), np.ascontiguousarray(b[::-1, ::2]), method="average")
    assert np.array_equal(package.fuse(a[::-1, ::2], b[::-1, ::2], method="average"), expected)
    for image in (a, b):
        image.setflags(write=False)
    assert package.fuse(a, b, method="average").shape == b.shape


def test_a_module_is_applied_as_it_is_now():
    a, b = (draw_image(n, 33, 40) for n in (1, 2))
    net = package.load(task="ivif")
    assert isinstance(net, torch.nn.Module)
    assert not net.training
    assert np.array_equal(package.fuse(a, b, method=net), package.fuse(a, b, task="ivif"))
    with torch.no_grad():
        list(net.parameters())[-1].add_(0.25)
    assert not np.array_equal(package.fuse(a, b, method=net), package.fuse(a, b, task="ivif"))
    image = torch.rand(1, 1, 32, 32, requires_grad=True)
    net(image, torch.rand(1, 1, 32, 32)).sum().backward()
    assert image.grad.abs().sum() > 0, "the module is differentiable"


def test_a_weights_file_that_changes_is_read_again(tmp_path):
    a, b = (draw_image(n, 33, 40) for n in (1, 2))
    path = tmp_path / "w.safetensors"
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        net = build("mma_unet", TRAINED["mma_unet"])
        card = WeightsCard("mma_unet", "base", "ivif", seed, "fusion", TRAINED["mma_unet"], complete=True)
        save_weights(path, weights_of(net.deployed_modules()), card)
        results.append(package.fuse(a, b, weights=path))
        assert np.array_equal(results[-1], package.fuse(a, b, weights=str(path)))
    assert not np.array_equal(*results)


def test_settings_of_the_program_stay():
    a, b = (draw_image(n, 33, 40) for n in (1, 2))
    before = torch.backends.cuda.matmul.allow_tf32
    try:
        torch.backends.cuda.matmul.allow_tf32 = True
        package.fuse(a, b, method="average")
        assert torch.backends.cuda.matmul.allow_tf32
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


# ---------------------------------------------------------------------------------------------------------- metrics


@pytest.mark.parametrize("convention", ["lkc_funet", "vifb"])
def test_scores_equal_the_commands(mmfuse, sources, tmp_path, convention):
    import pandas as pd

    code, _, err = mmfuse("fuse", sources / "a", sources / "b", tmp_path / "fused", "--method", "laplacian")
    assert code == 0, err
    words = ("--a", sources / "a", "--b", sources / "b", "--fused", tmp_path / "fused", "--out", tmp_path / "s.csv")
    code, _, err = mmfuse("evaluate", *words, "--convention", convention)
    assert code == 0, err
    table = pd.read_csv(tmp_path / "s.csv", float_precision="round_trip").set_index("name")
    for pair in COLOURS:
        a, b = (read_image(sources / side / f"{pair}.png") for side in "ab")
        fused = read_image(tmp_path / f"fused/{pair}.png")
        found = package.metrics.evaluate(fused, a, b, convention=convention)
        assert found == table.loc[pair].to_dict()
        assert all(type(value) is float for value in found.values())


def test_scores_of_other_types_and_of_some_metrics():
    fused, a, b = (draw_image(n, 40, 48) for n in range(3))
    expected = package.metrics.evaluate(fused, a, b, metrics=["EN", "SSIM.cddfuse"])
    assert list(expected) == ["EN", "SSIM.cddfuse"]
    assert package.metrics.evaluate(fused / 255, a / 255, b / 255, metrics=["EN", "SSIM.cddfuse"]) == expected
    tensors = [torch.from_numpy(image)[None] for image in (fused, a, b)]
    assert package.metrics.evaluate(*tensors, metrics="EN,SSIM.cddfuse") == expected
    colour = draw_image(5, 40, 48, colour=True)
    assert package.metrics.evaluate(colour, a, b, metrics=["EN"]) == package.metrics.evaluate(
        luminance(colour), a, b, metrics=["EN"]
    )


# ----------------------------------------------------------------------------------------------------------- errors

GREY, COLOUR = draw_image(1, 33, 40), draw_image(2, 33, 40, colour=True)
UNIT = GREY / 255
TENSOR = torch.from_numpy(GREY.copy())[None]
NAN = np.where(np.arange(40) == 3, np.nan, UNIT)
WRONG = {
    "a list": (GREY.tolist(), GREY, {}, TypeError, "a is no image"),
    "a path": ("infrared.png", GREY, {}, TypeError, "a is no image"),
    "nothing": (GREY, None, {}, TypeError, "b is no image"),
    "an array and a tensor": (GREY, TENSOR, {}, TypeError, "a and b differ in their form"),
    "two types": (GREY, UNIT, {}, TypeError, r"NumPy array uint8 and NumPy array float64(.|\n)*\[0, 1\]"),
    "booleans": (GREY > 9, GREY > 9, {}, TypeError, "cannot have this type"),
    "complex numbers": (UNIT + 1j, UNIT + 1j, {}, TypeError, "cannot have this type"),
    "objects": (GREY.astype(object), GREY.astype(object), {}, TypeError, "cannot have this type"),
    "no range": (GREY.astype(np.int32), GREY.astype(np.int32), {}, TypeError, r"value_range=\(LOW, HIGH\)"),
    "rows": (GREY[0], GREY[0], {}, ValueError, "a has the wrong shape"),
    "channels first": (COLOUR.transpose(2, 0, 1), GREY, {}, ValueError, r"image\.transpose\(1, 2, 0\)"),
    "alpha": (GREY, np.dstack([COLOUR, GREY]), {}, ValueError, r"image\[\.\.\., :3\]"),
    "one channel last": (GREY[..., None], GREY, {}, ValueError, r"image\[\.\.\., 0\]"),
    "a batch of arrays": (COLOUR[None], COLOUR[None], {}, ValueError, "one by one"),
    "a tensor without channel": (TENSOR[0], TENSOR[0], {}, ValueError, r"image\[None\]"),
    "a tensor with channels last": (torch.from_numpy(COLOUR), TENSOR, {}, ValueError, r"image\.permute\(2, 0, 1\)"),
    "no pixels": (GREY[:0], GREY[:0], {}, ValueError, "a has the wrong shape"),
    "sizes": (GREY, GREY[:-1], {}, ValueError, "a and b differ in size(.|\n)*33x40(.|\n)*32x40"),
    "batches": (TENSOR[None], torch.stack([TENSOR] * 2), {}, ValueError, "2 images of 33x40"),
    "NaN": (NAN, UNIT, {}, ValueError, "a has values that are not finite(.|\n)*33 values"),
    "infinity": (UNIT, np.where(UNIT > 0.5, np.inf, UNIT), {}, ValueError, "b has values"),
    "8 bits as numbers": (GREY / 1.0, GREY / 1.0, {}, ValueError, "outside its range(.|\n)*from 0 to 1"),
    "outside a range": (GREY, GREY, {"value_range": (0, 100)}, ValueError, "outside its range"),
    "a wrong range": (GREY, GREY, {"value_range": (255, 0)}, ValueError, "The range of values is wrong"),
    "a range of one number": (GREY, GREY, {"value_range": 255}, ValueError, "The range of values is wrong"),
    "an endless range": (UNIT, UNIT, {"value_range": (0, float("inf"))}, ValueError, "The range of values is wrong"),
    "an unknown method": (GREY, GREY, {"method": "laplacain"}, ValueError, "did you mean 'laplacian'"),
    "an untrained method": (GREY, GREY, {"method": "mma_unet"}, ValueError, "mma_unet needs trained weights"),
    "unknown weights": (GREY, GREY, {"method": None, "weights": "lkc_ivf"}, ValueError, "did you mean 'lkc_ivif'"),
    "no file": (GREY, GREY, {"method": None, "weights": "none.safetensors"}, ValueError, "Weights not found"),
    "an unknown task": (GREY, GREY, {"method": None, "task": "ivf"}, ValueError, "did you mean 'ivif'"),
    "both": (GREY, GREY, {"weights": "lkc_ivif"}, ValueError, "Both weights and a method"),
    "a task without effect": (GREY, GREY, {"task": "ivif"}, ValueError, "The task has no effect"),
    "another module": (GREY, GREY, {"method": torch.nn.ReLU()}, TypeError, "This module is no fusion method"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_a_mistake_gives_one_clear_error(what):
    a, b, options, kind, message = WRONG[what]
    with pytest.raises(UserError, match=message) as caught:
        package.fuse(a, b, **{"method": "average"} | options)
    assert isinstance(caught.value, kind)
    assert isinstance(caught.value, package.UserError)
    assert "  expected: " in str(caught.value) or "  found: " in str(caught.value) or "  to do: " in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"convention": "vifbb"}, ValueError, "did you mean 'vifb'"),
        ({"metrics": ["SSMI"]}, ValueError, "Unknown metric"),
        ({"metrics": []}, ValueError, "No metric"),
        ({"fused": GREY[:-1]}, ValueError, "fused and a differ in size"),
        ({"a": UNIT}, TypeError, "fused and a differ in their form"),
        ({name: torch.stack([TENSOR] * 2) for name in ("fused", "a", "b")}, ValueError, "Only one image"),
        (
            {name: image[:9, :9] for name, image in {"fused": GREY, "a": GREY, "b": GREY}.items()},
            ValueError,
            "too small",
        ),
    ],
)
def test_a_mistake_in_measuring_gives_one_clear_error(changes, kind, message):
    images = {"fused": GREY, "a": GREY, "b": luminance(COLOUR)} | {
        k: v for k, v in changes.items() if k in ("fused", "a", "b")
    }
    options = {k: v for k, v in changes.items() if k not in images}
    with pytest.raises(UserError, match=message) as caught:
        package.metrics.evaluate(**images, **options)
    assert isinstance(caught.value, kind)


@pytest.mark.parametrize(
    ("options", "message"),
    [({}, "Which network to load is not clear"), ({"weights": "x"}, "no shipped weights named 'x'"),
     ({"task": "mri"}, "Unknown task"), ({"method": "lkc_funet"}, "needs trained weights")],
)  # fmt: skip
def test_a_mistake_in_loading_gives_one_clear_error(options, message):
    with pytest.raises(ValueError, match=message) as caught:
        package.load(**options)
    assert isinstance(caught.value, UserError)


# ----------------------------------------------------------------------------------------- imports and their types


def test_importing_mmfuse_loads_nothing_heavy():
    program = (
        "import sys; before = {*sys.modules}; import mmfuse; assert {'fuse', 'load', 'metrics'} <= {*dir(mmfuse)}; "
        "print(*({*sys.modules} - before))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in run.stdout.split()}
    assert not loaded & {"torch", "numpy", "pandas", "scipy", "PIL", "mlflow", "snakemake", "dvc", "typer", "yaml"}
    program = "import sys, mmfuse; mmfuse.fuse, mmfuse.metrics.evaluate; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {name.partition(".")[0] for name in run.stdout.split()} & {"pandas", "mlflow", "snakemake", "dvc"}


def test_type_checkers_see_every_public_name():
    tree = ast.parse(Path(package.__file__).read_text(encoding="utf-8"))
    [block] = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    seen = {alias.name: node.module for node in block.body for alias in node.names}
    assert {*seen} == {*package.__all__} - {"UserError", "__version__"}
    for name, module in seen.items():
        where = sys.modules[getattr(package, name).__module__] if callable(getattr(package, name)) else package
        assert getattr(where, name) is getattr(package, name)
        assert where.__name__ == module
    assert dir(package) == sorted(package.__all__)
    assert (Path(package.__file__).parent / "py.typed").is_file()
    with pytest.raises(AttributeError, match="no attribute 'fusion'"):
        package.fusion  # noqa: B018
