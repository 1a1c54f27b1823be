"""workflow/configs/paper.yaml against the papers: who is trained on which pairs, for how many steps, tested on what."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmfuse.data.catalog import load_catalog
from mmfuse.metrics import resolve
from mmfuse.reporting.published import metrics_of, read
from mmfuse.study import plan
from mmfuse.study.parameters import load_parameters
from mmfuse.study.training_sets import training_set
from mmfuse.training.loop import step_count

ROOT = Path(__file__).parents[1]
PAPER = load_parameters(ROOT / "workflow/configs/paper.yaml")
CATALOG = load_catalog(ROOT / "data/catalog.yaml", schema=ROOT / "workflow/schemas/catalog.schema.yaml")
HARVARD = ("harvard_ct_mri", "harvard_pet_mri", "harvard_spect_mri")


def pairs_of(name):
    """Return how many pairs of each dataset a training set takes, of those that the catalog counts."""
    used = training_set(PAPER, name)
    held = PAPER["prepare"]["val_pairs"]
    return {dataset: used.pairs.get(dataset, CATALOG[dataset].pairs["train"] - held[dataset]) for dataset in used.train}


@pytest.mark.parametrize(
    ("method", "task", "pairs", "validated"),
    [
        ("lkc_funet", "ivif", {"msrs": 1083}, {}),
        ("lkc_funet", "mif", dict(zip(HARVARD, (14, 13, 13), strict=True)), {}),
        ("mma_unet", "ivif", {"m3fd": 4200, "msrs": 1083}, {}),
        ("smfnet", "ivif", {"msrs": 1083}, {"roadscene": 50}),
        ("smfnet", "mif", dict(zip(HARVARD, (77, 91, 102), strict=True)), {}),
    ],
)
def test_each_method_is_trained_on_its_papers_pairs(method, task, pairs, validated):
    own = [entry for entry in PAPER["study"]["systems"] if entry["method"] == method and task in entry["tasks"]]
    sets = {plan.trained_on(PAPER, method, entry["variant"], task) for entry in own if entry["variant"] != "from_ivif"}
    assert len(sets) == 1
    used = training_set(PAPER, sets.pop())
    assert pairs_of(used.name) == pairs
    assert {name: PAPER["prepare"]["val_pairs"][name] for name in used.val} == validated


@pytest.mark.parametrize(
    ("name", "method", "part", "pairs", "steps"),
    [
        ("msrs", "lkc_funet", "net", 1083, 1000 * (1083 // 32)),  # the published code drops what fills no batch
        ("harvard_40", "lkc_funet", "net", 40, 1000),
        ("m3fd_msrs", "mma_unet", "vi_unet", 5283, 132_075),
        ("m3fd_msrs", "mma_unet", "ir_unet", 5283, 132_075),
        ("m3fd_msrs", "mma_unet", "fusion", 5283, 33_019),
        ("harvard_270", "smfnet", "reconstruction", 270, 1800),
        ("harvard_270", "smfnet", "fusion", 270, 3600),
    ],
)
def test_steps_follow_from_the_papers_epochs_on_their_own_pairs(name, method, part, pairs, steps):
    assert sum(pairs_of(name).values()) == pairs
    variants = {
        one.variant for one in plan.trainings(PAPER) if (one.trained_on, one.method, one.part) == (name, method, part)
    }
    for variant in variants:
        assert step_count(plan.settings_of(PAPER, method, variant)["parts"][part], pairs) == steps
    assert variants


def test_the_steps_of_smfnet_follow_from_the_patches_of_msrs():
    """6 patches of 128 with a stride of 200 lie on 640 x 480; some of them show too little and are left out."""
    block, patches = plan.settings_of(PAPER, "smfnet", "base")["parts"], PAPER["prepare"]["patches"]["stride_200"]
    per_pair = len(range(0, 640 - patches["width"] + 1, patches["stride"])) * len(
        range(0, 480 - patches["height"] + 1, patches["stride"])
    )
    assert per_pair == 6
    assert [step_count(block[part], 1083 * per_pair) for part in block] == [40 * 1083, 80 * 1083], "at most"


def test_the_papers_optimisers():
    lkc = plan.settings_of(PAPER, "lkc_funet", "base")["parts"]["net"]
    assert (lkc["optimiser"], lkc["learning_rate"], lkc["batch"]) == ("adam", 1e-4, 32)
    assert (lkc["crop"]["height"], lkc["crop"]["width"], lkc["crop"]["scale"]) == (64, 64, None)
    mma = plan.settings_of(PAPER, "mma_unet", "base")["parts"]
    assert [mma[part]["learning_rate"] for part in mma] == [1e-3, 1e-3, 1e-4]
    assert {(part["optimiser"], part["weight_decay"], part["schedule"]) for part in mma.values()} == {
        ("adamw", 0.005, "cosine")
    }
    smf = plan.settings_of(PAPER, "smfnet", "base")["parts"]
    assert [(part["epochs"], part["batch"]) for part in smf.values()] == [(40, 6), (80, 6)]
    assert {(part["optimiser"], part["learning_rate"], part["weight_decay"]) for part in smf.values()} == {
        ("adam", 1e-4, 0.0)
    }


def test_the_papers_test_pairs():
    subset = PAPER["prepare"]["subset"]
    counts = {
        name: subset.get(name, {}).get("test", CATALOG[name].pairs["test"])
        for task in PAPER["study"]["tasks"].values()
        for name in task["test"]
    }
    assert counts == {"m3fd": 300, "msrs": 361, "tno": 25, "roadscene": 50} | dict.fromkeys(HARVARD, 50)
    seen = {name for one in plan.trainings(PAPER) for name in training_set(PAPER, one.trained_on).train}
    assert not {"tno", "roadscene"} & seen


ENTRIES = [entry for entry in PAPER["report"]["published"] if "datasets" in entry]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: f"{entry['paper']}-{entry['table']}-{entry['of']}")
def test_every_metric_that_a_table_prints_is_measured_as_its_paper_means_it(entry):
    block = PAPER["evaluate"]
    measured = resolve(block["convention"], block["metrics"], block["beside"])
    own = entry["paper"] if entry["paper"] != block["convention"] else None
    for metric in metrics_of(read(ROOT / "data/published.csv", entry["paper"], entry["table"], entry["of"])):
        assert (f"{metric}.{own}" if own else metric) in measured


@pytest.mark.parametrize(
    "entry", PAPER["report"]["published"], ids=lambda one: f"{one['paper']}-{one['table']}-{one['of']}"
)
def test_no_note_calls_unpublished_what_a_paper_prints(entry):
    assert "not published" not in entry["note"]
    assert "paper" in entry["note"]
