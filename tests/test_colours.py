"""The rule on colours: exchanged folders and palettes give a warning, and the real datasets give none."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from mmfuse.data.catalog import load_catalog
from mmfuse.data.colours import COLOURED, Colours, colourfulness
from mmfuse.data.images import Bytes, luminance, write_image
from mmfuse.data.reading import find_pairs, read_pair, read_pairs

# without grey and bone, which hardly differs from grey
PALETTES = [
    "autumn", "cividis", "cool", "coolwarm", "copper", "gist_rainbow", "gnuplot2", "hot", "hsv", "inferno", "jet",
    "magma", "nipy_spectral", "plasma", "rainbow", "spring", "summer", "turbo", "viridis", "winter",
]  # fmt: skip
GREY = {"a": "infrared"}


def in_palette(image: Bytes, name: str) -> Bytes:
    colours = matplotlib.colormaps[name](np.arange(256))[:, :3]
    return np.rint(colours * 255).astype(np.uint8)[luminance(image)]


def warnings(capsys, grey, *pairs) -> list[str]:
    colours = Colours(grey)
    for number, (a, b) in enumerate(pairs):
        colours.add(f"p{number}", {"a": a, "b": b})
    colours.warn("set")
    return capsys.readouterr().err.splitlines()


def stored(kind: str, grey: Bytes) -> Bytes:
    """A grey image as files hold it: in one channel, in three equal ones, tinted by a video's colours."""
    three = np.repeat(grey[..., None], 3, axis=2)
    tinted = np.clip(three + np.array([0, 1, 3]), 0, 255).astype(np.uint8)
    return {"one": grey, "three": three, "tinted": tinted}[kind]


@pytest.mark.parametrize("kind", ["one", "three", "tinted"])
@pytest.mark.parametrize("visible", ["colour", "grey"])
def test_right_pairs_give_no_warning(capsys, image, kind, visible):
    pairs = [(stored(kind, image(n)), image(n + 9, colour=visible == "colour")) for n in range(5)]
    assert warnings(capsys, GREY, *pairs) == []


@pytest.mark.parametrize("kind", ["one", "three", "tinted"])
@pytest.mark.parametrize("wrong", [1, 2, 5])
def test_exchanged_images_are_counted_and_named(capsys, image, kind, wrong):
    right = [(stored(kind, image(n)), image(n + 9, colour=True)) for n in range(5)]
    (line,) = warnings(capsys, GREY, *((b, a) if n < wrong else (a, b) for n, (a, b) in enumerate(right)))
    named = ", ".join(f"p{n}" for n in range(min(wrong, 3))) + (", …" if wrong > 3 else "")
    assert line == (
        f"warning: set: in {wrong} of 5 pairs, image a (infrared) has colours and the other image is grey ({named}): "
        "if the two were exchanged, put them in the other order"
    )


