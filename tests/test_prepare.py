"""From raw images to packs: pairing, broken files, splits, colour, labels; and cutting into patches."""

from __future__ import annotations

import os
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from mmfuse.data.catalog import load_catalog
from mmfuse.data.images import luminance, resize, write_image
from mmfuse.data.packs import Pack, write_pack
from mmfuse.data.reading import find_pairs, read_pair
from mmfuse.errors import UserError
from mmfuse.files.writing import write_text
from mmfuse.stages import crop, download, prepare
from mmfuse.study import plan
from mmfuse.study.training_sets import training_set
from mmfuse.training.batches import TrainingPairs

ROOT = Path(__file__).parents[1]
FOLDERS = {
    "layout": {"a": "{split}/ir/{name}.png", "b": "{split}/vi/{name}.*"},
    "splits": {"by": "folder", "folders": {"train": "training", "test": "testing"}},
}
FLAT = {"layout": {"a": "ir/{name}.png", "b": "vi/{name}.png"}, "splits": {"by": "all", "to": "train"}}


@pytest.fixture
def dataset(tmp_path):
    """Make a catalog entry: `dataset(splits=..., layout=..., ...)`."""

    def make(**changes):
        entry = {
            "title": "made up", "task": "ivif", "roles": {"a": "infrared", "b": "visible"}, "common_size": None,
            "colour": {"a": "grey", "b": "colour"}, "value_range": [0, 255], "licence": "none", "citation": "none",
            "mirror": "nowhere", "manifest": None, "defects": [],
            "sources": [{"manual": "https://example.org/", "instructions": "none", "archives": {"x.zip": "."}}],
            **FLAT, **changes,
        }  # fmt: skip
        path = tmp_path / "catalog.yaml"
        path.write_text(yaml.safe_dump({"datasets": {"madeup": entry}}), encoding="utf-8")
        return load_catalog(path, schema=ROOT / "workflow/schemas/catalog.schema.yaml")["madeup"]

    return make


@pytest.fixture
def raw(tmp_path, image):
    """Twelve flat pairs ir/NAME.png (grey) and vi/NAME.png (colour)."""
    for n in range(12):
        write_image(tmp_path / f"raw/ir/n{n:02}.png", image(2 * n, 24, 30))
        write_image(tmp_path / f"raw/vi/n{n:02}.png", image(2 * n + 1, 24, 30, colour=True))
    return tmp_path / "raw"


def run(entry, raw, *, val_fraction=0.0, val_pairs=None, skip_broken=False, subset=None):
    out = raw.parent / "prepared"
    prepare.run(
        entry, raw=raw, out=out, val_fraction=val_fraction, val_pairs=val_pairs, skip_broken=skip_broken, subset=subset
    )
    packs = {split: Pack(out / f"{split}.safetensors") for split in ("train", "val", "test")}
    return packs, pd.read_csv(out / "pairs.csv", dtype={"name": str})


# -------------------------------------------------------------------------------------------------- pairs and splits


def test_pairs_by_name_in_folders(dataset, tmp_path, image):
    for split, names in {"training": ["b", "a.1"], "testing": ["c d"]}.items():
        for number, name in enumerate(names):
            write_image(tmp_path / f"raw/{split}/ir/{name}.png", image(number, 20, 20))
            write_image(tmp_path / f"raw/{split}/vi/{name}.{'jpg' if number else 'png'}", image(9, 20, 20, colour=True))
    for other in ("Thumbs.db", "notes.txt", ".b.png", "folder.png/x"):
        write_text(tmp_path / "raw/training/vi" / other, "not an image of a pair")
    packs, table = run(dataset(**FOLDERS), tmp_path / "raw")
    assert {split: pack.names for split, pack in packs.items()} == {"train": ["a.1", "b"], "val": [], "test": ["c d"]}
    assert table.columns.tolist() == ["name", "split", "height", "width", "a", "b"]
    assert table.iloc[0].tolist() == ["a.1", "train", 20, 20, "training/ir/a.1.png", "training/vi/a.1.jpg"]


