"""Published checkpoints become weights: grouped by their names, checked tensor by tensor, and applied to images.

The checkpoints are made here, with the names, shapes and nesting of the authors' files, which cannot be had.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from golden_networks import FOLDER, checkpoint, needs_golden, source
from mmfuse import methods
from mmfuse.cli import importing
from mmfuse.data.images import read_image, write_image
from mmfuse.errors import UserError
from mmfuse.files.writing import sha256
from mmfuse.methods.base import FusionMethod
from mmfuse.training.checkpoints import load_method, read_weights


class Toy(FusionMethod):
    """Two networks whose names differ by one layer, and an option that changes no tensor."""

    parts = ("one", "two")
    published_options = ({"width": 3}, {"width": 3, "norm": False})
    published_tasks = ("ivif", "mif")
    published_note = "The output is half of the sum."
    published_extras = (r"sobel\..*",)

    def __init__(self, *, width: int = 2, norm: bool = True, stretch: bool = True) -> None:
        super().__init__()
        self.visible = nn.Sequential(nn.Conv2d(1, width, 1), nn.BatchNorm2d(width) if norm else nn.GroupNorm(1, width))
        self.infrared = nn.Sequential(nn.Conv2d(1, width, 1), nn.BatchNorm2d(width), nn.Conv2d(width, 1, 1))
        self.stretch = stretch

    def forward(self, a: Tensor, b: Tensor) -> Tensor:  # noqa: D102 - as in the base class
        return (self.infrared(a) + self.visible(b).mean(1, keepdim=True)).sigmoid()

    def published_names(self) -> dict[str, dict[str, str]]:  # noqa: D102
        return {
            group: {f"net.{key.partition('.')[2]}": key for key in self.state_dict() if key.startswith(f"{group}.")}
            for group in ("visible", "infrared")
        }


class Other(Toy):
    """Another method, of other names."""

    published_options = ({"width": 2},)

    def published_names(self) -> dict[str, dict[str, str]]:  # noqa: D102
        return {"all": {f"strange.{key}": key for key in self.state_dict()}}


@pytest.fixture
def _toys(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"toy": Toy, "other": Other, "average": methods.load("average")}
    monkeypatch.setattr(methods, "available", lambda: sorted(known))
    monkeypatch.setattr(methods, "load", lambda name: known[name])


@pytest.fixture
def theirs(_toys: None) -> dict[str, dict[str, Tensor]]:
    """Random values of the toy's first form under the authors' names, by group."""
    torch.manual_seed(3)
    method = Toy(**Toy.published_options[0])
    own = {key: torch.rand_like(v) if v.is_floating_point() else v + 7 for key, v in method.state_dict().items()}
    return {
        group: {name: own[ours] for name, ours in names.items()} for group, names in method.published_names().items()
    }


@pytest.fixture
def files(tmp_path: Path):
    def write(**contents: Any) -> list[Path]:
        for name, content in contents.items():
            torch.save(content, tmp_path / f"{name}.pth")
        return [tmp_path / f"{name}.pth" for name in contents]

    return write


@pytest.fixture
def refusal(tmp_path: Path):
    """Import what must be refused; return the error's text. Nothing is written."""

    def run(*paths: Path, **more: Any) -> str:
        out = tmp_path / "refused.safetensors"
        with pytest.raises(UserError) as error:
            importing.run("toy", paths, out=out, **more)
        assert not out.exists()
        return str(error.value)

    return run


