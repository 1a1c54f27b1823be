"""The dataset catalog: its schema, its entries, and what it says to somebody who makes a mistake."""

import copy
import dataclasses
import importlib
import inspect
import os
import re
from collections import Counter
from pathlib import Path

import pytest
import yaml

from mmfuse.data.catalog import Dataset, Splits, dataset, load_catalog
from mmfuse.errors import UserError
from mmfuse.files.writing import read_manifest, write_text

ROOT = Path(__file__).parents[1]
CATALOG = ROOT / "data/catalog.yaml"
SCHEMA = ROOT / "workflow/schemas/catalog.schema.yaml"


@pytest.fixture(scope="module")
def catalog() -> dict[str, Dataset]:
    return load_catalog(CATALOG, schema=SCHEMA)


def changed(tmp_path: Path, change) -> Path:
    """Write the catalog with one change, beside the real manifests."""
    content = yaml.safe_load(CATALOG.read_text(encoding="utf-8"))
    content = copy.deepcopy(content)
    change(content["datasets"])
    (tmp_path / "manifests").symlink_to(ROOT / "data/manifests")
    path = tmp_path / "catalog.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def test_every_dataset_is_described(catalog):
    assert list(catalog) == list(yaml.safe_load(CATALOG.read_text(encoding="utf-8"))["datasets"])
    assert all(entry.name == name for name, entry in catalog.items())
    for embedded in (True, False):  # each task has data that needs no download, and public data
        assert {entry.task for entry in catalog.values() if bool(entry.generator) == embedded} == {"ivif", "mif"}
    for entry in catalog.values():
        if entry.generator:
            expected = {"folder", "seed", "height", "width", "train", "val", "test"}
            assert set(inspect.signature(importlib.import_module(entry.generator).generate).parameters) == expected


def test_roles_and_layout(catalog):
    assert catalog["msrs"].roles == {"a": "infrared", "b": "visible"}
    assert catalog["openms"].roles == {"a": "FLAIR", "b": "T1"}
    assert catalog["roadscene"].common_size == "a"
    assert catalog["tno"].colour == {"a": "grey_as_colour", "b": "grey_as_colour"}
    mfnet = catalog["mfnet"].layout
    assert mfnet.a == mfnet.b
    assert mfnet.channels == {"a": (3,), "b": (0, 1, 2)}
    assert not catalog["msrs"].layout.channels


def test_labels_have_number_ids(catalog):
    assert catalog["m3fd"].labels["boxes"].classes == {
        0: "People", 1: "Car", 2: "Bus", 3: "Lamp", 4: "Motorcycle", 5: "Truck",
    }  # fmt: skip
    assert catalog["msrs"].labels["mask"].classes == catalog["mfnet"].labels["mask"].classes
    assert catalog["synthetic_road"].labels["mask"].classes[8] == "bump"
    assert catalog["synthetic_road"].labels["boxes"].classes == catalog["m3fd"].labels["boxes"].classes


