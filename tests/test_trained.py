"""What the report says of training sets: which pairs a system was trained on, and which tests it had never seen."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from mmfuse.reporting import training_data, trainings
from mmfuse.reporting.figures import read_history
from mmfuse.reporting.study import Study

NEVER = "never trained or validated on this dataset"
COUNTS = {
    "msrs": {"train": 1083, "test": 361},
    "m3fd": {"train": 4200, "test": 300},
    "roadscene": {"train": 121, "val": 50, "test": 50},
    "harvard_ct_mri": {"train": 77, "test": 50},
}
PARAMETERS = {
    "study": {
        "seeds": [0, 1],
        "tasks": {
            "ivif": {"train": [], "test": ["msrs", "m3fd", "tno", "roadscene"]},
            "mif": {"train": ["harvard_ct_mri"], "test": ["harvard_ct_mri"]},
        },
        "training_sets": {
            "night": {"task": "ivif", "train": ["msrs"], "val": ["roadscene"]},
            "both": {"task": "ivif", "train": ["m3fd", "msrs"], "val": [], "pairs": {"m3fd": 700}},
        },
        "systems": [
            {"method": "average", "variant": "base", "tasks": ["ivif", "mif"]},
            {"method": "one", "variant": "base", "tasks": ["ivif"]},
            {"method": "one", "variant": "other", "tasks": ["ivif"]},
            {"method": "one", "variant": "transfer", "tasks": ["mif"]},
            {"method": "two", "variant": "base", "tasks": ["ivif", "mif"]},
        ],
    },
    "methods": {
        "one": {
            "trained_on": {"ivif": "night"},
            "parts": {"first": {"weights": "last"}, "second": {}},
            "variants": {"base": {}, "other": {}, "transfer": {"trained_on": "both"}},
        },
        "two": {
            "trained_on": {"ivif": "both"},
            "parts": {"net": {"weights": "last"}},
            "variants": {"base": {}},
        },
    },
}


@pytest.fixture
def study(tmp_path: Path) -> Study:
    for name, counts in COUNTS.items():
        rows = [f"{split}{number},{split}" for split, count in counts.items() for number in range(count)]
        folder = tmp_path / "data/prepared" / name
        folder.mkdir(parents=True)
        (folder / "pairs.csv").write_text("\n".join(["name,split", *rows]), encoding="utf-8")
    return Study(PARAMETERS, tmp_path, {}, tmp_path, {}, {}, [])


def test_each_system_with_its_pairs_and_the_tests_it_had_never_seen(study):
    found = training_data.read(study)
    assert [(one.system, one.task, one.trained_on) for one in found] == [
        ("one.base", "ivif", "night"),
        ("one.other", "ivif", "night"),
        ("two.base", "ivif", "both"),
        ("one.transfer", "mif", "both"),
        ("two.base", "mif", "mif"),
    ]
    one, two, transfer, medical = found[0], *found[2:]
    assert (one.train, one.val) == ((("msrs", 1083),), (("roadscene", 50),))
    assert (one.seen, one.validated, one.unseen) == (("msrs",), ("roadscene",), ("m3fd", "tno"))
    assert (two.train, two.val) == ((("m3fd", 700), ("msrs", 1083)), ())
    assert (two.seen, two.validated, two.unseen) == (("msrs", "m3fd"), (), ("tno", "roadscene"))
    assert (transfer.seen, transfer.unseen) == ((), ("harvard_ct_mri",)), "another task's pairs"
    assert (medical.train, medical.val) == ((("harvard_ct_mri", 77),), ()), "no pair was held back"


def test_the_table_of_training_sets(study):
    rows = training_data.shown(study, training_data.read(study))
    assert [(row["method"], row["variants"], row["set"], row["train"]) for row in rows] == [
        ("one", "", "night", "1083 pairs of msrs"),
        ("two", "", "both", "700 pairs of m3fd and 1083 of msrs"),
        ("one", "", "both", "700 pairs of m3fd and 1083 of msrs"),
        ("two", "", "mif", "77 pairs of harvard_ct_mri"),
    ]
    assert (rows[0]["seen"], rows[0]["unseen"]) == ("msrs, roadscene (validation)", "m3fd, tno")
    lines = list(csv.reader(io.StringIO(study.sheets["trained.csv"])))
    assert len(lines) == 1 + 5
    assert lines[3] == [
        "two",
        "base",
        "ivif",
        "both",
        "m3fd msrs",
        "700 1083",
        "",
        "",
        "msrs m3fd",
        "",
        "tno roadscene",
    ]
    assert r"one (2 variants) & infrared-visible fusion & 1083 pairs of msrs" in study.sheets["trained.tex"]


@pytest.mark.parametrize(
    ("dataset", "said"),
    [
        ("msrs", "Trained on other pairs of this dataset: one, two."),
        ("m3fd", f"Trained on other pairs of this dataset: two; {NEVER}: one."),
        ("roadscene", f"Validated with other pairs of this dataset: one; {NEVER}: two."),
        ("tno", "Never trained or validated on this dataset: one, two."),
        ("harvard_ct_mri", f"Trained on other pairs of this dataset: two; {NEVER}: one."),
        ("elsewhere", ""),
    ],
)
def test_a_test_dataset_says_who_had_seen_it(study, dataset, said):
    assert training_data.on_dataset(training_data.read(study), dataset) == said


def test_variants_on_different_sets_are_named_one_by_one(study):
    found = [one for one in training_data.read(study) if one.task == "ivif"]
    other = training_data.Trained("one", "wide", "ivif", "both", (("m3fd", 9),), (), ("m3fd",), (), ("tno",))
    assert training_data.on_dataset([*found, other], "m3fd") == (
        "Trained on other pairs of this dataset: two, one.wide; "
        "never trained or validated on this dataset: one.base, one.other."
    )


def test_a_papers_table_says_what_its_rows_were_trained_on(study):
    found = training_data.read(study)
    assert training_data.behind(found, {"Ours": "one.base", "Theirs": ""}, "ivif") == ", trained on 1083 pairs of msrs"
    assert training_data.behind(found, {"Mean": "average.base"}, "ivif") == ""
    assert training_data.behind(found, {"A": "one.base", "B": "two.base", "C": "one.other"}, "ivif") == (
        ", A and C trained on 1083 pairs of msrs, B trained on 700 pairs of m3fd and 1083 of msrs"
    )


def test_the_curves_say_which_weights_count(study, tmp_path):
    path = tmp_path / "net.history.csv"
    path.write_text("step,lr,train/total\n1,0.1,3\n2,0.1,2\n", encoding="utf-8")
    without = [[read_history(path, "net")]]
    assert without[0][0].val.size == 0
    path.write_text("step,lr,train/total,val/total\n1,0.1,3,\n2,0.1,2,5\n", encoding="utf-8")
    validated = [[read_history(path, "net")]]
    assert trainings._kept(study, "two", "base", without).endswith("last step are used. There was no validation.")
    assert "Dotted: the step with the lowest validation loss." in trainings._kept(study, "two", "base", validated)
    assert "whose weights are used, except in first" in trainings._kept(study, "one", "base", validated)
