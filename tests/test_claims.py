"""The papers' claims about their ablations: which verdict is given when, over images and seeds, and what is refused."""

import copy
import csv
import io
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from mmfuse.errors import UserError
from mmfuse.reporting import claims, given_weights, pages, papers, published, training_data
from mmfuse.reporting.scores import Column, Group, Scores
from mmfuse.reporting.study import Study
from mmfuse.study import plan
from mmfuse.study.parameters import load_parameters
from mmfuse.study.plan import System

ROOT = Path(__file__).parents[1]
PRINTED = ROOT / "data/published.csv"
BASE, ROW, OTHER = "Ours (IN+GN+LKC)", "IV IN+GN+3*3 Conv", "V w/o Norm"
COLUMNS = tuple(Column(name, name.lower(), "higher", "lkc_funet") for name in ("SD", "AG", "SSIM"))
ENTRY = {
    "paper": "lkc_funet",
    "table": "2",
    "of": "MIF (all modalities)",
    "datasets": ["ct", "pet"],
    "rows": {ROW: "net.small", BASE: "net.base"},
    "claims": {ROW: "Large kernels help."},
    "note": "Another width.",
}


def groups_of(difference, seeds=3, images=(20, 30), columns=COLUMNS):
    """`base` is better than `small` by difference(random, seeds, images) for each metric."""
    random = np.random.default_rng(5)
    found = {}
    for dataset, count in zip(("ct", "pet"), images, strict=True):
        names = tuple(f"{dataset}{n}" for n in range(count))
        small = random.normal(size=(seeds, len(columns), count))
        apart = np.stack([difference(random, metric, seeds, count) for metric in range(len(columns))], axis=1)
        found[dataset] = [
            Group(
                "net",
                variant,
                tuple(
                    Scores(System("net", variant, "mif", seed), "lkc_funet", columns, names, one)
                    for seed, one in enumerate(values)
                ),
                values.mean(0),
            )
            for variant, values in (("small", small), ("base", small + apart))
        ]
    return found


def decided(groups, entry=ENTRY):
    return claims.decide(entry, published.build(entry, PRINTED, groups), groups)


def steady(random, metric, seeds, images):
    """Better on the first metric, worse on the second, no difference between trainings on average on the third."""
    noise = 0.3 * random.normal(size=(seeds, images))
    return noise + (1.0, -1.0, 0.0)[metric]


def test_verdicts_by_metric():
    (claim,) = decided(groups_of(steady))
    table = published.read(PRINTED, "lkc_funet", "2", "MIF (all modalities)")
    found = claim.decided
    assert found["SD"].claimed > 0 and found["AG"].claimed > 0, "the paper has the whole method ahead"
    assert (claim.seeds, claim.images, claim.base, claim.system) == (3, 50, "net.base", "net.small")
    for metric in ("SD", "AG", "SSIM"):
        assert found[metric].claimed == pytest.approx(float(table[BASE][metric]) - float(table[ROW][metric]))
    assert [found[name].verdict for name in ("SD", "AG", "SSIM")] == ["confirmed", "refuted", "undecided"]
    assert found["SD"].ours.low > 0.8 and found["SD"].ours.high < 1.2
    assert claim.counts == "1 confirmed, 1 refuted, 1 undecided"
    assert claims.columns([claim]) == ["SD", "AG", "SSIM", claims.WINS]
    assert found[claims.WINS].verdict == "undecided"


def test_a_claim_that_the_paper_makes_against_itself_is_decided_by_its_sign(tmp_path):
    """Where the printed row is ahead of the whole method, finding it ahead confirms the table."""
    text = PRINTED.read_text().replace(
        f"lkc_funet,2,MIF (all modalities),{ROW},AG,", "lkc_funet,2,MIF (all modalities),X,AG,"
    )
    (tmp_path / "printed.csv").write_text(text + f"lkc_funet,2,MIF (all modalities),{ROW},AG,1000\n")
    groups = groups_of(steady)
    (claim,) = claims.decide(ENTRY, published.build(ENTRY, tmp_path / "printed.csv", groups), groups)
    assert claim.decided["AG"].claimed < 0 and claim.decided["AG"].verdict == "confirmed"


