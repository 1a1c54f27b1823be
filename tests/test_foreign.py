"""Checkpoints of strangers: their tensors are read, nothing in them is run, and what is no checkpoint is said."""

from __future__ import annotations

import argparse
import builtins
import collections
import contextlib
import functools
import io
import os
import pickle
import random
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mmfuse.errors import UserError
from mmfuse.weights.foreign import Inert, dictionaries

TENSORS = {"module.a.weight": torch.arange(6.0).reshape(2, 3), "module.a.count": torch.tensor(3)}
PLAIN = {"a.weight": TENSORS["module.a.weight"], "a.count": TENSORS["module.a.count"]}
FORMATS = {"zip": True, "legacy": False}


def save(content: Any, path: Path, form: str = "zip") -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=FORMATS[form])
    return path


class Call:
    """Pickles as a call of any function: what a malicious checkpoint holds."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.called = (function, arguments, state)

    def __reduce__(self) -> tuple[Any, ...]:
        function, arguments, state = self.called
        return (function, arguments, state) if state is not None else (function, arguments)


def equal(found: Any, expected: dict[str, torch.Tensor]) -> bool:
    return list(found) == list(expected) and all(torch.equal(found[key], expected[key]) for key in expected)


# ------------------------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("place", [(), ("model",), ("state", "network", "model")])
def test_a_dictionary_of_tensors_is_found_where_it_is(tmp_path, form, place):
    content: Any = collections.OrderedDict(TENSORS)
    for key in reversed(place):
        content = {key: content, "epoch": 7, "lr": [0.1, 0.2]}
    (found,) = dictionaries(save(content, tmp_path / "x.pth", form))
    assert found.place == place
    assert equal(found.tensors, PLAIN), "without the prefix of a data-parallel wrapper"
    assert found.beside == (("epoch", "lr") if place else ())
    assert str(found) == "x.pth" + (f" [{'.'.join(place)}]" if place else "")


@pytest.mark.parametrize("form", FORMATS)
def test_strange_objects_beside_the_tensors_do_no_harm(tmp_path, form):
    network = nn.Linear(2, 2)
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    settings = argparse.Namespace(lr=0.1, out=Path("runs"), inner=argparse.Namespace(a=[1, {"b": 2}]))
    content = {"model": network.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3, "args": settings,
               "scaler": {"scale": 65536.0, "growth": 2}, "counts": collections.Counter("aab")}  # fmt: skip
    path = save(content, tmp_path / "x.pth", form)
    with pytest.raises(pickle.UnpicklingError, match="argparse"):
        torch.load(path, weights_only=True)
    (found,) = dictionaries(path)
    assert equal(found.tensors, dict(network.state_dict()))
    assert found.beside == ("optimizer", "epoch", "args", "scaler", "counts")
    with pytest.raises(pickle.UnpicklingError, match="argparse"):
        torch.load(path, weights_only=True)  # what one file names is trusted nowhere else


def test_several_dictionaries_in_one_file_and_safetensors(tmp_path):
    found = dictionaries(save({"A": TENSORS, "B": {"b": torch.ones(1)}, "n": 1}, tmp_path / "x.pth"))
    assert [(d.place, list(d.tensors), d.beside) for d in found] == [
        (("A",), ["a.weight", "a.count"], ("B", "n")), (("B",), ["b"], ("A", "n")),
    ]  # fmt: skip
    save_file(TENSORS, tmp_path / "y.safetensors")
    (found,) = dictionaries(tmp_path / "y.safetensors")
    assert dict(found.tensors).keys() == PLAIN.keys()


def test_a_prefix_whose_loss_would_hide_a_tensor_stays(tmp_path):
    (found,) = dictionaries(save({"module.a": torch.ones(1), "a": torch.zeros(1)}, tmp_path / "x.pth"))
    assert list(found.tensors) == ["module.a", "a"]


# ------------------------------------------------------------------------------------------------------------ bad will


def attacks(marker: Path) -> dict[str, Any]:
    touch = f"__import__('pathlib').Path({str(marker)!r}).touch()"
    return {
        "os.system": Call(os.system, f"touch {marker}"),
        "eval": Call(builtins.eval, touch),
        "exec": Call(builtins.exec, touch),
        "a method": Call(Path.touch, marker),
        "nested": Call(builtins.eval, Call(str.format, "{}", touch)),
        "a result that is called": Call(functools.partial(os.system, f"touch {marker}")),
        "state": Call(argparse.Namespace, state={"x": Call(builtins.eval, touch)}),
        "a class with side effects": Call(io.FileIO, str(marker), "w"),
    }


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("beside", [True, False])
@pytest.mark.parametrize("name", list(attacks(Path("x"))))
def test_nothing_in_a_file_is_run(tmp_path, name, beside, form):
    marker = tmp_path / "code_was_run"
    attack = attacks(marker)[name]
    path = save({"model": TENSORS, "args": attack} if beside else attack, tmp_path / "x.pth", form)
    try:
        (found,) = dictionaries(path)
        assert beside and equal(found.tensors, PLAIN)
    except UserError as error:
        assert "Not a readable checkpoint" in str(error) or "no dictionary of tensors" in str(error)
    assert not marker.exists()
    with contextlib.suppress(Exception):
        torch.load(path, weights_only=False)
    assert marker.exists(), "the attack works where nothing stops it"


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_a_pickle_that_torch_did_not_write_is_refused(tmp_path, protocol):
    marker = tmp_path / "code_was_run"
    path = tmp_path / "x.pth"
    path.write_bytes(pickle.dumps(Call(Path.touch, marker), protocol=protocol))
    with pytest.raises(UserError, match="Not a readable checkpoint"):
        dictionaries(path)
    assert not marker.exists()


def test_a_script_module_is_refused_unrun(tmp_path):
    class Scripted(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    torch.jit.save(torch.jit.script(Scripted()), tmp_path / "x.pt")
    with pytest.raises(UserError, match="Not a readable checkpoint"):
        dictionaries(tmp_path / "x.pt")


def test_an_inert_object_takes_everything_and_keeps_nothing():
    thing = Inert(1, two=2)
    thing.__setstate__({"a": 1})
    assert not vars(thing)


# ---------------------------------------------------------------------------------------------------------- bad inputs


def test_damaged_and_strange_files_are_one_error(tmp_path):
    whole = {form: save({"model": TENSORS, "x": 1}, tmp_path / form, form).read_bytes() for form in FORMATS}
    with zipfile.ZipFile(tmp_path / "other", "w") as archive:
        archive.writestr("readme.txt", "no checkpoint")
    deep: Any = []
    for _ in range(20):
        deep = [deep, deep]
    bad = {
        "empty": b"", "one byte": b"P", "text": b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n",
        "page": b"<html>please log in</html>", "noise": random.Random(1).randbytes(5000),
        "zip": (tmp_path / "other").read_bytes(), "safetensors": b"\xff\xff\0\0\0\0\0\0{",
        "deep": b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".", "marks": b"\x80\x02" + b"(" * 1_000_000,
        "references": pickle.dumps(deep, 2),
    }  # fmt: skip
    for form, content in whole.items():
        bad |= {f"{form} cut at {share}": content[: int(len(content) * share)] for share in (0.1, 0.5, 0.9, 0.99)}
    for name, content in bad.items():
        path = tmp_path / "bad.pth"
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"Not a readable checkpoint: .*bad\.pth") as error:
            dictionaries(path)
        assert len(str(error.value)) < 1000, name
    with pytest.raises(UserError, match="Checkpoint not found"):
        dictionaries(tmp_path / "none.pth")


def test_a_huge_nesting_in_a_whole_file_ends_in_an_error(tmp_path):
    content: Any = torch.ones(1)
    for _ in range(400):
        content = {"a": content}
    with pytest.raises(UserError, match="no dictionary of tensors"):
        dictionaries(save(content, tmp_path / "x.pth"))


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (nn.Linear(2, 2), "Inert"),
        ([torch.ones(1)], r"an object \(list\)"),
        ({"epoch": 3, "best": 0.5}, "the keys epoch, best"),
        ({}, r"an object \(dict\)"),
        ({1: torch.ones(1)}, "the keys 1"),
    ],
)
def test_a_file_without_a_dictionary_of_tensors(tmp_path, content, found):
    with pytest.raises(UserError, match=f"no dictionary of tensors(.|\n)*{found}(.|\n)*state_dict"):
        dictionaries(save(content, tmp_path / "x.pth"))
