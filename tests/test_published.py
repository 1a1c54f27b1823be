"""The papers' tables beside ours: their rows and digits, our means, intervals and seeds, and what is refused."""

import copy
import csv
import io
import math
from pathlib import Path

import numpy as np
import pytest
import yaml

from mmfuse.errors import UserError
from mmfuse.reporting import published
from mmfuse.reporting.scores import Column, Group, Scores
from mmfuse.study.parameters import load_parameters
from mmfuse.study.plan import System

ROOT = Path(__file__).parents[1]
PRINTED = ROOT / "data/published.csv"
COLUMNS = (Column("SD", "sd", "higher", "lkc_funet"), Column("AG", "ag_matlab", "higher", "lkc_funet"))
ENTRY = {
    "paper": "lkc_funet",
    "table": "2",
    "of": "MIF (all modalities)",
    "datasets": ["ct", "pet"],
    "rows": {"I all BN+3*3 Conv": "net.small", "Ours (IN+GN+LKC)": "net.base"},
    "note": "Another width.",
}


def group(variant, dataset, *seeds):
    """A method with one array (metrics, images) for each seed."""
    names = tuple(f"{dataset}{n}" for n in range(seeds[0].shape[1]))
    members = tuple(
        Scores(System("net", variant, "mif", seed), "lkc_funet", COLUMNS, names, values)
        for seed, values in enumerate(seeds)
    )
    return Group("net", variant, members, np.mean(seeds, axis=0))


@pytest.fixture
def groups():
    """Two datasets of 3 and 1 images, two seeds."""
    ct = np.array([[10.0, 20.0, 30.0], [1.0, 2.0, 3.0]])
    pet = np.array([[80.0], [4.0]])
    return {
        "ct": [group("small", "ct", ct, ct + 4), group("base", "ct", 2 * ct, 2 * ct)],
        "pet": [group("small", "pet", pet, pet + 4), group("base", "pet", 2 * pet, 2 * pet)],
    }


def test_our_numbers_are_means_over_the_images_of_all_datasets(groups):
    found = published.build(ENTRY, PRINTED, groups)
    assert (found.images, found.seeds, found.convention) == (4, 2, "lkc_funet")
    assert found.title == "LKC-FUNet, Table 2, MIF (all modalities)"
    lines = {line.name: dict(zip(found.metrics, line.cells, strict=True)) for line in found.lines}
    assert next(iter(lines)) == "I all BN+3*3 Conv" and list(lines)[-1] == "Ours (IN+GN+LKC)"
    number, ours = lines["I all BN+3*3 Conv"]["SD"]
    assert number == "76.553"
    assert ours.mean == pytest.approx((10 + 20 + 30 + 80) / 4 + 2)
    assert ours.low < ours.mean < ours.high
    assert ours.seeds == pytest.approx(np.std([35.0, 39.0], ddof=1))
    assert lines["Ours (IN+GN+LKC)"]["SD"][1].seeds == 0
    assert lines["Ours (IN+GN+LKC)"]["SSIM"] == ("0.727", None), "a metric that the study does not measure"
    assert all(ours is None for _, ours in lines["V w/o Norm"].values()), "a row that the study does not measure"


def test_the_papers_own_convention_goes_first():
    """Here AG of another convention stands beside."""
    columns = (
        COLUMNS[0],
        Column("AG", "ag_mean", "higher", "tang"),
        Column("AG.lkc_funet", "ag_matlab", "higher", "lkc_funet"),
    )
    values = np.array([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])
    scores = Scores(System("net", "base", "mif", 0), "tang", columns, ("x", "y"), values)
    found = published.build(
        ENTRY | {"datasets": ["ct"]}, PRINTED, {"ct": [Group("net", v, (scores,), values) for v in ("small", "base")]}
    )
    assert found.convention == "lkc_funet"
    assert dict(zip(found.metrics, found.lines[0].cells, strict=True))["AG"][1].mean == 3


def test_printed_with_the_papers_decimals():
    found = published.Measured(12.34567, 11.0, 13.0, math.nan)
    assert published.beside("76.55", found) == ("12.35", "[11.00, 13.00]")
    assert published.beside("", found) == ("12.346", "[11.000, 13.000]")
    assert published.beside("1.0", published.Measured(2.0, 1.0, 3.0, 0.5)) == ("2.0", "[1.0, 3.0]", "seeds ± 0.5")
    assert published.beside("1.0", None) == ()
    assert published.beside("1.0", published.Measured(*[math.nan] * 4)) == ("n/a",)


def test_the_table_as_csv_has_all_digits(groups):
    table = published.build(ENTRY, PRINTED, groups)
    rows = list(csv.DictReader(io.StringIO(published.as_csv([table]))))
    assert len(rows) == 7 * 6
    first = rows[0]
    assert (first["row"], first["metric"], first["printed"]) == ("I all BN+3*3 Conv", "SD", "76.553")
    assert float(first["mean"]) == 37.0
    assert (first["system"], first["measured on"], first["images"], first["seeds"]) == ("net.small", "ct pet", "4", "2")
    assert [row["mean"] for row in rows if row["row"] == "V w/o Norm"] == [""] * 6


@pytest.mark.parametrize(
    ("change", "words"),
    [({"table": "9"}, ["lkc_funet 9", "lkc_funet 2 MIF"]), ({"rows": {"VII": "net.base"}}, ["'VII'", "V w/o Norm"])],
)
def test_unknown_tables_and_rows_are_refused(groups, change, words):
    with pytest.raises(UserError) as caught:
        published.build(ENTRY | change, PRINTED, groups)
    assert all(word in str(caught.value) for word in words)


def test_a_system_outside_the_study_is_refused(project):
    path = project / "params.yaml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    for change in (
        {"datasets": ["synthetic_brain"], "rows": {"V w/o Norm": "lkc_funet.no_norm"}},
        {"datasets": ["tno"]},
    ):
        other = copy.deepcopy(values)
        other["report"]["published"] = [ENTRY | {"rows": {}} | change]
        path.write_text(yaml.safe_dump(other), encoding="utf-8")
        with pytest.raises(UserError, match="a result that the study does not measure"):
            load_parameters(path)


@pytest.mark.parametrize("path", sorted((ROOT / "workflow/configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_study_names_rows_that_are_printed(path):
    for entry in yaml.safe_load(path.read_text(encoding="utf-8"))["report"].get("published", []):
        table = published.read(PRINTED, entry["paper"], entry["table"], entry["of"])
        assert set(entry["rows"]) <= set(table)