# ------------------------------------------------------------------------------------------------------------ grouping


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("layout", ["two files", "two files turned", "one file", "safetensors"])
def test_values_arrive_under_our_names(theirs, files, tmp_path, layout, prefix):
    held = {group: {f"{prefix}{name}": value for name, value in values.items()} for group, values in theirs.items()}
    if layout == "one file":
        paths = files(x={**held, "epoch": 3, "args": argparse.Namespace(lr=0.1)})
    elif layout == "safetensors":
        paths = [tmp_path / f"{group}.safetensors" for group in held]
        for path, values in zip(paths, held.values(), strict=True):
            save_file(values, path)
    else:
        paths = files(**{group: {"model": values, "optimizer": {"lr": 1.0}} for group, values in held.items()})
        paths = paths[::-1] if layout == "two files turned" else paths
    out = tmp_path / "w.safetensors"
    lines = importing.run("toy", paths, out=out)
    method, card = load_method(out)
    names = method.published_names()
    own = method.state_dict()
    for group, values in theirs.items():
        assert all(torch.equal(own[names[group][name]], value) for name, value in values.items())
    assert (card.method, card.variant, card.task, card.seed, card.part) == ("toy", "as_published", "ivif", 0, "two")
    assert card.network == {"width": 3}
    assert card.complete
    assert card.sources == {path.name: sha256(path) for path in paths}
    text = "\n".join(lines)
    for said in (
        "visible: 7 tensors, 12 parameters, from ", "options: width=3", "The output is half of the sum.",
        "task: ivif, assumed", "16 tensors, 28 parameters", "mmfuse fuse A/ B/ OUT/ --weights", *card.sources.values(),
    ):  # fmt: skip
        assert said in text
    if layout != "safetensors":
        assert ("not needed: epoch, args" if layout == "one file" else "not needed: optimizer") in text
    again = tmp_path / "again.safetensors"
    importing.run("toy", paths, out=again)
    assert again.read_bytes() == out.read_bytes()


def test_the_form_is_found_by_the_tensors(theirs, files, tmp_path):
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        theirs["visible"].pop(f"net.1.{name}")
    lines = importing.run("toy", files(**theirs), out=tmp_path / "w.safetensors")
    card = read_weights(tmp_path / "w.safetensors")[1]
    assert (card.network, card.task) == ({"width": 3, "norm": False}, "mif")
    assert "task: mif, assumed; --task chooses another" in lines
    importing.run("toy", files(**theirs), out=tmp_path / "w.safetensors", task="ivif")
    assert read_weights(tmp_path / "w.safetensors")[1].task == "ivif"


def test_known_extras_are_ignored_and_said(theirs, files, tmp_path):
    theirs["visible"] |= {"sobel.weightx": torch.ones(3, 3), "sobel.weighty": torch.ones(3, 3)}
    lines = importing.run("toy", files(**theirs), out=tmp_path / "w.safetensors")
    assert "  ignored, not part of the network: sobel.weightx, sobel.weighty" in lines
    assert not any("sobel" in key for key in read_weights(tmp_path / "w.safetensors")[0])


def test_files_of_one_name_are_told_apart(theirs, tmp_path):
    paths = [tmp_path / group / "model.pth" for group in theirs]
    for path, values in zip(paths, theirs.values(), strict=True):
        path.parent.mkdir()
        torch.save(values, path)
    importing.run("toy", paths, out=tmp_path / "w.safetensors")
    assert read_weights(tmp_path / "w.safetensors")[1].sources == {path.as_posix(): sha256(path) for path in paths}


# ------------------------------------------------------------------------------------------------------------ problems


def test_all_problems_are_said_at_once(theirs, files, refusal):
    visible, infrared = theirs["visible"], theirs["infrared"]
    visible.pop("net.0.bias")
    visible["net.new"] = torch.ones(2)
    visible["net.0.weight"] = torch.ones(4, 1, 1, 1)
    infrared["net.2.weight"][0, 1] = float("nan")
    infrared["net.2.bias"] = torch.ones(1, dtype=torch.int64)
    infrared["net.1.num_batches_tracked"] = torch.tensor(1.5)
    infrared["net.1.weight"] = torch.ones(3, dtype=torch.complex64)
    text = refusal(*files(**theirs))
    assert text.startswith("These files are not the weights of toy:\n")
    for line in (
        "visible.pth, visible: 1 missing: net.0.bias (3)",
        "visible.pth, visible: 1 left over: net.new",
        "visible.pth, visible: 1 of another shape: net.0.weight (4 x 1 x 1 x 1, not 3 x 1 x 1 x 1)",
        "infrared.pth, infrared: 1 not finite: net.2.weight",
        "infrared.pth, infrared: 3 of another kind: net.1.weight (complex64, strided), "
        "net.1.num_batches_tracked (float32, strided), net.2.bias (int64, strided)",
    ):
        assert f"  - {line}\n" in text