def test_two_files_of_one_name(dataset, raw, image):
    write_image(raw / "vi/n03.jpg", image(1, 24, 30, colour=True))
    with pytest.raises(UserError, match=r"n03\.jpg and n03\.png"):
        run(dataset(layout={"a": "ir/{name}.png", "b": "vi/{name}.*"}), raw)


def test_grey_for_training_and_colour_for_testing(dataset, raw):
    trained, _ = run(dataset(), raw)
    tested, _ = run(dataset(splits={"by": "all", "to": "test"}), raw)
    assert len(trained["train"]) == len(tested["test"]) == 12
    for grey, full in zip(trained["train"], tested["test"], strict=True):
        assert full["b"].shape == (24, 30, 3)
        assert np.array_equal(grey["b"], luminance(full["b"]))
        assert np.array_equal(grey["a"], full["a"])
        assert grey["a"].ndim == full["a"].ndim == 2


def test_colour_as_the_catalog_says(dataset, tmp_path, image):
    grey, colour = image(1, 20, 20), image(2, 20, 20, colour=True)
    write_image(tmp_path / "raw/ir/x.png", np.stack([grey] * 3, axis=2))
    write_image(tmp_path / "raw/vi/x.png", grey)
    write_image(tmp_path / "raw/ir/y.png", colour)
    write_image(tmp_path / "raw/vi/y.png", colour)

    def shapes(a, b):
        packs, _ = run(dataset(colour={"a": a, "b": b}, splits={"by": "all", "to": "test"}), tmp_path / "raw")
        return [(sample["a"].ndim, sample["b"].ndim) for sample in packs["test"]]

    assert shapes("grey", "colour") == [(2, 3), (2, 3)]
    assert shapes("mixed", "mixed") == [(2, 2), (3, 3)]


def test_a_share_of_the_names_validates_and_stays(dataset, raw, image):
    before, _ = run(dataset(), raw, val_fraction=0.4)
    assert set(before["train"].names) | set(before["val"].names) == {f"n{n:02}" for n in range(12)}
    assert 0 < len(before["val"]) < 12
    for n in range(12, 24):
        write_image(raw / f"ir/n{n:02}.png", image(n, 24, 30))
        write_image(raw / f"vi/n{n:02}.png", image(n, 24, 30, colour=True))
    after, _ = run(dataset(), raw, val_fraction=0.4)
    assert set(before["val"].names) <= set(after["val"].names)
    assert set(before["train"].names) <= set(after["train"].names)
    assert set(after["val"].names) < set(run(dataset(), raw, val_fraction=0.8)[0]["val"].names)
    assert not len(run(dataset(), raw, val_fraction=0.0)[0]["val"])


def test_a_split_of_its_own_is_not_divided_again(dataset, raw):
    write_text(raw / "val.txt", "n03\n")
    write_text(raw / "test.txt", "n01.png\nn02\n")
    lists = {"by": "list", "lists": {"val": "val.txt", "test": "test.txt"}, "rest": "train"}
    packs, table = run(dataset(splits=lists), raw, val_fraction=0.9)
    assert packs["val"].names == ["n03"]
    assert packs["test"].names == ["n01", "n02"]
    assert len(packs["train"]) == 9
    assert table["split"].value_counts().to_dict() == {"train": 9, "test": 2, "val": 1}