@pytest.mark.parametrize("palette", PALETTES)
def test_every_palette_is_noticed(capsys, image, palette):
    dark = (image(3) // 4).astype(np.uint8)
    for grey in (image(1), image(2), dark):
        (line,) = warnings(capsys, GREY, (in_palette(grey, palette), image(9, colour=True)))
        assert "in 1 of 1 pair, image a (infrared) has colours (p0): if they are a palette" in line
    # where both should be grey, nothing says which of them was exchanged
    (line,) = warnings(capsys, {"a": "CT", "b": "MRI"}, (image(1), in_palette(image(2), palette)))
    assert "image b (MRI) has colours (p0): if they are a palette" in line


def test_colours_that_are_allowed_are_not_looked_at(capsys, image):
    colour = [image(n, colour=True) for n in range(2)]
    assert warnings(capsys, {}, colour, (image(1), colour[0])) == []


def test_colourfulness_of_known_images():
    assert colourfulness(np.full((2, 2), 7, np.uint8)) == 0
    assert colourfulness(np.full((2, 2, 3), 7, np.uint8)) == 0
    pixels = np.zeros((2, 2, 3), np.uint8)
    pixels[0, 0] = [255, 0, 10]
    pixels[0, 1] = [3, 4, 5]
    assert colourfulness(pixels) == (255 + 2) / 4


# ------------------------------------------------------------------------------------------------- in the commands


def folders(tmp_path: Path, image, *, exchanged: bool, palette: bool) -> tuple[Path, Path]:
    for number in range(3):
        infrared, visible = image(number), image(number + 9, colour=True)
        write_image(tmp_path / f"IR/{number}.jpg", in_palette(infrared, "hot") if palette else infrared)
        write_image(tmp_path / f"VI/{number}.jpg", visible)
    names = ("VI", "IR") if exchanged else ("IR", "VI")
    return tmp_path / names[0], tmp_path / names[1]


@pytest.mark.parametrize(
    ("wrong", "expected"), [(None, ""), ("exchanged", "in the other order"), ("palette", "a palette")]
)
def test_fuse_evaluate_and_prepare_warn_and_go_on(tmp_path, image, mmfuse, capfd, wrong, expected):
    a, b = folders(tmp_path, image, exchanged=wrong == "exchanged", palette=wrong == "palette")
    code, said, err = mmfuse("fuse", a, b, tmp_path / "out", "--method", "average")
    assert code == 0
    assert "3 fused images" in said
    assert ("warning: fuse: in 3 of 3 pairs, image a" in err) == bool(wrong)
    assert expected in err
    for fused in (["out"], ["x=out", "y=out"]):
        words = [word for text in fused for word in ("--fused", text.replace("out", str(tmp_path / "out")))]
        scores = ("--out", tmp_path / f"{len(fused)}.csv", "--metrics", "EN")
        code, _, err = mmfuse("evaluate", "--a", a, "--b", b, *words, *scores)
        assert code == 0
        assert err.count("warning: evaluate: in 3 of 3 pairs, image a") == bool(wrong)
        assert expected in err
    entry = load_catalog()["vifb"]
    layout = replace(entry.layout, a=f"{a.name}/{{name}}.jpg", b=f"{b.name}/{{name}}.jpg")
    entry = replace(entry, layout=layout)
    problems: list[str] = []
    assert len(list(read_pairs(entry, find_pairs(entry, tmp_path).pairs, "test", problems))) == 3
    err = capfd.readouterr().err
    assert problems == []
    assert ("warning: vifb test: in 3 of 3 pairs, image a (infrared)" in err) == bool(wrong)
    assert expected in err


# -------------------------------------------------------------------------------------------------- the real images


class Both:
    """Look at each pair as it is, and exchanged."""

    def __init__(self, grey: list[str]) -> None:
        self.grey = grey
        self.right, self.exchanged = (Colours(dict.fromkeys(grey, "")) for _ in range(2))
        self.most = 0.0

    def add(self, name: str, images: dict[str, Bytes]) -> None:
        """See `Colours.add`."""
        self.right.add(name, images)
        self.exchanged.add(name, {"a": images["b"], "b": images["a"]})
        self.most = max(self.most, *(colourfulness(images[side]) for side in self.grey))


@pytest.mark.mirror
@pytest.mark.parametrize("step", [10, pytest.param(1, marks=pytest.mark.faults)])
def test_the_real_datasets_give_no_false_alarm(step):
    """`pytest -s tests/test_colours.py -m faults` prints the figures of all pairs."""
    if "MMFUSE_MIRROR" not in os.environ:
        pytest.skip("MMFUSE_MIRROR is not set")
    pairs = 0
    for name, entry in load_catalog().items():
        folder = Path(os.environ["MMFUSE_MIRROR"], entry.mirror or "none")
        if not folder.is_dir():
            continue
        both = Both([side for side in ("a", "b") if entry.colour[side] in {"grey", "grey_as_colour"}])
        # lists of names are written by the download
        splits = entry.splits if entry.splits.by == "folder" else replace(entry.splits, by="all", to="test")
        for files in find_pairs(replace(entry, splits=splits), folder).pairs[::step]:
            read_pair(entry, files, colours=both)
        count, wrong = both.right.pairs, len(both.right.exchanged) + sum(map(len, both.right.palette.values()))
        found = f"{len(both.exchanged.exchanged)} noticed if exchanged" if both.grey == ["a"] else "both grey"
        print(f"{name}: {count} pairs, {wrong} false alarms, {found}, grey images up to {both.most:.2f}")
        assert wrong == 0, name
        assert both.most <= 0.6 * COLOURED
        assert both.grey != ["a"] or len(both.exchanged.exchanged) > 0.5 * count
        pairs += count
    assert pairs > 1000 / step
