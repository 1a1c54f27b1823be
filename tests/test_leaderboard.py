"""The leaderboard: ranks and tests by hand, rows that do not fit, rows from elsewhere, and the stored scores."""

from __future__ import annotations

import csv
import os
import re
import shutil
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats

from golden_triples import GOLDEN
from mmfuse.data.catalog import load_catalog
from mmfuse.data.images import write_image
from mmfuse.data.packs import Pack
from mmfuse.errors import UserError
from mmfuse.leaderboard import make, ranking
from mmfuse.leaderboard.boards import images_of, load, read_stored, rounded
from mmfuse.leaderboard.rows import Row
from mmfuse.metrics import resolve
from mmfuse.metrics.tables import summarise, write_scores
from mmfuse.reporting.scores import Column, Group, Scores
from mmfuse.reporting.statistics import holm
from mmfuse.stages import evaluate, fuse
from mmfuse.study.plan import EXTERNAL, System

ROOT = Path(__file__).parents[1]
BOARDS = ROOT / "data/leaderboard/boards.yaml"
SCHEMA = ROOT / "workflow/schemas/leaderboard.schema.yaml"
NAMES = [f"p{n}" for n in range(8)]
METRICS = ["EN", "SSIM"]
COLUMNS = (Column("EN", "en", "higher", "lkc_funet"), Column("MSE", "mse_255", "lower", "lkc_funet"))


def values(seed, count=8):
    return {name: np.random.default_rng([seed, k]).uniform(0.2, 0.8, count) for k, name in enumerate(METRICS)}


def stored(folder, dataset, method, scores, names=NAMES):
    """Write scores as they are stored: a table without a summary."""
    path = folder / dataset / f"{method}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame({"name": list(names), **scores}).to_csv(path, index=False)


def measured(path, scores, names=NAMES, *, convention="lkc_funet", beside=(), **system):
    """Write scores and summary as `evaluate` does."""
    frame = pd.DataFrame({"name": list(names), **scores})
    meaning = resolve(convention, [name for name in scores if "." not in name], beside)
    summary = {"convention": convention, "images": len(frame), "metrics": summarise(frame, meaning, convention)}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_scores(frame, {**summary, **system}, csv=path, json=path.with_suffix(".json"))


def in_study(root, dataset, label, scores, names=NAMES, **how):
    method, variant, seed = label.split(".")
    path = root / f"reports/scores/{dataset}/{label}.csv"
    measured(path, scores, names, method=method, variant=variant, task="ivif", seed=int(seed[1:]), **how)