def test_a_number_of_pairs_is_held_back_exactly(dataset, raw):
    packs, table = run(dataset(), raw, val_fraction=0.4, val_pairs=5)
    assert [len(packs[split]) for split in ("train", "val")] == [7, 5]
    assert not set(packs["train"].names) & set(packs["val"].names)
    assert table["split"].value_counts().to_dict() == {"train": 7, "val": 5}
    more, _ = run(dataset(), raw, val_fraction=0.4, val_pairs=6)
    assert set(packs["val"].names) < set(more["val"].names)
    none, table = run(dataset(), raw, val_fraction=0.4, val_pairs=0)
    assert [len(none[split]) for split in ("train", "val", "test")] == [12, 0, 0]
    assert table["split"].value_counts().to_dict() == {"train": 12}
    with pytest.raises(UserError, match=r"cannot hold back 13 pairs of madeup(.|\n)*at most 12"):
        run(dataset(), raw, val_pairs=13)


def test_no_number_is_held_back_beside_a_split_of_its_own(dataset, raw):
    write_text(raw / "val.txt", "n03\n")
    lists = {"by": "list", "lists": {"val": "val.txt"}, "rest": "train"}
    with pytest.raises(UserError, match=r"its own validation split(.|\n)*`val` of a training set"):
        run(dataset(splits=lists), raw, val_pairs=0)


def test_test_pairs_never_validate(dataset, raw):
    packs, _ = run(dataset(splits={"by": "all", "to": "test"}), raw, val_fraction=0.9)
    assert [len(packs[split]) for split in ("train", "val", "test")] == [0, 0, 12]


