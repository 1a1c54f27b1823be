"""Weights that come with the package: found by name and by task, checked, and applied without a word about them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import shipped_weights
from conftest import draw_image
from mmfuse.data.images import read_image, write_image
from mmfuse.errors import UserError
from mmfuse.inference.fusing import fuse_pair
from mmfuse.inference.task_rule import Black, shared_black, task_of_images
from mmfuse.training.checkpoints import load_method
from mmfuse.weights import shipped

ROOT = Path(__file__).parents[1]
LARGEST, TOGETHER = 5_000_000, 25_000_000  # bytes


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of shipped weights in the place of the package's."""
    made = tmp_path / "shipped"
    monkeypatch.setattr(shipped, "FOLDER", made)
    return made


@pytest.fixture
def two(folder):
    """One default network for each task."""
    shipped_weights.make(folder, "roads", "ivif", default=["ivif"])
    shipped_weights.make(folder, "brains", "mif", default=["mif"], method="lkc_funet")
    return folder


def scan(seed, height=48, width=56):
    """A body on a black background, with the noise that a lossy file leaves there."""
    rows, columns = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    body = (rows**2 + columns**2 < 0.7)[..., None] if seed % 2 else rows**2 + columns**2 < 0.7
    image = np.where(body, draw_image(seed, height, width, colour=bool(seed % 2)) // 2 + 60, 0)
    return (image + np.random.default_rng(seed).integers(0, 2, image.shape)).astype(np.uint8)


@pytest.fixture
def scans(tmp_path):
    """Two folders of matching scans, grey and colour."""
    a, b = tmp_path / "mri", tmp_path / "pet"
    for number in (2, 4):
        write_image(a / f"{number}.png", scan(number))
        write_image(b / f"{number}.png", scan(number + 1))
    return a, b


# ------------------------------------------------------------------------------------------- what is in the package


def test_what_is_shipped_is_small_complete_and_as_the_index_says():
    index = shipped.read_index()
    files = list(shipped.FOLDER.glob("*.safetensors"))
    assert {path.name for path in files} == {one.file for one in index.weights.values()}
    assert all(path.stat().st_size <= LARGEST for path in files)
    assert sum(path.stat().st_size for path in files) <= TOGETHER
    catalog = yaml.safe_load((ROOT / "data/catalog.yaml").read_text())["datasets"]
    for name, one in index.weights.items():
        _, card = load_method(shipped.verified(one))
        assert (card.method, card.variant) == (one.method, one.variant)
        assert (shipped.FOLDER / f"{name}.md").is_file()
        assert one.summary
        assert any(data.use == "training" for data in one.data)
        assert all(data.split != "test" and data.licence for data in one.data)
        assert {data.dataset for data in one.data} <= set(catalog)
        assert {"commit", "hours", "config"} <= one.training.keys()
        assert one.scores


def test_a_wheel_takes_them_along():
    assert '"weights/*"' in (ROOT / "pyproject.toml").read_text()


# -------------------------------------------------------------------------------------------------- finding weights


def test_weights_are_found_by_name_task_and_method(two):
    assert list(shipped.read_index().weights) == ["roads", "brains"]
    assert shipped.default("ivif").name == "roads"
    assert shipped.default("mif").name == "brains"
    assert shipped.of_method("lkc_funet", "mif").name == "brains"
    assert shipped.verified(shipped.named("roads")) == two / "roads.safetensors"
    with pytest.raises(UserError, match="did you mean 'brains'"):
        shipped.named("brain")
    with pytest.raises(UserError, match="No weights of lkc_funet for ivif are shipped"):
        shipped.of_method("lkc_funet", "ivif")


def test_of_several_the_default_counts_and_without_one_the_name_is_asked_for(two):
    shipped_weights.make(two, "both", "ivif", "mif", method="lkc_funet")
    assert shipped.of_method("lkc_funet", "mif").name == "brains"
    assert shipped.of_method("lkc_funet", "ivif").name == "both"
    shipped_weights.make(two, "more", "ivif", method="lkc_funet")
    with pytest.raises(UserError, match=r"Several weights of lkc_funet for ivif(.|\n)*shipped:both or shipped:more"):
        shipped.of_method("lkc_funet", "ivif")


@pytest.mark.parametrize("what", ["damaged", "missing"])
def test_a_damaged_or_missing_file_is_refused(two, what):
    path = two / "roads.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # one bit of one weight
    path.write_bytes(content) if what == "damaged" else path.unlink()
    with pytest.raises(UserError, match=f"The shipped weights roads are {what}"):
        shipped.verified(shipped.named("roads"))


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.pop("weights"),
        lambda content: content["weights"]["roads"].pop("sha256"),
        lambda content: content["weights"]["roads"].update(file="../roads.safetensors"),
        lambda content: content["weights"]["roads"].update(tasks=["xray"]),
        lambda content: content["weights"]["roads"]["data"][0].pop("licence"),
        lambda content: content["defaults"].update(mif="roads"),
        lambda content: content["defaults"].update(mif="none"),
    ],
)
def test_a_damaged_index_is_refused(two, change):
    content = yaml.safe_load((two / "index.yaml").read_text())
    change(content)
    (two / "index.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match="Damaged index of shipped weights"):
        shipped.read_index()


# --------------------------------------------------------------------------------------------------- the command


def test_the_default_is_applied_and_named(mmfuse, two, folders, tmp_path):
    code, out, err = mmfuse("fuse", *folders, tmp_path / "out", "--task", "ivif")
    assert (code, out) == (0, f"3 fused images in {tmp_path}/out\n")
    assert "weights: roads (method mma_unet, task ivif)\n" in err
    net, _ = load_method(two / "roads.safetensors")
    expected = fuse_pair(net, *(read_image(f / "two words.png") if f.name == "visible" else read_image(
        f / "two words.bmp") for f in folders), torch.device("cpu"))  # fmt: skip
    found = read_image(tmp_path / "out/two words.png")
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1


@pytest.mark.usefixtures("two")
def test_the_task_is_told_from_the_images(mmfuse, folders, scans, tmp_path):
    for number, (pair, name) in enumerate([(folders, "roads"), (scans, "brains")]):
        code, _, err = mmfuse("fuse", *pair, tmp_path / f"out{number}")
        assert code == 0, err
        assert f"weights: {name} (" in err
        assert "judging by the images; --task overrides it)" in err
    code, _, err = mmfuse("fuse", *scans, tmp_path / "other", "--task", "ivif")
    assert code == 0
    assert "weights: roads (method mma_unet, task ivif)" in err


def test_one_network_for_both_tasks_needs_no_task(mmfuse, folder, scans, tmp_path, image):
    shipped_weights.make(folder, "both", "ivif", "mif", default=["ivif", "mif"])
    for side in scans:
        write_image(side / "9.png", image(9))  # would be a mixture of tasks
    code, _, err = mmfuse("fuse", *scans, tmp_path / "out")
    assert code == 0
    assert "weights: both (method mma_unet, task ivif and mif)" in err


def test_weights_by_name_or_by_file(mmfuse, two, scans, tmp_path, monkeypatch):
    outs = []
    for weights in ("brains", two / "brains.safetensors"):
        outs.append(tmp_path / f"out{len(outs)}")
        assert mmfuse("fuse", *scans, outs[-1], "--weights", weights)[0] == 0
    assert [(out / "2.png").read_bytes() for out in outs[1:]] == [(outs[0] / "2.png").read_bytes()]
    monkeypatch.chdir(tmp_path)
    code, _, err = mmfuse("fuse", *scans, "out", "--weights", "road")
    assert code == 2
    assert "did you mean 'roads'" in err


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--weights", "roads", "--method", "average"), "Both weights and a method are given"),
        (("--method", "average", "--task", "mif"), "The task has no effect here"),
        (("--weights", "some/file.safetensors", "--task", "mif"), "The task has no effect here"),
        (("--weights", "roads", "--task", "mif"), "The shipped weights roads are not for this task"),
    ],
)
def test_choices_that_contradict_each_other_are_refused(mmfuse, folders, tmp_path, words, says):
    code, _, err = mmfuse("fuse", *folders, tmp_path / "out", *words)
    assert code == 2
    assert says in err
    assert not (tmp_path / "out").exists()


