"""`mmfuse evaluate` over several fused folders: one table of means by system, with paired tests."""

from __future__ import annotations

import csv
import json

import numpy as np
import pandas as pd
import pytest
from scipy.stats import wilcoxon

from mmfuse.data.images import read_image, write_image

NAMES = [f"n{number}" for number in range(7)]
METRICS = ["EN", "SD", "MSE"]


@pytest.fixture
def words(tmp_path, image):
    """Sources, and three systems: the mean of both, the first image, and the first image with noise."""
    for number, name in enumerate(NAMES):
        a, b = image(number, 44, 52), image(number + 50, 44, 52)
        write_image(tmp_path / f"a/{name}.png", a)
        write_image(tmp_path / f"b/{name}.jpg", b)
        write_image(
            tmp_path / f"mean/{name}.png",
            ((a.astype(float) + read_image(tmp_path / f"b/{name}.jpg")) / 2).astype(np.uint8),
        )
        write_image(tmp_path / f"first/{name}.bmp", a)
        noise = np.random.default_rng(number).normal(0, 20, a.shape)
        write_image(tmp_path / f"noisy/{name}.png", np.clip(a + noise, 0, 255).astype(np.uint8))
    systems = [f"{name}={tmp_path / name}" for name in ("mean", "first", "noisy")]
    return ["evaluate", "--a", tmp_path / "a", "--b", tmp_path / "b", "--metrics", ",".join(METRICS)], systems


def given(systems):
    return [word for system in systems for word in ("--fused", system)]


def test_one_table_of_several_systems(mmfuse, words, tmp_path):
    common, systems = words
    out = tmp_path / "new/s.csv"
    code, printed, err = mmfuse(*common, *given(systems), "--out", out, "--latex", tmp_path / "new/t.tex")
    assert code == 0, err
    means = pd.read_csv(out, keep_default_na=False)
    assert means["system"].tolist() == ["mean", "first", "noisy"]
    assert means["images"].tolist() == [7] * 3
    scores = {}
    for system in systems:
        name, _, folder = system.partition("=")
        assert mmfuse(*common, "--fused", folder, "--out", tmp_path / "alone.csv")[0] == 0
        for suffix in (".csv", ".json"):
            assert out.with_suffix(f".{name}{suffix}").read_bytes() == (tmp_path / f"alone{suffix}").read_bytes()
        scores[name] = pd.read_csv(tmp_path / "alone.csv")
    for metric, lower in zip(METRICS, (False, False, True), strict=True):
        values = pd.DataFrame({name: table[metric] for name, table in scores.items()})
        assert means[f"{metric} mean"].tolist() == pytest.approx(values.mean().tolist())
        assert means[f"{metric} std"].tolist() == pytest.approx(values.std(ddof=0).tolist())
        assert means[f"{metric} rank"].tolist() == pytest.approx(values.rank(axis=1, ascending=lower).mean().tolist())
        best = values.mean().idxmin() if lower else values.mean().idxmax()
        assert means.set_index("system")[f"{metric} mark"][best] == "best"
    ranks = means[[f"{metric} rank" for metric in METRICS]].mean(axis=1)
    assert means["mean rank"].tolist() == pytest.approx(ranks.tolist())
    tests = pd.read_csv(tmp_path / "new/s.tests.csv", keep_default_na=False)
    assert len(tests) == 9
    en = tests[tests["metric"] == "EN"]
    raw = [wilcoxon(scores[f]["EN"], scores[s]["EN"]).pvalue for f, s in zip(en["first"], en["second"], strict=True)]
    order = np.argsort(raw)
    adjusted = np.empty(3)
    adjusted[order] = np.minimum(np.maximum.accumulate(np.sort(raw) * [3, 2, 1]), 1)
    assert en["p"].tolist() == pytest.approx(adjusted.tolist())
    latex = (tmp_path / "new/t.tex").read_text(encoding="utf-8")
    assert latex.count(r"\begin{tabular}") == 2
    for word in (
        *(f"\n{name} &" for name in scores),
        "mean -- first",
        r"EN $\uparrow$",
        r"MSE $\downarrow$",
        r"\textbf",
    ):
        assert word in latex
    for word in ("mean rank", "EN ↑", "MSE ↓", "noisy", "7 test images", "lkc_funet"):
        assert word in printed


def test_latex_by_the_suffix_of_out(mmfuse, words, tmp_path):
    common, systems = words
    assert mmfuse(*common, *given(systems), "--out", tmp_path / "s.tex")[0] == 0
    assert r"\begin{table}" in (tmp_path / "s.tex").read_text(encoding="utf-8")
    assert pd.read_csv(tmp_path / "s.csv")["system"].tolist() == ["mean", "first", "noisy"]
    assert mmfuse(*common, *given(systems[:1]), "--out", tmp_path / "s.tex")[0] == 0, "an earlier table is replaced"
    assert pd.read_csv(tmp_path / "s.csv")["system"].tolist() == ["mean"]
    assert r"\begin{table}" in (tmp_path / "s.tex").read_text(encoding="utf-8")
    code, _, err = mmfuse(*common, *given(systems), "--out", tmp_path / "u.tex", "--latex", tmp_path / "t.tex")
    assert code == 2
    assert "Two files are named for LaTeX" in err
    assert not [*tmp_path.glob("[tu].*")]


