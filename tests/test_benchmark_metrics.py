"""`mmfuse benchmark metrics`: what it compares is the same quantity, and its numbers hang together."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from mmfuse.benchmarks import metrics
from mmfuse.benchmarks.reference_metrics import PLAIN
from mmfuse.cli import app as cli
from mmfuse.data.images import write_image
from mmfuse.errors import UserError
from mmfuse.metrics import CONVENTIONS, definitions

SMALLEST = 161  # MS-SSIM is defined from here on


@pytest.fixture(scope="module")
def result():
    return metrics.run(height=SMALLEST, width=SMALLEST + 14, repeats=1, threads=2, files=None)


def test_every_metric_of_the_set_has_a_plain_implementation(result):
    meant = {variant for convention in metrics.SET for variant in CONVENTIONS[convention].values()}
    assert set(PLAIN) == meant == {row["definition"] for row in result["set"]["metrics"]}


def test_plain_implementations_give_the_same_values(result):
    for row in result["set"]["metrics"]:
        assert row["relative_difference"] < 1e-12, row["definition"]


def test_numbers_hang_together(result):
    compared, together = result["set"], result["all"]
    for row in compared["metrics"]:
        assert row["ratio"] == row["plain_seconds"] / row["seconds"] > 0
    lkc, smfnet, both = compared["totals"]
    assert both["conventions"] == ["lkc_funet", "smfnet"]
    assert both["plain_seconds"] == pytest.approx(lkc["plain_seconds"] + smfnet["plain_seconds"])
    assert both["ratio"] == both["plain_seconds"] / both["seconds"]
    plain = {row["definition"]: row["plain_seconds"] for row in compared["metrics"]}
    assert smfnet["plain_seconds"] == pytest.approx(sum(plain[variant] for variant in CONVENTIONS["smfnet"].values()))
    assert set(together["shares"]) == set(definitions())
    assert sum(together["shares"].values()) == pytest.approx(1)
    assert together["threads"] == 2
    assert together["seconds_per_triple"] > 0


def test_a_new_formula_without_a_plain_implementation_is_named(monkeypatch):
    monkeypatch.setitem(CONVENTIONS["lkc_funet"], "NEW", "rmse_vifb")
    monkeypatch.setitem(CONVENTIONS["smfnet"], "NEW", "rmse_vifb")
    found = metrics.run(height=SMALLEST, width=SMALLEST, repeats=1, threads=1, files=None)
    assert found["set"]["without_plain"] == ["rmse_vifb"]
    assert {row["definition"] for row in found["set"]["metrics"]} == set(PLAIN)
    assert "not compared: rmse_vifb" in "\n".join(metrics.lines(found))


def test_lines_name_every_metric(result):
    text = "\n".join(metrics.lines(result))
    for word in ("drawn", f"{SMALLEST}x{SMALLEST + 14}", "all of lkc_funet and smfnet", *definitions()):
        assert word in text


def test_given_images_and_json(tmp_path, image, monkeypatch):
    asked = []
    monkeypatch.setattr(metrics, "_against_plain", lambda images, repeats: asked.append((images, repeats)) or {})
    monkeypatch.setattr(metrics, "_all_together", lambda *_: {})
    words = ["benchmark", "metrics", "--repeats", "4", "--json"]
    for number, name in enumerate(("fused", "a", "b")):
        write_image(tmp_path / f"{name}.png", image(number))
        words += [f"--{name}", str(tmp_path / f"{name}.png")]
    printed = json.loads(CliRunner().invoke(cli.app, words).output)
    assert (printed["height"], printed["width"], printed["repeats"]) == (40, 56, 4)
    [(images, repeats)] = asked
    assert repeats == 4
    for number, pixels in enumerate(images.triple):
        np.testing.assert_array_equal((pixels[0] * 255).round().numpy(), image(number))


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--fused", "x.png"], "incomplete"), (["--repeats", "0"], "at least 1"), (["--threads", "0"], "at least 1")],
)
def test_wrong_options(words, message):
    refused = CliRunner().invoke(cli.app, ["benchmark", "metrics", *words])
    assert isinstance(refused.exception, UserError)
    assert message in str(refused.exception)