def test_without_shipped_weights_the_error_says_what_to_name(mmfuse, folder, folders, tmp_path):
    code, _, err = mmfuse("fuse", *folders, tmp_path / "out")
    assert code == 2
    assert f"a default for ivif in {folder}/index.yaml" in err
    assert "--weights FILE" in err
    assert "--method laplacian" in err
    assert mmfuse("list", "weights")[1] == "this installation has no shipped weights\n"


@pytest.mark.usefixtures("two")
def test_they_are_listed(mmfuse):
    out = mmfuse("list", "weights")[1].splitlines()
    assert out[0] == "roads: made for a test [ivif] (mma_unet.base; the default for ivif)"
    assert out[1] == "    trained on: 1083 of msrs"


# ------------------------------------------------------------------------------------------------- telling the task


def test_what_lies_between_is_refused():
    assert Black(0.671, 0.129).task == "mif"
    assert Black(0.11, 0.0023).task == "ivif"
    between = [Black(0.4, 0.3), Black(0.9, 0.03), Black(0.0, 0.3), Black(0.3, 0.01), Black(1.0, 1.0)]
    assert [black.task for black in between] == [None] * 5
    black = np.zeros((20, 30), np.uint8)
    with pytest.raises(UserError, match=r"not clear(.|\n)*night: black in both: 100.0% of the border(.|\n)*--task mif"):
        task_of_images([("night", black, black)])
    with pytest.raises(UserError, match="no pair"):
        task_of_images([])