def test_many_names_are_cut_unless_all_are_asked_for(theirs, files, refusal):
    theirs["visible"] |= {f"more.{n:03}": torch.ones(1) for n in range(200)}
    theirs["infrared"] |= {f"more.{n:03}": torch.ones(1) for n in range(3)}
    paths = files(**theirs)
    text = refusal(*paths)
    assert "visible.pth, visible: 200 left over: more.000, " in text
    assert ", more.019 and 180 more\n" in text
    assert "infrared: 3 left over: more.000, more.001, more.002\n" in text
    assert len(text.splitlines()) < 10
    assert all(f"more.{n:03}" in refusal(*paths, every_name=True) for n in range(200))


def test_a_group_twice_and_a_group_without_a_file(theirs, files, refusal):
    text = refusal(*files(a=theirs["visible"], b={"model": theirs["visible"], "model_ema": theirs["visible"]}))
    assert "  - visible occurs 3 times: a.pth, b.pth [model], b.pth [model_ema]\n" in text
    assert "  - infrared has no file: expected net.0.weight, net.0.bias, net.1.weight and 6 more\n" in text
    assert "infrared has no file" in refusal(*files(a=theirs["visible"]))


def test_a_file_that_fits_nothing_is_said_with_what_is_closest(theirs, files, refusal):
    fitting = files(**theirs)
    stray = {"net.0.weight": torch.ones(3, 1, 1, 1), "x": torch.ones(1)}
    text = refusal(*fitting, *files(stray=stray))
    assert "  - stray.pth fits nothing: it has net.0.weight, x; closest is " in text
    assert re.search(r"closest is visible, of which it has 1 of 7 names\n", text)
    # beside what is needed it does not matter
    assert "not needed: ema" in str(importing.run(
        "toy", files(visible={"model": theirs["visible"], "ema": stray}, infrared=theirs["infrared"]),
        out=fitting[0].with_name("w.safetensors"),
    ))  # fmt: skip


@pytest.mark.usefixtures("_toys")
def test_another_methods_file_is_named(files, refusal):
    other = Other(width=2)
    own = other.state_dict()
    (path,) = files(x={name: own[ours] for name, ours in other.published_names()["all"].items()})
    text = refusal(path)
    assert "x.pth fits nothing" in text
    assert ". These are names of other\n" in text
    assert "visible has no file" in text
    assert "infrared has no file" in text


@pytest.mark.usefixtures("_toys")
def test_methods_without_published_weights_are_refused(files, tmp_path):
    with pytest.raises(UserError, match=r"No published weights of average can be imported(.|\n)*other, toy"):
        importing.run("average", files(x={"a": torch.ones(1)}), out=tmp_path / "w.safetensors")


def test_the_output_is_a_file_of_its_own(theirs, files, tmp_path):
    paths = files(**theirs)
    with pytest.raises(UserError, match=r"Cannot write(.|\n)*NAME\.safetensors"):
        importing.run("toy", paths, out=tmp_path / "w.pth")
    save_file(theirs["visible"], tmp_path / "v.safetensors")
    with pytest.raises(UserError, match="Cannot write"):
        importing.run("toy", [tmp_path / "v.safetensors", paths[1]], out=tmp_path / "v.safetensors")


# -------------------------------------------------------------------------------------------------- values and options


def test_other_precisions_become_the_networks(theirs, files, tmp_path):
    theirs["visible"] = {name: v.half() if v.is_floating_point() else v.int() for name, v in theirs["visible"].items()}
    theirs["infrared"] = {name: v.double() if v.is_floating_point() else v for name, v in theirs["infrared"].items()}
    importing.run("toy", files(**theirs), out=tmp_path / "w.safetensors")
    weights = read_weights(tmp_path / "w.safetensors")[0]
    assert {value.dtype for value in weights.values()} == {torch.float32, torch.int64}
    assert torch.equal(weights["visible.0.weight"], theirs["visible"]["net.0.weight"].float())
    assert weights["visible.1.num_batches_tracked"] == 7