def test_a_subset_is_spread_over_the_names(dataset, raw):
    whole, _ = run(dataset(), raw, val_fraction=0.4)
    packs, table = run(dataset(), raw, val_fraction=0.4, subset={"train": 3})
    names, count = whole["train"].names, len(whole["train"])
    assert packs["train"].names == [names[0], names[count // 3], names[2 * count // 3]]
    assert packs["val"].names == whole["val"].names, "a split that is not named keeps all"
    assert len(table) == 3 + len(packs["val"])
    assert run(dataset(), raw, subset={"train": 12})[0]["train"].names == [f"n{n:02}" for n in range(12)]
    with pytest.raises(UserError, match=r"split train: there are fewer pairs(.|\n)*at least 13(.|\n)*12"):
        run(dataset(), raw, subset={"train": 13})


def test_a_subset_takes_exceptions_to_a_rule_first(dataset, raw):
    write_text(raw / "test.txt", "n01\nn04\nn08\nn99\n")
    splits = {"by": "every", "number": r"^n(\d+)$", "step": 5, "remainder": 1, "lists": {"test": "test.txt"}}
    entry = dataset(splits=splits)  # n01, n06 and n11 by the rule

    def taken(count):
        return run(entry, raw, subset={"test": count})[0]["test"].names

    assert run(entry, raw)[0]["test"].names == ["n01", "n04", "n06", "n08", "n11"]
    assert taken(4) == ["n01", "n04", "n06", "n08"]
    assert taken(3) == ["n01", "n04", "n08"]
    assert taken(2) == ["n01", "n04"]
    with pytest.raises(UserError, match="fewer pairs"):
        taken(6)


@pytest.mark.mirror
def test_the_forty_pairs_of_the_medical_studies(tmp_path):
    """Both medical studies find their pairs, 40 to train LKC-FUNet on, none of them beside a test pair."""
    mirror = os.environ.get("MMFUSE_MIRROR")
    if not mirror:
        pytest.skip("MMFUSE_MIRROR is not set")
    catalog = load_catalog(ROOT / "data/catalog.yaml", schema=ROOT / "workflow/schemas/catalog.schema.yaml")
    for study, tested in (("small_mif", 20), ("paper", 50)):
        parameters = yaml.safe_load((ROOT / f"workflow/configs/{study}.yaml").read_text(encoding="utf-8"))
        trained = 0
        used = training_set(parameters, plan.trained_on(parameters, "lkc_funet", "base", "mif"))
        for name in used.train:
            entry, out = catalog[name], tmp_path / study / name
            block, raw = parameters["prepare"], tmp_path / "raw" / name
            if not raw.is_dir():
                download.obtain(entry, out=raw, mirror=Path(mirror), generate=None)
            prepare.run(
                entry, raw=raw, out=out, val_fraction=block["val_fraction"],
                val_pairs=block.get("val_pairs", {}).get(name), skip_broken=False, subset=block["subset"][name],
            )  # fmt: skip
            packs = {split: Pack(out / f"{split}.safetensors") for split in ("train", "val", "test")}
            assert len(packs["test"]) == tested
            trained += len(TrainingPairs([Pack(out / "train.safetensors")], {}, 0, used.pairs))
            seen = {*packs["train"].names, *packs["val"].names}
            beside = {f"{n[:-3]}{int(n[-3:]) + k:03}" for n in packs["test"].names for k in (-2, -1, 0, 1, 2)}
            assert not seen & beside
            published = {n for n in entry.written["published.txt"] if (raw / f"MRI/{n}.png").is_file()}
            assert len(published & set(packs["test"].names)) == min(tested, len(published))
        assert trained == 40


@pytest.mark.mirror
@pytest.mark.parametrize(("name", "split", "count"), [("msrs_train30", "train", 30), ("vifb", "test", 21)])
def test_small_public_sets(tmp_path, name, split, count):
    mirror = os.environ.get("MMFUSE_MIRROR")
    if not mirror:
        pytest.skip("MMFUSE_MIRROR is not set")
    entry = load_catalog(ROOT / "data/catalog.yaml", schema=ROOT / "workflow/schemas/catalog.schema.yaml")[name]
    (tmp_path / "raw").symlink_to(Path(mirror, str(entry.mirror)))
    packs, table = run(entry, tmp_path / "raw")
    assert {part: len(pack) for part, pack in packs.items() if len(pack)} == {split: count} == entry.pairs
    assert not (table["split"] == "dropped").any()
    assert {sample["a"].ndim for sample in packs[split]} == {2}
    assert all(("boxes" in sample) == (name == "msrs_train30") for sample in packs[split])


def test_equal_input_gives_equal_bytes(dataset, raw, tmp_path):
    contents = []
    for _ in range(2):
        run(dataset(), raw, val_fraction=0.3)
        contents.append({path.name: path.read_bytes() for path in (tmp_path / "prepared").iterdir()})
    assert contents[0] == contents[1]
    assert set(contents[0]) == {"train.safetensors", "val.safetensors", "test.safetensors", "pairs.csv"}


def test_an_empty_folder_is_said(dataset, tmp_path):
    (tmp_path / "raw").mkdir()
    with pytest.raises(UserError, match="No image pair of madeup") as caught:
        find_pairs(dataset(), tmp_path / "raw")
    assert "ir/{name}.png" in str(caught.value)


def test_memory_does_not_grow_with_the_pairs(dataset, tmp_path, image):
    height, width, count = 300, 400, 20
    for side in ("ir", "vi"):
        write_image(tmp_path / f"raw/{side}/n00.png", image(1, height, width, colour=side == "vi"))
        for n in range(1, count):
            os.link(tmp_path / f"raw/{side}/n00.png", tmp_path / f"raw/{side}/n{n:02}.png")
    entry = dataset(splits={"by": "all", "to": "test"})
    patches = {"height": 200, "width": 200, "stride": 50, "random": None, "low_contrast": None, "box_visible": 0.5}
    limit = count * height * width  # a quarter of what the pack of grey and colour holds

    assert peak(lambda: run(entry, tmp_path / "raw")) < 2 * limit
    grey = ({"name": s["name"], "a": s["a"], "b": s["a"]} for s in Pack(tmp_path / "prepared/test.safetensors"))
    write_pack(tmp_path / "grey", grey)
    assert peak(lambda: crop.run(pack=tmp_path / "grey", out=tmp_path / "patches", patches=patches)) < 2 * limit
    assert len(Pack(tmp_path / "patches")) == 15 * count


def peak(work):
    """The most memory that Python's objects and arrays take meanwhile, in bytes."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# ------------------------------------------------------------------------------------------------------ broken pairs


@pytest.fixture
def broken(raw, image):
    """The twelve pairs with four faults: lone infrared, lone visible, unequal sizes, a truncated file."""
    (raw / "vi/n01.png").unlink()
    (raw / "ir/n02.png").unlink()
    write_image(raw / "vi/n03.png", image(1, 24, 31, colour=True))
    good = (raw / "ir/n04.png").read_bytes()
    (raw / "ir/n04.png").write_bytes(good[: len(good) // 2])
    return raw


def test_all_faults_are_listed_at_once(dataset, broken, tmp_path):
    with pytest.raises(UserError) as caught:
        run(dataset(), broken)
    said = str(caught.value)
    assert said.startswith("4 pairs of madeup cannot be used.")
    for words in (
        f"{broken}/ir/n01.png: its visible counterpart is missing",
        f"{broken}/vi/n02.png: its infrared counterpart is missing",
        f"24x31 in {broken}/vi/n03.png",
        f"Damaged or unreadable image: {broken}/ir/n04.png",
        "skip_broken",
    ):
        assert words in said
    assert list((tmp_path / "prepared").iterdir()) == []


def test_going_on_without_broken_pairs(dataset, broken):
    packs, table = run(dataset(), broken, skip_broken=True)
    assert packs["train"].names == ["n00", *(f"n{n:02}" for n in range(5, 12))]
    dropped = table[table["split"] == "dropped"]
    assert len(dropped) == 4
    for word in ("n01", "n02", "n03", "n04"):
        assert dropped["name"].str.contains(word).sum() == 1
    assert dropped[["height", "width", "a", "b"]].isna().all(axis=None)


def test_many_faults_are_counted(dataset, raw):
    for n in range(12):
        (raw / f"vi/n{n:02}.png").unlink()
    with pytest.raises(UserError, match="and 2 more") as caught:
        run(dataset(), raw)
    assert str(caught.value).startswith("12 pairs")
    packs, table = run(dataset(), raw, skip_broken=True)
    assert sum(len(pack) for pack in packs.values()) == 0
    assert len(table) == 12


@pytest.mark.mirror
def test_a_really_damaged_download(dataset, raw):
    if "MMFUSE_MIRROR" not in os.environ:
        pytest.skip("MMFUSE_MIRROR is not set")
    for path in (Path(os.environ["MMFUSE_MIRROR"]) / "corrupt").iterdir():
        name, side = path.stem.rsplit("_", 1)
        shutil.copy(path, raw / side / f"{name}.png")
    with pytest.raises(UserError) as caught:
        run(dataset(), raw)
    assert "Damaged or unreadable image" in str(caught.value)
    packs, table = run(dataset(), raw, skip_broken=True)
    assert len(packs["train"]) == 12
    assert (table["split"] == "dropped").sum() == 2
    assert "msrs_00890N" in table["name"].iloc[-1]


def test_one_common_size_where_the_catalog_names_one(dataset, raw, image):
    large = image(1, 48, 61, colour=True)
    write_image(raw / "vi/n03.png", large)
    splits = {"by": "all", "to": "test"}
    with pytest.raises(UserError, match="1 pair of madeup"):
        run(dataset(splits=splits), raw)
    packs, _ = run(dataset(splits=splits, common_size="a"), raw)
    assert np.array_equal(packs["test"][3]["b"], resize(large, 24, 30))
    packs, _ = run(dataset(splits=splits, common_size="b"), raw)
    assert packs["test"][3]["a"].shape == (48, 61)
    assert np.array_equal(packs["test"][3]["b"], large)


# ------------------------------------------------------------------------------------------------------------ labels


def labelled(dataset, *, suffix="txt", form="yolo"):
    return dataset(
        layout={**FLAT["layout"], "mask": "mask/{name}.png", "boxes": f"boxes/{{name}}.{suffix}"},
        labels={"mask": {"classes": {0: "nothing", 7: "thing"}},
                "boxes": {"format": form, "classes": {0: "People", 1: "Car"}}},
    )  # fmt: skip


def test_masks_keep_their_class_ids(dataset, raw):
    ids = np.zeros((24, 30), np.uint8)
    ids[3:9, 4:20] = 7
    (raw / "mask").mkdir()
    Image.fromarray(ids).save(raw / "mask/n00.png")
    palette = Image.fromarray(ids).convert("P")
    palette.putpalette([250, 250, 250] * 7 + [9, 200, 30] + [0] * 30)
    palette.save(raw / "mask/n01.png")
    write_image(raw / "mask/without_images.png", ids)
    packs, _ = run(labelled(dataset), raw)
    assert np.array_equal(packs["train"][0]["mask"], ids)
    assert np.array_equal(packs["train"][1]["mask"], ids)
    assert "mask" not in packs["train"][2]
    Image.fromarray(ids[:-1]).save(raw / "mask/n02.png")
    with pytest.raises(UserError, match=r"1 pair[^$]*mask/n02\.png differs in size"):
        run(labelled(dataset), raw)


def test_yolo_boxes(dataset, raw):
    write_text(raw / "boxes/n00.txt", "1 0.5 0.25 0.1 0.2\n\n0 0.125 0.5 0.25 1\n")
    write_text(raw / "boxes/n01.txt", "")
    packs, _ = run(labelled(dataset), raw)
    assert packs["train"][0]["boxes"].tolist() == np.array(
        [[1, 0.5, 0.25, 0.1, 0.2], [0, 0.125, 0.5, 0.25, 1]], np.float32
    ).tolist()  # fmt: skip
    assert packs["train"][1]["boxes"].shape == (0, 5)
    assert "boxes" not in packs["train"][2]


VOC = (
    "<annotation><object><name>car</name><bndbox><xmin>3</xmin><ymin>6</ymin><xmax>9</xmax><ymax>18</ymax></bndbox>"
    "</object><object><name>People</name><bndbox><xmin>0</xmin><ymin>0</ymin><xmax>30</xmax><ymax>24</ymax></bndbox>"
    "</object></annotation>"
)


def test_voc_boxes(dataset, raw):
    write_text(raw / "boxes/n00.xml", VOC)
    write_text(raw / "boxes/n01.xml", "<annotation/>")
    packs, _ = run(labelled(dataset, suffix="xml", form="voc"), raw)
    assert np.allclose(packs["train"][0]["boxes"], [[1, 0.2, 0.5, 0.2, 0.5], [0, 0.5, 0.5, 1, 1]])
    assert packs["train"][1]["boxes"].shape == (0, 5)


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("yolo", "1 0.5 0.25 0.1"),
        ("yolo", "car 0.5 0.25 0.1 0.2"),
        ("yolo", "1.5 0.5 0.25 0.1 0.2"),
        ("voc", "<annotation>"),
        ("voc", VOC.replace("car", "tank")),
        ("voc", VOC.replace("<xmin>3</xmin>", "")),
        ("voc", VOC.replace("<xmin>3", "<xmin>three")),
    ],
)
def test_unreadable_boxes_are_named(dataset, raw, form, text):
    suffix = {"yolo": "txt", "voc": "xml"}[form]
    write_text(raw / f"boxes/n05.{suffix}", text)
    with pytest.raises(UserError, match=f"Unreadable boxes: .*n05.{suffix}"):
        run(labelled(dataset, suffix=suffix, form=form), raw)


def test_boxes_that_may_not_be_read_are_named(dataset, raw, monkeypatch):
    read = Path.read_bytes

    def refused(path):
        if path.suffix == ".txt":
            raise PermissionError(13, "Permission denied")
        return read(path)

    write_text(raw / "boxes/n05.txt", "1 0.5 0.25 0.1 0.2\n")
    entry = labelled(dataset)
    monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(UserError, match=r"Unreadable boxes: .*n05\.txt.*Permission denied"):
        run(entry, raw)


def test_both_modalities_in_one_file(dataset, tmp_path, image):
    both = np.dstack([image(1, 20, 24, colour=True), image(2, 20, 24)])
    (tmp_path / "raw/images").mkdir(parents=True)
    Image.fromarray(both, "RGBA").save(tmp_path / "raw/images/x.png")
    layout = {"a": "images/{name}.png", "b": "images/{name}.png", "channels": {"a": [3], "b": [0, 1, 2]}}
    entry = dataset(layout=layout)
    files = find_pairs(entry, tmp_path / "raw").pairs[0]
    sample = read_pair(entry, files)
    assert np.array_equal(sample["a"], both[..., 3])
    assert np.array_equal(sample["b"], both[..., :3])
    write_image(tmp_path / "raw/images/x.png", both[..., :3])
    with pytest.raises(UserError, match="does not contain both modalities"):
        read_pair(entry, files)


# -------------------------------------------------------------------------------------------------------------- crop

GRID = {
    "height": 16, "width": 20, "stride": 8, "random": None, "seed": 0, "low_contrast": None, "box_visible": 0.3,
}  # fmt: skip


def cut(tmp_path, samples, **changes):
    write_pack(tmp_path / "whole", samples)
    crop.run(pack=tmp_path / "whole", out=tmp_path / "patches", patches={**GRID, **changes})
    return Pack(tmp_path / "patches")


def test_a_grid_of_patches(tmp_path, image):
    a, b, mask = image(1, 33, 40), image(2, 33, 40), image(3, 33, 40)
    patches = cut(tmp_path, [{"name": "x", "a": a, "b": b, "mask": mask}])
    assert patches.names == [f"x@{top},{left}" for top in (0, 8, 16) for left in (0, 8, 16)]
    for patch, (top, left) in zip(patches, [(t, s) for t in (0, 8, 16) for s in (0, 8, 16)], strict=True):
        for key, whole in (("a", a), ("b", b), ("mask", mask)):
            assert np.array_equal(patch[key], whole[top : top + 16, left : left + 20])


def test_boxes_are_moved_clipped_and_dropped(tmp_path, image):
    # image 32 x 40; boxes in pixels: left, top, right, bottom
    pixels = [(1, 10, 4, 20, 12), (0, 0, 0, 8, 8), (1, 36, 0, 40, 32), (0, 16, 12, 24, 24)]
    boxes = np.array(
        [[c, (x + r) / 2 / 40, (y + s) / 2 / 32, (r - x) / 40, (s - y) / 32] for c, x, y, r, s in pixels], np.float32
    )
    sample = {"name": "x", "a": image(1, 32, 40), "b": image(2, 32, 40), "boxes": boxes}
    by_name = {patch["name"]: patch["boxes"] for patch in cut(tmp_path, [sample], stride=16)}
    assert set(by_name) == {"x@0,0", "x@0,16", "x@16,0", "x@16,16"}
    # window 0..20 x 0..16: the first two whole; of the last, 4 x 4 of 8 x 12 pixels = 1/6 < 0.3
    assert np.allclose(by_name["x@0,0"], [[1, 15 / 20, 8 / 16, 0.5, 0.5], [0, 0.2, 0.25, 0.4, 0.5]])
    # window 16..36 x 0..16: 4 x 8 of the first's 10 x 8 = 0.4; 8 x 4 of the last's 8 x 12 = 1/3; of the third nothing
    assert np.allclose(by_name["x@0,16"], [[1, 2 / 20, 8 / 16, 0.2, 0.5], [0, 4 / 20, 14 / 16, 0.4, 0.25]])
    # window 0..20 x 16..32: 4 x 8 of the last's 8 x 12 = 1/3
    assert np.allclose(by_name["x@16,0"], [[0, 18 / 20, 4 / 16, 0.2, 0.5]])
    assert np.allclose(by_name["x@16,16"], [[0, 4 / 20, 4 / 16, 0.4, 0.5]])
    loose = {patch["name"]: patch["boxes"] for patch in cut(tmp_path, [sample], stride=16, box_visible=0)}
    assert len(loose["x@0,0"]) == 3
    strict = {patch["name"]: patch["boxes"] for patch in cut(tmp_path, [sample], stride=16, box_visible=1)}
    assert [len(strict[name]) for name in ("x@0,0", "x@0,16", "x@16,0")] == [2, 0, 0]


def test_no_boxes_stay_no_boxes(tmp_path, image):
    sample = {"name": "x", "a": image(1, 16, 20), "b": image(2, 16, 20), "boxes": np.empty((0, 5), np.float32)}
    assert cut(tmp_path, [sample])[0]["boxes"].shape == (0, 5)


def test_low_contrast_by_hand():
    limits = {"lower": 10, "upper": 90, "threshold": 0.1}
    flat = np.full((10, 10), 200, np.uint8)
    assert crop.is_low_contrast(flat, **limits)
    assert crop.is_low_contrast(np.zeros((10, 10), np.uint8), **limits)
    few = flat.copy()
    few[:1, :5] = 0  # five of a hundred pixels lie below the lower percentile
    assert crop.is_low_contrast(few, **limits)
    half = flat.copy()
    half[:5] = 181
    assert crop.is_low_contrast(half, **limits)  # 19 / 200 < 0.1
    half[:5] = 179
    assert not crop.is_low_contrast(half, **limits)  # 21 / 200 > 0.1


def test_patches_of_low_contrast_in_either_image_are_dropped(tmp_path, image):
    varied, flat, black = image(1, 16, 20), np.full((16, 20), 90, np.uint8), np.zeros((16, 20), np.uint8)
    samples = [
        {"name": "good", "a": varied, "b": varied},
        {"name": "flat", "a": flat, "b": varied},
        {"name": "black", "a": varied, "b": black},
    ]
    limits = {"lower": 10, "upper": 90, "threshold": 0.1}
    assert cut(tmp_path, samples, low_contrast=limits).names == ["good@0,0"]
    assert len(cut(tmp_path, samples)) == 3
    with pytest.raises(UserError, match="leaves no patches"):
        cut(tmp_path, samples[1:], low_contrast=limits)


def test_random_patches_depend_on_the_name_alone(tmp_path, image):
    one, two = ({"name": name, "a": image(1, 60, 70), "b": image(2, 60, 70)} for name in ("one", "twö"))
    names = cut(tmp_path, [one, two], random=6).names
    assert len(names) == 12
    assert cut(tmp_path, [two], random=6).names == names[6:]
    assert cut(tmp_path, [one], random=3).names == names[:3]
    assert [n.partition("@")[2] for n in names[:6]] != [n.partition("@")[2] for n in names[6:]]
    assert cut(tmp_path, [one], random=6, seed=1).names != names[:6]
    for patch in cut(tmp_path, [one], random=40):
        top, left = map(int, patch["name"].partition("@")[2].split(","))
        assert np.array_equal(patch["a"], one["a"][top : top + 16, left : left + 20])


def test_images_that_are_too_small(tmp_path, image):
    small = {"name": "s", "a": image(1, 15, 40), "b": image(2, 15, 40)}
    exact = {"name": "e", "a": image(1, 16, 20), "b": image(2, 16, 20)}
    for kind in (None, 2):
        assert set(cut(tmp_path, [small, exact], random=kind).names) == {"e@0,0"}
        with pytest.raises(UserError, match="at least 16 x 20") as caught:
            cut(tmp_path, [small], random=kind)
        assert "(15, 40)" in str(caught.value)