def keys_of(value):
    """Every key of nested blocks."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, list) else ()):
        yield from [key] * isinstance(value, dict)
        yield from keys_of(inner)


def test_keys_are_text():
    """`dvc params diff` reads the catalog too, and fails on a key that is a number."""
    keys = list(keys_of(yaml.safe_load((ROOT / "data/catalog.yaml").read_text(encoding="utf-8"))))
    assert len(keys) > 100
    assert [key for key in keys if not isinstance(key, str)] == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["msrs"].update(licens="MIT"), ["datasets.msrs", "licens"]),
        (lambda c: c["msrs"]["layout"].update(c="x/{name}.png"), ["datasets.msrs.layout", "'c'"]),
        (lambda c: c["tno"].pop("citation"), ["datasets.tno", "citation"]),
        (lambda c: c["tno"].update(task="medical"), ["datasets.tno.task", "ivif", "mif"]),
        (lambda c: c["tno"]["layout"].update(a="../ir/{name}.png"), ["datasets.tno.layout.a"]),
        (lambda c: c["tno"]["layout"].update(a="/ir/{name}.png"), ["datasets.tno.layout.a"]),
        (lambda c: c["tno"]["splits"].pop("to"), ["datasets.tno.splits", "to"]),
        (lambda c: c["tno"]["splits"].update(apart=2), ["datasets.tno.splits", "apart"]),
        (lambda c: c["tno"]["sources"][0].update(git="http://x.org/y"), ["datasets.tno.sources.0.git"]),
        (lambda c: c["tno"]["sources"][0].update(sha256="0" * 64), ["datasets.tno.sources.0", "https"]),
        (lambda c: c["msrs"]["labels"]["boxes"].update(format="coco"), ["datasets.msrs.labels.boxes.format"]),
    ],
)
def test_a_wrong_entry_is_refused_by_key(tmp_path, change, words):
    with pytest.raises(UserError) as caught:
        load_catalog(changed(tmp_path, change), schema=SCHEMA)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda c: c["mfnet"]["layout"].pop("channels"), "layout.channels"),
        (lambda c: c["tno"]["layout"].update(a="{split}/{name}.png"), "splits by folder"),
        (lambda c: c["msrs"]["layout"].update(a="ir/{name}.png"), "splits by folder"),
        (lambda c: c["tno"]["layout"].update(a="{name}/ir.png"), "{name}"),
        (lambda c: c["msrs"]["labels"].pop("mask"), "labels.mask"),
        (lambda c: c["tno"].update(manifest="manifests/none.sha256"), "none.sha256"),
        (lambda c: c["tno"].update(mirror=None), "mirror"),
        (lambda c: c["harvard_ct_mri"]["splits"].update(number=r"^(\d+)\d{3}$"), "splits.apart"),
        (lambda c: c["m3fd"]["sources"].append({"git": "https://x.org/y", "commit": None}), "sources"),
    ],
)
def test_a_contradiction_is_refused(tmp_path, change, word):
    with pytest.raises(UserError, match="contradicts itself") as caught:
        load_catalog(changed(tmp_path, change), schema=SCHEMA)
    assert word in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "address"),
    [
        ("git", "https://somebody:tok3n-9f@x.org/y"),
        ("git", "https://tok3n-9f@x.org/y"),
        ("https", "https://x.org/y.zip?token=tok3n-9f"),
        ("https", "https://x.org/y.zip?id=7&X-Amz-Signature=tok3n-9f"),
        ("https", "https://x.org/y.zip?api_key=tok3n-9f#part"),
        ("https", "https://x.org/y.zip?PASSWORD=tok3n-9f"),
    ],
)
def test_a_secret_in_an_address_is_refused_and_not_shown(tmp_path, kind, address):
    source = {kind: address, **({"commit": None} if kind == "git" else {"sha256": None})}
    with pytest.raises(UserError, match=r"the address at x\.org contains a secret") as caught:
        load_catalog(changed(tmp_path, lambda c: c["tno"].update(sources=[source])), schema=SCHEMA)
    assert "tok3n" not in str(caught.value)
    assert "netrc" in str(caught.value)


def test_an_address_with_a_plain_query_is_allowed(tmp_path):
    source = {"https": "https://x.org/download?id=7&name=y.zip", "sha256": None}
    load_catalog(changed(tmp_path, lambda c: c["tno"].update(sources=[source])), schema=SCHEMA)


def test_a_broken_or_missing_file_is_named(tmp_path):
    path = tmp_path / "catalog.yaml"
    with pytest.raises(UserError, match="not found"):
        load_catalog(path, schema=SCHEMA)
    path.write_text("datasets: [", encoding="utf-8")
    with pytest.raises(UserError, match="not valid YAML"):
        load_catalog(path, schema=SCHEMA)


@pytest.mark.parametrize(
    ("typed", "meant"), [("mrs", "msrs"), ("Harvard-CT-MRI", "harvard_ct_mri"), ("road_scene", "roadscene")]
)
def test_a_wrong_name_gets_a_suggestion(typed, meant):
    with pytest.raises(UserError, match=f"did you mean '{meant}'"):
        dataset(typed, CATALOG, schema=SCHEMA)


def test_a_name_like_no_other_gets_the_list(catalog):
    with pytest.raises(UserError) as caught:
        dataset("zzzz", CATALOG, schema=SCHEMA)
    assert all(name in str(caught.value) for name in catalog)


def names_in(entry: Dataset, pattern: str) -> list[str]:
    """Return the names that the dataset's manifest holds for a pattern of its layout."""
    expression = re.escape(pattern).replace(r"\{name\}", "([^/]+)").replace(r"\{split\}", "[^/]+")
    assert entry.manifest is not None
    return [m[1] for file in read_manifest(entry.manifest) if (m := re.fullmatch(expression, file))]


def test_manifests_fit_the_layouts(catalog):
    listed = [entry for entry in catalog.values() if entry.manifest is not None]
    assert {entry.manifest.name for entry in listed} == {p.name for p in (ROOT / "data/manifests").iterdir()}
    for entry in listed:
        a, b = names_in(entry, entry.layout.a), names_in(entry, entry.layout.b)
        assert sorted(a) == sorted(b), entry.name
        assert a, entry.name
        # the list of MSRS does not cover the whole set, names of films are no pairs, and Harvard leaves slices out
        if entry.name != "msrs" and entry.layout.every is None and not entry.splits.apart:
            assert len(a) == sum(entry.pairs.values()), entry.name


HARVARD = ("harvard_ct_mri", "harvard_pet_mri", "harvard_spect_mri")


def harvard(catalog, name, folder):
    """Return the splits of the names in a Harvard set's manifest, and all of the names."""
    entry = catalog[name]
    write_text(folder / "published.txt", "".join(f"{line}\n" for line in entry.written["published.txt"]))
    names = names_in(entry, entry.layout.a)
    return entry.splits.assign(names, folder), names