def test_a_double_too_large_for_the_network_is_not_finite(theirs, files, refusal):
    theirs["visible"]["net.0.bias"] = torch.full((3,), 1e300, dtype=torch.float64)
    assert "1 not finite: net.0.bias" in refusal(*files(**theirs))


def test_a_view_of_a_large_tensor_brings_only_itself(theirs, files, tmp_path):
    theirs["visible"]["net.0.bias"] = torch.arange(100_000.0)[5:8]
    theirs["visible"]["net.0.weight"] = torch.rand(1, 1, 1, 3).permute(3, 0, 1, 2)
    importing.run("toy", files(**theirs), out=tmp_path / "w.safetensors")
    assert (tmp_path / "w.safetensors").stat().st_size < 10_000
    weights = read_weights(tmp_path / "w.safetensors")[0]
    assert weights["visible.0.bias"].tolist() == [5, 6, 7]
    assert torch.equal(weights["visible.0.weight"], theirs["visible"]["net.0.weight"])


def test_options_that_change_no_tensor_can_be_chosen(theirs, files, tmp_path, refusal):
    paths = files(**theirs)
    lines = importing.run("toy", paths, out=tmp_path / "w.safetensors", changes={"stretch": False})
    method, card = load_method(tmp_path / "w.safetensors")
    assert card.network == {"width": 3, "stretch": False}
    assert not method.stretch
    assert "changed from the authors' options: stretch=False" in lines
    text = refusal(*paths, changes={"width": 4})
    assert "--network width=4 gives a network with other tensors" in text
    assert "infrared.0.bias, " in text
    assert "other tensors" in refusal(*paths, changes={"norm": False})
    assert "does not take these options" in refusal(*paths, changes={"depth": 1})
    assert "cannot be built with --network width=-1" in refusal(*paths, changes={"width": -1})


def test_the_command_line(theirs, files, tmp_path, mmfuse):
    paths, out = files(**theirs), tmp_path / "w.safetensors"
    code, said, err = mmfuse(
        "import-weights", "toy", *paths, "--out", out, "--network", "stretch=false", "--task", "mif"
    )
    assert (code, err) == (0, "")
    assert f"wrote {out}: 16 tensors" in said
    assert read_weights(out)[1].network["stretch"] is False
    with safe_open(out, framework="pt") as file:
        assert json.loads(file.metadata()["mmfuse"])["sources"] == {path.name: sha256(path) for path in paths}
    for words, problem in {
        (paths[0],): "infrared has no file",
        (tmp_path / "none.pth",): "Checkpoint not found",
        (*paths, "--network", "stretch"): "An option has no value",
        (*paths, "--network", "stretch=[1"): "cannot be read",
        (*paths, "--task", "other"): "other",
    }.items():
        code, _, err = mmfuse("import-weights", "toy", *words, "--out", tmp_path / "x.safetensors")
        assert code == 2, problem
        assert problem in err
        assert "Traceback" not in err


# -------------------------------------------------------------------------------------------------- the three networks


def sides(values: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}{name}": value for name, value in values.items()}


def published_files(name: str, form: int, prefix: str) -> dict[str, Any]:
    """Return what the authors' files hold, by file name, for the rule's values."""
    if name == "lkc_funet":
        values = checkpoint("lkc_funet")
        if form:
            for lost in ("running_mean", "running_var", "num_batches_tracked"):
                values.pop(f"model.IN_conv.0.{lost}")
        return {("best_VIF.pth", "best_MIF.pth")[form]: sides(values, prefix)}
    if name == "mma_unet":
        args = argparse.Namespace(batch_size=4, output_dir=Path("out"))
        sobel = {"sobelconv.weightx": torch.ones(1, 1, 3, 3), "sobelconv.weighty": torch.ones(1, 1, 3, 3)}
        extras = {"vi": sobel, "ir": {}, "fusion": sides(sobel, "fusionloss.")}
        stems = {"vi": "checkpoint-400-vi.pth", "fusion": "checkpoint-100.pth", "ir": "checkpoint-400-ir.pth"}
        return {
            file: {"model": sides(checkpoint(f"mma_unet.{stem}") | extras[stem], prefix), "optimizer": {"state": {}},
                   "epoch": 400, "scaler": {}, "args": args}
            for stem, file in stems.items()
        }  # fmt: skip
    keys = {"DIDF_Encoder": "encoder", "DIDF_Decoder": "decoder", "GraphModel": "graph", "BaseFuseLayer": "base_fusion",
            "DetailFuseLayer": "detail_fusion"}  # fmt: skip
    return {"model_VIF.pth": {key: sides(checkpoint(f"smfnet.{stem}"), prefix) for key, stem in keys.items()}}