@pytest.fixture
def place(project):
    """The current folder, with two boards over made-up scores: one published method, one baseline."""
    entry = {"pictures": "somewhere", "licence": "not stated"}
    content = {
        "convention": "lkc_funet",
        "metrics": METRICS,
        "boards": {
            "road": {"title": "Road", "datasets": ["synthetic_road"]},
            "both": {"title": "Both", "datasets": ["synthetic_road", "synthetic_brain"]},
        },
        "scores": [
            {"kind": "published", "methods": {"Theirs": "A paper"}, "datasets": ["synthetic_road", "synthetic_brain"]}
            | entry,
            {"kind": "baseline", "methods": {"average": "the mean"}, "datasets": ["synthetic_road", "synthetic_brain"]}
            | entry,
        ],
    }
    folder = project / "data/leaderboard"
    for dataset in ("synthetic_road", "synthetic_brain"):
        stored(folder, dataset, "Theirs", values(1))
        stored(folder, dataset, "average", values(2))
    (folder / "boards.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    (project / "params.yaml").unlink()  # a bare folder of results
    return project


def change(place, do):
    path = place / "data/leaderboard/boards.yaml"
    content = yaml.safe_load(path.read_text())
    do(content)
    path.write_text(yaml.safe_dump(content, sort_keys=False))


def made(place, *, run=True, given=(), only=("road",), allow_missing=False):
    path = Path("data/leaderboard/boards.yaml")
    found, _ = make.results(str(place) if run else None, given, only, path, allow_missing=allow_missing)
    return found[0]


def names_of(found):
    return [row.name for row in found.rows]


# ------------------------------------------------------------------------------------------------- ranks and tests


def test_ranks_agree_with_scipy_with_ties_and_in_both_directions():
    random = np.random.default_rng(3)
    scores = random.normal(size=(5, 2, 9)).round(1)  # many ties
    assert len(np.unique(scores[:, 0])) < scores[:, 0].size
    wanted = (stats.rankdata(-scores[:, 0], axis=0) + stats.rankdata(scores[:, 1], axis=0)) / 2
    np.testing.assert_allclose(ranking.mean_places(scores, COLUMNS), wanted)


def rows_of(scores, kinds):
    """Rows a, b, c… with the given kinds; scores are (rows, metrics, images)."""
    images = tuple(f"i{n}" for n in range(scores.shape[2]))
    for letter, kind, one in zip("abcdefgh", kinds, scores, strict=False):
        member = Scores(System(letter, "base", "ivif", 0), "lkc_funet", COLUMNS, images, one)
        yield Row(letter, kind, Group(letter, "base", (member,), one))


BOARD = ranking.Board("b", "B", ("d",), "")


def test_a_board_by_hand():
    # EN (larger is better) places a, b, c: 1, 2, 3 and 1.5, 1.5, 3; MSE (smaller is better): 3, 1, 2 and 1, 2.5, 2.5
    scores = np.array([[[3.0, 2.0], [9.0, 1.0]], [[2.0, 2.0], [1.0, 5.0]], [[1.0, 1.0], [4.0, 5.0]]])
    found = ranking.result(BOARD, list(rows_of(scores, ["published", "system", "baseline"])), COLUMNS, [])
    assert names_of(found) == ["a", "b", "c"]
    np.testing.assert_allclose(found.places, [[2, 1.25], [1.5, 2], [2.5, 2.75]])
    np.testing.assert_allclose(found.ranks, [1.625, 1.75, 2.625])
    assert found.held.row == 1
    np.testing.assert_allclose(found.held.differences, [-0.125, 0, 0.875])
    assert np.isnan(found.held.p[1])


def test_rows_of_one_mean_rank_stand_by_name_and_constant_places_have_no_spread():
    scores = np.stack([np.full((2, 6), 2.0), np.full((2, 6), 2.0), np.stack([np.full(6, 1.0), np.full(6, 3.0)])])
    found = ranking.result(BOARD, list(rows_of(scores[[1, 0, 2]], ["system"] * 3)), COLUMNS, [])
    assert names_of(found) == ["a", "b", "c"]
    np.testing.assert_allclose(found.intervals, [[1.5, 1.5], [1.5, 1.5], [3, 3]])
    assert found.p[0, 1] == 1
    assert not found.ahead[0, 1]


def test_intervals_hold_the_mean_rank_and_lie_within_its_range():
    scores = np.random.default_rng(5).normal(size=(6, 2, 30))
    found = ranking.result(BOARD, list(rows_of(scores, ["system"] * 6)), COLUMNS, [])
    low, high = found.intervals.T
    assert ((low < found.ranks) & (found.ranks < high)).all()
    assert ((found.places.min(1) <= low) & (high <= found.places.max(1))).all()
    assert found.ranks.sum() == pytest.approx(6 * 7 / 2)
    assert (np.diff(found.ranks) >= 0).all()


def test_tests_of_the_best_own_row_agree_with_scipy_and_are_corrected_over_the_rows():
    random = np.random.default_rng(7)
    scores = random.normal(size=(4, 2, 12)) + np.array([0.0, 0.4, 1.0, -1.0])[:, None, None] * np.array([[1.0], [-1.0]])
    found = ranking.result(BOARD, list(rows_of(scores, ["published", "published", "system", "published"])), COLUMNS, [])
    held = found.held
    assert found.rows[held.row].name == "c"
    others = [k for k in range(4) if k != held.row]
    ordered = np.stack([row.group.values for row in found.rows])
    p = [stats.wilcoxon(ordered[held.row, 0], ordered[k, 0], method="exact").pvalue for k in others]
    np.testing.assert_allclose(held.by_metric[0, others], holm(np.array(p)), rtol=1e-9)
    np.testing.assert_allclose(held.differences, (found.places - found.places[held.row]).mean(1))
    assert (held.better[:, [k for k in others if found.rows[k].name == "d"]] == 1).all()
    assert found.ahead[held.row].sum() >= 1
    assert not (found.ahead & found.ahead.T).any()


@pytest.mark.parametrize(
    ("kinds", "best"),
    [
        (["published", "baseline", "external", "system"], 3),
        (["published", "baseline", "external", "external"], 2),
        (["published", "baseline"], 1),
        (["published"], None),
    ],
)
def test_the_row_that_is_held_is_our_best_one(kinds, best):
    assert ranking.best_of_ours(list(rows_of(np.zeros((4, 2, 1)), kinds))) == best


# ------------------------------------------------------------------------------------------------------------ rows


def test_a_study_takes_the_place_of_a_baseline_and_its_seeds_are_averaged(place):
    one, two = values(3), values(4)
    in_study(place, "synthetic_road", "mma_unet.base.s0", one)
    in_study(place, "synthetic_road", "mma_unet.base.s1", two)
    in_study(place, "synthetic_road", "mma_unet.wide.s0", one)
    in_study(place, "synthetic_road", "average.base.s0", values(5))
    found = made(place)
    assert sorted(names_of(found)) == ["Theirs", "average", "mma_unet", "mma_unet.wide"]
    rows = {row.name: row for row in found.rows}
    assert {name: row.kind for name, row in rows.items()} == {
        "Theirs": "published",
        "average": "baseline",
        "mma_unet": "system",
        "mma_unet.wide": "system",
    }
    mean = rounded(np.stack([(one[name] + two[name]) / 2 for name in METRICS]))
    np.testing.assert_array_equal(rows["mma_unet"].group.values, mean)
    np.testing.assert_array_equal(rows["average"].group.values, rounded(np.stack([*values(5).values()])))
    assert found.rows[found.held.row].kind == "system"
    assert made(place, only=["both"]).notes == ("left out, without scores on synthetic_brain: mma_unet, mma_unet.wide",)


def test_a_score_that_was_stored_ties_with_the_same_score_measured_again(place):
    exact = {name: series + 1e-9 for name, series in values(1).items()}
    stored(place / "data/leaderboard", "synthetic_road", "Theirs", {k: rounded(v) for k, v in exact.items()})
    in_study(place, "synthetic_road", "again.base.s0", exact)
    found = made(place)
    places = {row.name: list(ranks) for row, ranks in zip(found.rows, found.places, strict=True)}
    assert places["again"] == places["Theirs"]


def test_more_images_in_another_order_do_no_harm_and_missing_ones_are_named(place):
    scores = values(3, 10)
    names = ["more", *NAMES[::-1], "other"]
    in_study(place, "synthetic_road", "mma_unet.base.s0", scores, names)
    row = next(row for row in made(place).rows if row.name == "mma_unet")
    np.testing.assert_array_equal(row.group.values[0], rounded(scores["EN"][1:9][::-1]))
    in_study(place, "synthetic_road", "mma_unet.base.s0", values(3, 6), NAMES[:6])
    with pytest.raises(UserError, match=r"road: mma_unet lacks 2 of the board's 8 images of synthetic_road") as error:
        made(place)
    assert "p6, p7" in str(error.value)
    found = made(place, allow_missing=True)
    assert found.notes == ("left out, without 2 of the 8 images of synthetic_road: mma_unet",)
    assert "mma_unet" not in names_of(found)


def test_stored_scores_of_unequal_images_are_refused(place):
    stored(place / "data/leaderboard", "synthetic_road", "average", values(2), [*NAMES[:7], "P7"])
    with pytest.raises(UserError, match="not of the same images") as error:
        made(place, run=False)
    assert "lacks p7; also has P7" in str(error.value)


def test_metrics_are_found_by_what_they_mean(place):
    given = values(3)
    both = {"EN": given["EN"], "SSIM": values(9)["SSIM"], "EN.lkc_funet": given["EN"], "SSIM.lkc_funet": given["SSIM"]}
    in_study(place, "synthetic_road", "mma_unet.base.s0", both, convention="cddfuse", beside=["lkc_funet"])
    row = next(row for row in made(place).rows if row.name == "mma_unet")
    np.testing.assert_array_equal(row.group.values, rounded(np.stack([*given.values()])))
    in_study(place, "synthetic_road", "mma_unet.base.s0", given, convention="cddfuse")
    with pytest.raises(UserError, match="mma_unet is not measured by all metrics") as error:
        made(place)
    assert "no SSIM (ssim_gauss_mean_l255)" in str(error.value)


def test_a_board_of_several_datasets_puts_their_images_together(place):
    for dataset, seed in (("synthetic_road", 3), ("synthetic_brain", 4)):
        in_study(place, dataset, "mma_unet.base.s0", values(seed))
    found = made(place, only=["both"])
    assert len(found.images) == 16
    assert found.images[8] == "synthetic_brain/p0"
    row = next(row for row in found.rows if row.name == "mma_unet")
    np.testing.assert_array_equal(row.group.values[1], rounded(np.r_[values(3)["SSIM"], values(4)["SSIM"]]))
    in_study(place, "synthetic_brain", "mma_unet.base.s1", values(4))
    with pytest.raises(UserError, match="the same seeds"):
        made(place, only=["both"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["mine.csv"], "A row has the wrong form"),
        (["synthetic_road/mine"], "A row has the wrong form"),
        (["synthetic_road/Theirs=mine.csv"], "two rows have the name Theirs"),
        (["synthetic_road/average=mine.csv"], "two rows have the name average"),
        (["synthetic_road/mine=mine.csv", "synthetic_road/mine=mine.csv"], "given twice"),
        (["tno/mine=mine.csv"], "a dataset that no board has"),
        (["synthetic_road/mine=nothing.csv"], "not found"),
        (["synthetic_road/mma_unet=mine.csv"], "two rows have the name mma_unet"),
    ],
)
def test_rows_that_cannot_be_used_are_refused(place, given, message):
    measured(place / "mine.csv", values(3))
    in_study(place, "synthetic_road", "mma_unet.base.s0", values(3))
    with pytest.raises(UserError, match=message):
        made(place, given=given)