@pytest.mark.parametrize("name", HARVARD)
def test_harvard_tests_on_whole_cases_and_published_pairs(catalog, name, tmp_path):
    entry = catalog[name]
    split, names = harvard(catalog, name, tmp_path)
    assert Counter(split.values()) == entry.pairs
    published = set(entry.written["published.txt"])
    tested = {item for item, side in split.items() if side == "test"}
    assert tested == {item for item in names if int(item[:-3]) % 5 == 1 or item in published}
    for item in set(names) - tested:
        near = {f"{item[:-3]}{int(item[-3:]) + k:03}" for k in range(-entry.splits.apart, entry.splits.apart + 1)}
        assert (item in split) == (not near & published), item


@pytest.mark.parametrize(
    ("names", "apart"),
    [(("harvard_ct_mri", "harvard_spect_mri"), 2), (("harvard_pet_mri",), 5)],
    ids=["CT, SPECT", "PET"],
)
def test_harvard_has_no_near_slice_of_a_test_pair_in_training(catalog, tmp_path, names, apart):
    """Nor in the other set: cases 21 and 28 have the same MRI in CT and in SPECT."""
    sides = {"train": set(), "test": set()}
    for name in names:
        for item, side in harvard(catalog, name, tmp_path)[0].items():
            sides[side].add((int(item[:-3]), int(item[-3:])))
    distances = [
        abs(trained - tested) for case, trained in sides["train"] for other, tested in sides["test"] if case == other
    ]
    assert min(distances) == apart + 1


def test_the_published_pairs_of_harvard(catalog, tmp_path):
    tested = {n: {i for i, side in harvard(catalog, n, tmp_path)[0].items() if side == "test"} for n in HARVARD}
    published = set(catalog[HARVARD[0]].written["published.txt"])
    assert len(published) == 53
    counts = [len(published & tested[name]) for name in HARVARD]
    assert counts == [25, 13, 20], "23, 13 and 17, and the same slices in another set"


def test_exceptions_to_a_rule(tmp_path):
    rule = Splits("every", {}, {"test": "test.txt"}, None, None, r"^(\d+)(\d{3})$", 5, 1, 2)
    write_text(tmp_path / "test.txt", "2005\n9001\n")
    names = [f"{case}{number:03}" for case in (1, 2, 3) for number in range(1, 11)]
    split = rule.assign(names, tmp_path)
    assert {name for name in names if name not in split} == {"2003", "2004", "2006", "2007"}
    assert {name for name, side in split.items() if side == "test"} == {*names[:10], "2005"}
    assert dataclasses.replace(rule, apart=0).assign(names, tmp_path)["2004"] == "train"
    write_text(tmp_path / "test.txt", "1005\n")
    assert len(rule.assign(names, tmp_path)) == 30, "its neighbours test as well"
    write_text(tmp_path / "test.txt", "abc\n")
    with pytest.raises(UserError, match="'abc'"):
        rule.assign(names, tmp_path)


def test_roadscene_list(catalog, tmp_path):
    entry = catalog["roadscene"]
    (tmp_path / "test_split.txt").write_text("\n".join(entry.written["test_split.txt"]), encoding="utf-8")
    split = entry.splits.assign(names_in(entry, entry.layout.a), tmp_path)
    assert Counter(split.values()) == {"train": 171, "test": 50}
    assert split["FLIR_video_02829"] == "test"


def test_lists_leave_out_what_they_do_not_name(catalog, tmp_path):
    splits = catalog["mfnet"].splits
    for side, names in {"train": "1D\n2D\n1D_flip\n", "val": "3N\n", "test": "4N\n"}.items():
        (tmp_path / f"{side}.txt").write_text(names, encoding="utf-8")
    assert splits.assign(["1D", "2D", "3N", "4N", "5N"], tmp_path) == {
        "1D": "train", "2D": "train", "3N": "val", "4N": "test",
    }  # fmt: skip
    (tmp_path / "val.txt").write_text("1D\n", encoding="utf-8")
    with pytest.raises(UserError, match="lists 1D"):
        splits.assign(["1D"], tmp_path)
    (tmp_path / "val.txt").unlink()
    with pytest.raises(UserError, match=r"val\.txt"):
        splits.assign(["1D"], tmp_path)


def test_other_split_rules(catalog):
    assert catalog["tno"].splits.assign(["01", "02"], Path()) == {"01": "test", "02": "test"}
    with pytest.raises(ValueError, match="by folder"):
        catalog["msrs"].splits.assign(["x"], Path())
    rule = Splits("every", {}, {}, None, None, r"^(\d+)\d{3}$", 5, 1)
    with pytest.raises(UserError, match="'abc'"):
        rule.assign(["abc"], Path())


@pytest.mark.mirror
def test_manifests_name_what_the_mirror_holds(catalog):
    if "MMFUSE_MIRROR" not in os.environ:
        pytest.skip("MMFUSE_MIRROR is not set")
    mirror = Path(os.environ["MMFUSE_MIRROR"])
    for entry in catalog.values():
        if entry.manifest is not None:
            missing = [f for f in read_manifest(entry.manifest) if not (mirror / str(entry.mirror) / f).is_file()]
            assert not missing, entry.name