def test_both_images_must_be_black_at_the_same_pixels(image):
    assert shared_black(scan(2), image(3, 48, 56)).task == "ivif", "black in one of them alone"


def test_a_film_with_black_bars_is_no_scan(image):
    film = image(3, 48, 56)
    film[:8] = film[-8:] = 1
    found = shared_black(film, film)
    assert found.border > 0.6
    assert found.area < 0.01
    assert found.task is None


def test_pairs_that_disagree_are_refused(image):
    pairs = [("brain", scan(2), scan(3)), ("road", image(1), image(2))]
    with pytest.raises(UserError, match=r"to both tasks(.|\n)*brain: (.|\n)*road: "):
        task_of_images(pairs)


@pytest.mark.parametrize(("name", "task"), [("synthetic_road", "ivif"), ("synthetic_brain", "mif")])
def test_the_drawn_datasets_are_told(tmp_path, name, task):
    from importlib import import_module

    import_module(f"mmfuse.scenes.{name}").generate(tmp_path, seed=1, height=96, width=128, train=6, val=1, test=1)
    sides = sorted(path for path in (tmp_path / "train").iterdir() if path.name not in {"mask", "boxes"})
    a, b = sides if task == "ivif" else reversed(sides)
    pairs = [(path.stem, read_image(path), read_image(b / path.name)) for path in sorted(a.iterdir())]
    assert task_of_images(pairs) == task


REAL = [
    ("ivif", "msrs/test/ir", "msrs/test/vi"),
    ("ivif", "msrs/train/ir", "msrs/train/vi"),
    ("ivif", "msrs_train30/ir", "msrs_train30/vi"),
    ("ivif", "tno/ir", "tno/vi"),
    ("ivif", "vifb/IR", "vifb/VI"),
    ("mif", "harvard/CT-MRI/MRI", "harvard/CT-MRI/CT"),
    ("mif", "harvard/PET-MRI/MRI", "harvard/PET-MRI/PET"),
    ("mif", "harvard/SPECT-MRI/MRI", "harvard/SPECT-MRI/SPECT"),
    ("mif", "openms/test/flair", "openms/test/t1"),
    ("mif", "openms/train/flair", "openms/train/t1"),
]


@pytest.mark.mirror
@pytest.mark.skipif("MMFUSE_MIRROR" not in os.environ, reason="MMFUSE_MIRROR is not set")
@pytest.mark.parametrize(("task", "a", "b"), REAL, ids=lambda value: value.replace("/", "-"))
def test_the_task_of_every_real_pair_is_told_with_room(task, a, b):
    first, second = Path(os.environ["MMFUSE_MIRROR"], a), Path(os.environ["MMFUSE_MIRROR"], b)
    others = {path.stem: path for path in second.iterdir()}
    pairs = [
        (read_image(path), read_image(others[path.stem])) for path in sorted(first.iterdir()) if path.stem in others
    ]
    assert len(pairs) >= 4
    found = [shared_black(*pair) for pair in pairs]
    assert {black.task for black in found} == {task}
    if task == "mif":  # the numbers that the rule's docstring states
        assert min(black.border for black in found) > 0.67
        assert min(black.area for black in found) > 0.128
    else:
        assert max(black.border for black in found) < 0.111
        assert max(black.area for black in found) < 0.0023