def test_scores_without_a_value_are_refused(place):
    scores = values(1)
    scores["SSIM"][3] = np.nan
    stored(place / "data/leaderboard", "synthetic_road", "Theirs", {k: v.astype(object) for k, v in scores.items()})
    path = place / "data/leaderboard/synthetic_road/Theirs.csv"
    for cell, message in (("nan", "no value for every image"), ("", "Damaged file"), ("much", "Damaged file")):
        lines = path.read_text().splitlines()
        lines[4] = f"p3,0.5,{cell}"
        path.write_text("\n".join(lines) + "\n")
        with pytest.raises(UserError, match=message):
            made(place, run=False)
    path.write_text("\n".join([*lines[:4], lines[3]]) + "\n")
    with pytest.raises(UserError, match="Damaged file"):
        made(place, run=False)


@pytest.mark.parametrize(
    ("do", "message"),
    [
        (lambda c: c["boards"]["road"].pop("title"), r"boards\.road"),
        (lambda c: c["scores"][0].update(kind="ours"), r"scores\.0\.kind"),
        (lambda c: c.update(metrics=["EN", "nonsense"]), "nonsense"),
        (lambda c: c["boards"]["road"].update(datasets=["tno"]), "contradict each other"),
        (lambda c: c["scores"][1]["methods"].update(Theirs="again"), "contradict each other"),
        (lambda c: c["boards"]["both"].update(datasts=["tno"]), "did you mean 'datasets'"),
        (lambda c: c["scores"][0]["methods"].update(Lost="A paper"), "File not found"),
    ],
)
def test_wrong_boards_are_refused(place, do, message):
    change(place, do)
    with pytest.raises(UserError, match=message):
        made(place, run=False)