def test_trainings_that_differ_leave_a_claim_undecided_until_there_are_more():
    def of_the_seed(random, _, seeds, images):
        return 0.5 + np.linspace(-1, 1, seeds)[:, None] + 0.1 * random.normal(size=(seeds, images))

    (claim,) = decided(groups_of(of_the_seed))
    one = claim.decided["SD"]
    assert one.verdict == "undecided" and one.ours.low < 0 < one.ours.high
    assert 3 < one.seeds < 40 and claims.words(one)[-1] == f"{one.seeds} seeds"
    # with that many trainings of the same variance it is decided
    more = decided(groups_of(of_the_seed, seeds=2 * one.seeds))[0].decided["SD"]
    assert more.verdict == "confirmed"


def test_a_single_seed_decides_nothing():
    (claim,) = decided(groups_of(lambda *shape: np.full(shape[2:], 5.0), seeds=1))
    assert {one.verdict for one in claim.decided.values()} == {"undecided"}
    assert {one.seeds for one in claim.decided.values()} == {None}


def test_images_that_differ_too_much_need_more_images():
    def of_the_image(random, _, seeds, images):
        return np.tile(0.01 + random.permutation(np.linspace(-1, 1, images)), (seeds, 1))

    one = decided(groups_of(of_the_image))[0].decided["SD"]
    assert one.verdict == "undecided" and one.seeds is None and claims.words(one)[-1] == "more images"


def test_undefined_values_and_metrics_without_direction_are_left_out():
    columns = (*COLUMNS[:2], Column("SSIM", "ssim", "neither", "lkc_funet"))
    groups = groups_of(steady, columns=columns)
    groups["ct"][0].members[1].values[0, 3] = math.nan
    (claim,) = decided(groups)
    assert list(claim.decided) == ["SD", "AG", claims.WINS]
    assert claim.decided["SD"].verdict == "confirmed"


def test_sheets_hold_all_digits():
    found = decided(groups_of(steady))
    rows = list(csv.DictReader(io.StringIO(claims.as_csv(found))))
    assert [row["metric"] for row in rows] == ["SD", "AG", "SSIM", claims.WINS]
    assert float(rows[0]["measured"]) == found[0].decided["SD"].ours.mean
    assert [row["verdict"] for row in rows[:3]] == ["confirmed", "refuted", "undecided"]
    text = claims.as_latex(found, "Claims.", "claims")
    assert text.count("confirmed") == 1 and ROW.replace("*", "*") in text


def test_the_page_shows_each_claim_with_its_verdicts(monkeypatch):
    groups = groups_of(steady)
    monkeypatch.setattr(training_data, "read", lambda _: [])
    monkeypatch.setattr(given_weights, "read", lambda _: [])
    monkeypatch.setattr(plan, "task_of", lambda *_: "mif")
    parameters = {"study": {"name": "made up"}, "report": {"published": [ENTRY], "patch": 48, "zoom": 4, "width": 320}}
    catalog = {name: SimpleNamespace(pairs={"test": 30}) for name in groups}
    study = Study(parameters, None, catalog, PRINTED, groups, {}, [])
    (page,) = papers.pages(study)
    text = pages.render(study, [page])
    table = text[text.index("Claims of Table 2") :]
    assert table.count("<strong>confirmed</strong>") == 1 and table.count("<strong>refuted</strong>") == 1
    assert "Large kernels help." in table and "net.base against net.small: 1 confirmed, 1 refuted, 1 undecided" in table
    assert "3 seeds, 50 images" in table
    sheets = [name for name in study.sheets if name.startswith("claims.")]
    assert sorted(name.rpartition(".")[2] for name in sheets) == ["csv", "tex"]
    assert all(f"tables/{name}" in table for name in sheets)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"claims": {OTHER: "Norms help."}}, "V w/o Norm: no such row"),
        ({"claims": {BASE: "It is good."}}, "Ours (IN+GN+LKC): maximum.base"),
        ({"rows": {ROW: "average.base"}, "claims": {ROW: "Kernels help."}}, f"{ROW}: average.base"),
    ],
)
def test_a_claim_needs_a_variant_and_its_base(project, change, words):
    path = project / "params.yaml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    entry = copy.deepcopy(ENTRY) | {"datasets": ["synthetic_road"], "rows": {BASE: "maximum.base"}, "claims": {}}
    values["report"]["published"] = [entry | change]
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    with pytest.raises(UserError, match="a claim cannot be checked") as caught:
        load_parameters(path)
    assert words in str(caught.value)