@pytest.mark.parametrize("count", [2, 3])
def test_the_table_fits_the_terminal(mmfuse, words, tmp_path, count):
    common, systems = words
    systems = [f"a_system_with_a_long_name_{system}" for system in systems[:count]]
    common = [*common[:-1], "EN,SD,SF,AG,MI,MSE,CC,PSNR,SCD", "--beside", "cddfuse,vifb"]
    code, printed, err = mmfuse(*common, *given(systems), "--out", tmp_path / "s.csv")
    assert code == 0, err
    lines = printed.partition("Convention ")[0].splitlines()  # paths follow
    assert max(map(len, lines)) <= 80
    shown = " ".join(lines)
    with (tmp_path / "s.csv").open(encoding="utf-8") as file:
        names = [name.removesuffix(" mean") for name in next(csv.reader(file)) if name.endswith(" mean")]
    summary = json.loads((tmp_path / "s.a_system_with_a_long_name_mean.json").read_text(encoding="utf-8"))["metrics"]
    for name in names:
        assert f"{name} {'↓' if summary[name]['better'] == 'lower' else '↑'}" in shown
    assert all(shown.count(name.partition("=")[0]) >= 2 for name in systems), "in each block"


def test_missing_images_are_named_with_their_system(mmfuse, words, tmp_path):
    common, systems = words
    (tmp_path / "first/n3.bmp").unlink()
    (tmp_path / "noisy/n0.png").unlink()
    (tmp_path / "noisy/n5.png").unlink()
    code, _, err = mmfuse(*common, *given(systems), "--out", tmp_path / "s.csv")
    assert code == 2
    assert "Fused images of 2 of 3 systems are missing" in err
    assert f"first ({tmp_path}/first) lacks n3\n" in err
    assert f"noisy ({tmp_path}/noisy) lacks n0, n5\n" in err
    assert "mean (" not in err
    assert not [*tmp_path.glob("s.*")]
    code, _, err = mmfuse(*common, *given(systems), "--out", tmp_path / "s.csv", "--allow-missing")
    assert code == 0, err
    assert pd.read_csv(tmp_path / "s.csv")["images"].tolist() == [4] * 3
    assert pd.read_csv(tmp_path / "s.mean.csv")["name"].tolist() == ["n1", "n2", "n4", "n6"]
    assert err.count("left out") == 3


@pytest.mark.parametrize(
    ("fused", "message"),
    [
        (["x=first", "mean"], "has no valid name"),
        (["first", "mean"], "has no valid name"),
        (["x=first", "x=mean"], "Two folders have the same name"),
        (["a/b=first"], "has no valid name"),
        (["=first"], "has no valid name"),
        (["x="], "has no valid name"),
        (["tests=first", "x=mean"], "has no valid name"),
        ([".x=first"], "has no valid name"),
        (["x=nowhere", "y=mean"], "Folder not found"),
    ],
)
def test_names_of_systems(mmfuse, words, tmp_path, monkeypatch, fused, message):
    monkeypatch.chdir(tmp_path)
    code, _, err = mmfuse(*words[0], *given(fused), "--out", "s.csv")
    assert code == 2
    assert message in err
    assert not [*tmp_path.glob("s.*")]


def test_a_folder_with_an_equals_sign_and_latex_of_one_folder(mmfuse, words, tmp_path):
    common, _ = words
    folder = (tmp_path / "first").rename(tmp_path / "w=1")
    assert mmfuse(*common, "--fused", folder, "--out", tmp_path / "s.csv")[0] == 0
    assert len(pd.read_csv(tmp_path / "s.csv")) == 7
    code, _, err = mmfuse(*common, "--fused", folder, "--out", tmp_path / "s.csv", "--latex", tmp_path / "t.tex")
    assert code == 2
    assert "--fused NAME=DIR" in err


@pytest.mark.parametrize("name", ["s.csv", "s.tests.csv", "s.first.csv", "s.first.json", "t.tex"])
def test_other_files_are_not_replaced(mmfuse, words, tmp_path, name):
    common, systems = words
    (tmp_path / name).write_text("mine", encoding="utf-8")
    code, _, err = mmfuse(*common, *given(systems), "--out", tmp_path / "s.csv", "--latex", tmp_path / "t.tex")
    assert code == 2
    assert f"{name}: this file exists and contains no scores" in err
    assert (tmp_path / name).read_text(encoding="utf-8") == "mine"
    assert [path.name for path in tmp_path.glob("[st].*")] == [name]


@pytest.mark.parametrize("before", [False, True])
def test_a_system_that_cannot_be_measured_leaves_no_files_or_the_earlier_ones(mmfuse, words, tmp_path, image, before):
    common, systems = words
    out = tmp_path / "new/s.csv"
    command = [*common, *given(systems), "--out", out, "--latex", out.with_suffix(".tex")]
    if before:
        assert mmfuse(*command)[0] == 0
    kept = {path: path.read_bytes() for path in out.parent.glob("*")}
    assert len(kept) == (9 if before else 0)
    write_image(tmp_path / "mean/n0.png", image(99, 44, 52))  # the earlier systems have other scores now
    last = tmp_path / "noisy/n6.png"
    last.write_bytes(last.read_bytes()[:-300])
    code, _, err = mmfuse(*command)
    assert code == 2
    assert "n6.png" in err
    assert {path: path.read_bytes() for path in out.parent.glob("*")} == kept