@pytest.mark.usefixtures("place")
def test_an_unknown_board_is_refused(mmfuse):
    code, _, error = mmfuse("leaderboard", "--board", "nonsense")
    assert code == 2
    assert "one of road, both" in error
    code, _, error = mmfuse("leaderboard", "--out", "board.html")
    assert code == 2
    assert "a name ending in .md" in error


# ------------------------------------------------------------------------------------- rows from elsewhere, for real


@pytest.fixture
def pairs(place, make_pack, image):
    """Eight test pairs, and pictures of another method for them."""
    pack = make_pack(len(NAMES), 48, 56, name="test")
    for n, name in enumerate(NAMES):
        write_image(place / f"data/external/mine/synthetic_road/{name}.png", image(90 + n, 48, 56))
    return pack


def measure(place, pack, method):
    evaluate.run(
        System(method, EXTERNAL, "ivif", 0),
        "synthetic_road",
        test=pack,
        fused=place / f"data/fused/synthetic_road/{method}.external.s0",
        out=place / f"reports/scores/synthetic_road/{method}.external.s0.csv",
        convention="lkc_funet",
        beside=[],
        metrics=METRICS,
        workers=1,
        running=Mock(),
    )


def test_a_method_fused_elsewhere_joins_through_a_study(place, pairs, parameters, mmfuse):
    parameters["study"]["external"] = {"mine": ["synthetic_road"]}
    (place / "params.yaml").write_text(yaml.safe_dump(parameters, sort_keys=False))
    out = place / "data/fused/synthetic_road/mine.external.s0"
    fuse.take_over(place / "data/external/mine/synthetic_road", test=pairs, out=out, pictures=1, running=Mock())
    measure(place, pairs, "mine")
    code, said, error = mmfuse("leaderboard", ".", "--board", "road", "--out", "board.md")
    assert code == 0, error
    assert "mine.external (external)" in said
    page = (place / "board.md").read_text()
    assert "| mine.external | fused elsewhere |" in page
    assert "mmfuse leaderboard . --board road --out board.md" in page
    assert "**mine.external** against each other row" in page
    assert "(docs/how-to/add-a-row.md)" in page  # from where this page lies