def saved_picture(name: str, stem: str) -> np.ndarray:
    """Return the picture that the authors' test code saves."""
    outputs = np.load(FOLDER / f"{stem}.outputs.npz")
    if name == "lkc_funet":
        return np.rint(np.clip(outputs["fused"].astype(np.float64) * 255, 0, 255)).squeeze()
    if name == "mma_unet":
        return outputs["saved_picture"].squeeze().astype(np.float64)
    return np.rint(outputs["saved_luminance"].astype(np.float64) * 255).squeeze()


CASES = [
    ("lkc_funet", 0, "", "lkc_funet.alpha", (32, 48)),
    ("lkc_funet", 1, "module.", "lkc_funet.alpha.instance", (32, 48)),
    ("mma_unet", 0, "", "mma_unet.alpha", (48, 64)),
    ("smfnet", 0, "module.", "smfnet.alpha", (40, 48)),
    ("smfnet", 0, "", "smfnet.alpha", (40, 48)),
]


@needs_golden
@pytest.mark.parametrize(("name", "form", "prefix", "stem", "shape"), CASES)
def test_imported_weights_make_the_authors_picture(tmp_path, mmfuse, name, form, prefix, stem, shape):
    contents = published_files(name, form, prefix)
    for file, content in contents.items():
        torch.save(content, tmp_path / file)
    weights = tmp_path / "w.safetensors"
    code, said, err = mmfuse("import-weights", name, *(tmp_path / file for file in contents), "--out", weights)
    assert (code, err) == (0, ""), err
    assert all(f"read {file}, SHA-256 {sha256(tmp_path / file)}" in said for file in contents)
    pictures = {role: tmp_path / f"{role}.png" for role in ("infrared", "visible")}
    for role, path in pictures.items():
        image = source(f"{name}/alpha/image/{role}", *shape)[0, 0].numpy()
        write_image(path, np.rint(image * 255).astype(np.uint8))
    code, _, err = mmfuse("fuse", pictures["infrared"], pictures["visible"], tmp_path / "out", "--weights", weights)
    assert code == 0, err
    found = read_image(tmp_path / "out/infrared.png").astype(np.float64)
    expected = saved_picture(name, stem)
    assert np.ptp(expected) > 20, "a picture, not a grey field"
    assert np.abs(found - expected).max() <= 1
    cut = name == "mma_unet"  # the authors cut to whole grey levels where we round
    assert (found - expected).min() == 0 if cut else (found == expected).mean() > 0.99


@needs_golden
@pytest.mark.parametrize(("name", "form"), [("lkc_funet", 1), ("mma_unet", 0), ("smfnet", 0)])
def test_a_damaged_published_file_is_told_tensor_by_tensor(tmp_path, name, form):
    contents = published_files(name, form, "")
    file, content = next(iter(contents.items()))
    values = next((inner for inner in content.values() if isinstance(inner, dict)), content)
    lost, _, _, bent, *_ = values
    values.pop(lost)
    values[bent] = torch.ones(7, 7, 7, 7, 7)
    values["unheard.of"] = torch.ones(1)
    for other, held in contents.items():
        torch.save(held, tmp_path / other)
    with pytest.raises(UserError) as error:
        importing.run(name, [tmp_path / other for other in contents], out=tmp_path / "w.safetensors")
    text = str(error.value)
    assert f"1 missing: {lost} (" in text
    assert "1 left over: unheard.of" in text
    assert f"1 of another shape: {bent} (7 x 7 x 7 x 7 x 7, not " in text
    assert file in text
    assert "has no file" not in text
    assert not (tmp_path / "w.safetensors").exists()