def test_a_plain_folder_joins_without_a_study(place, pairs, mmfuse):
    for sample in Pack(pairs):
        for side in ("a", "b"):
            write_image(place / f"{side}/{sample['name']}.png", sample[side])
    folders = ("--a", "a", "--b", "b", "--fused", "data/external/mine/synthetic_road")
    code, said, error = mmfuse("evaluate", *folders, "--out", "mine.csv", "--convention", "lkc_funet")
    assert code == 0, error
    words = ("leaderboard", "--board", "road", "--row", "synthetic_road/mine=mine.csv", "--out", "page/board.md")
    code, said, error = mmfuse(*words)
    assert code == 0, error
    assert "mine (external)" in said
    table = list(csv.DictReader((place / "page/board/road.means.csv").read_text().splitlines()))
    mean = pd.read_csv(place / "mine.csv")["SSIM"].mean()
    row = next(row for row in table if row["row"] == "mine")
    assert float(row["SSIM"]) == pytest.approx(mean, rel=1e-5)
    assert row["images"] == "8"


# ------------------------------------------------------------------------------------------------ the stored scores


@pytest.fixture
def real(project):
    shutil.copytree(ROOT / "data/leaderboard", project / "data/leaderboard")
    return project


def test_stored_scores_are_of_the_pairs_that_the_boards_say(tmp_path):
    boards = load(BOARDS, schema=SCHEMA)
    counts = {
        name: sum(len(images_of(boards, dataset)) for dataset in board.datasets)
        for name, board in boards.boards.items()
    }
    assert counts == {
        "msrs": 181,
        "vifb": 21,
        "harvard_ct_mri": 23,
        "harvard_pet_mri": 13,
        "harvard_spect_mri": 17,
        "harvard": 53,
    }
    catalog = load_catalog(ROOT / "data/catalog.yaml", schema=ROOT / "workflow/schemas/catalog.schema.yaml")
    for dataset in boards.boards["harvard"].datasets:
        folder = tmp_path / dataset
        folder.mkdir()
        for file, names in catalog[dataset].written.items():
            (folder / file).write_text("\n".join(names), encoding="utf-8")
        scored = images_of(boards, dataset)
        assert set(catalog[dataset].splits.assign(scored, folder).values()) == {"test"}, "nothing trains on them"
    named = {boards.file(dataset, name) for s in boards.stored for dataset in s.datasets for name in s.methods}
    assert named == set(BOARDS.parent.glob("*/*.csv"))


def test_the_command_on_the_stored_scores(real, mmfuse):
    code, said, error = mmfuse("leaderboard")
    assert code == 0, error
    assert "vifb: 21 images, 15 rows" in said
    page = (real / "docs/leaderboard.md").read_text()
    assert "```sh\nmmfuse leaderboard\n```" in page
    for target in re.findall(r"\]\(([^)#]+)\)", page):
        assert (real / "docs" / target).is_file() or (ROOT / "docs" / target).is_file(), target
    frames = {path.stem: pd.read_csv(path, index_col="name") for path in (BOARDS.parent / "vifb").glob("*.csv")}
    ranks = pd.concat(frames).groupby(level=1).rank(ascending=False).groupby(level=0).mean().mean(axis=1)
    table = pd.read_csv(real / "docs/leaderboard/vifb.means.csv", index_col="row")
    pd.testing.assert_series_equal(table["mean rank"].sort_index(), ranks.sort_index(), check_names=False)
    assert list(table.index) == list(ranks.sort_values().index)
    for metric in ("EN", "Qabf"):
        assert table.loc["SwinFusion", metric] == pytest.approx(frames["SwinFusion"][metric].mean())
    before = {path: path.read_bytes() for path in (real / "docs").rglob("*") if path.is_file()}
    assert mmfuse("leaderboard")[0] == 0
    assert {path: path.read_bytes() for path in (real / "docs").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("file", "dataset", "method"),
    [
        ("msrs181.lkc_funet", "msrs", "LKC-FUNet"),
        ("msrs181.seafusion", "msrs", "SeAFusion"),
        ("vifb.SwinFusion", "vifb", "SwinFusion"),
        ("harvard_PET-MRI.lkc_funet", "harvard_pet_mri", "LKC-FUNet"),
    ],
)
def test_stored_scores_are_those_that_were_measured(file, dataset, method):
    path = GOLDEN / f"published/{file}.csv"
    if not path.is_file():
        pytest.skip(f"no {path}: set MMFUSE_GOLDEN to its folder")
    boards = load(BOARDS, schema=SCHEMA)
    names, found = read_stored(boards, dataset, method)
    wanted = pd.read_csv(path, index_col="name", dtype={"name": str}).loc[list(names)]
    np.testing.assert_array_equal(found, rounded(wanted[[c.name for c in boards.columns]].to_numpy().T))
    assert len(names) == len(wanted)


@pytest.mark.skipif("MMFUSE_MIRROR" not in os.environ, reason="MMFUSE_MIRROR is not set")
@pytest.mark.parametrize("method", ["average", "maximum", "laplacian"])
def test_the_stored_baselines_are_what_the_commands_give(method, tmp_path, mmfuse):
    boards = load(BOARDS, schema=SCHEMA)
    pairs = [Path(os.environ["MMFUSE_MIRROR"]) / "vifb" / side for side in ("IR", "VI")]
    assert mmfuse("fuse", *pairs, tmp_path / "fused", "--method", method)[0] == 0
    words = ("--a", pairs[0], "--b", pairs[1], "--fused", tmp_path / "fused", "--out", tmp_path / "scores.csv")
    metrics = [column.name for column in boards.columns]
    assert mmfuse("evaluate", *words, "--convention", boards.convention, "--metrics", ",".join(metrics))[0] == 0
    found = pd.read_csv(tmp_path / "scores.csv", index_col="name").sort_index()
    names, wanted = read_stored(boards, "vifb", method)
    assert list(found.index) == list(names)
    np.testing.assert_allclose(found[metrics].to_numpy().T, wanted, rtol=5e-6)  # half of the last stored digit
