"""The tables of docs/speed.md, from measurements."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from mmfuse.benchmarks import backends

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "workflow/scripts"))
import speed_table as script  # noqa: E402


def result(method: str, seconds: dict[str, float], reasons: dict[str, str], **k) -> dict:
    each = dict.fromkeys(seconds, 0.0)
    return {
        "method": method, "height": 480, "width": 640, "threads": 2, "repeats": 3, "seconds": seconds,
        "peak_mib": dict.fromkeys(seconds, 812.4), "difference": each | {"copy": 2.4e-6}, "psnr": each | {"bf16": 64.6},
        "reasons": reasons, **k,
    }  # fmt: skip


def test_tables_of_measurements():
    one = result("lkc_ivif", {"readable": 0.6, "copy": 0.5, "bf16": 0.4}, {"openvino": "It took longer than 7 s."})
    other = result("average", {"readable": 0.1}, {}, height=256, width=256)
    text = script.tables({"processor": "P", "versions": {"torch": "9.1"}, "results": [one, other]})
    assert text.startswith("Measured on one P, with torch 9.1; medians of 3 calls.")
    rows = [line for line in text.splitlines() if line.startswith("| lkc_ivif")]
    assert rows == [
        "| lkc_ivif | 480 x 640 | 2 | 0.600 | **0.500** | 0.400 | - | no | - |",
        "| lkc_ivif | 480 x 640 | 2 | 812 | 812 | 812 | - | no | - |",
        "| lkc_ivif | 480 x 640 | 2 | 0e+00 | 2e-06 | 0e+00, 65 dB | - | no | - |",
    ]
    assert text.index("| average") < text.index("| lkc_ivif")
    assert "- lkc_ivif, OpenVINO: It took longer than 7 s.\n" in text


def test_only_what_is_between_the_marks_is_written(tmp_path):
    docs, measured = tmp_path / "speed.md", tmp_path / "speed.json"
    docs.write_text(f"before\n{script.BEGIN}old\n{script.END}after\n", encoding="utf-8")
    found = {"processor": "P", "versions": {}, "results": [result("average", {"copy": 1.0}, {})]}
    measured.write_text(json.dumps(found), encoding="utf-8")
    for _ in range(2):
        script.write(measured, docs)
        text = docs.read_text(encoding="utf-8")
        assert text == f"before\n{script.BEGIN}\n{script.tables(found)}\n{script.END}after\n"
    page = (ROOT / script.DOCS).read_text(encoding="utf-8")
    assert page.count(script.BEGIN) == page.count(script.END) == 1


def test_cases_that_fit_into_the_time(tmp_path, monkeypatch, capsys):
    asked, clock = [], [0.0]

    def run(case, names, *, limit):
        asked.append((case.method, case.height, case.width, case.threads))
        assert limit > 0
        assert set(names) <= set(backends.ALL)
        clock[0] += 100.0
        return result(case.method, {"copy": 1.0}, {})

    monkeypatch.setattr(backends, "run", run)
    monkeypatch.setattr(backends, "lines", lambda _: ["line"])
    monkeypatch.setattr(script.time, "monotonic", lambda: clock[0])
    script.measure(tmp_path / "speed.json", minutes=4, repeats=3)
    assert len(asked) == 3
    assert "no time for" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "speed.json").read_text(encoding="utf-8"))["results"]) == 3
    asked.clear()
    script.measure(tmp_path / "speed.json", minutes=float("inf"), repeats=3)
    assert len(asked) == len(set(asked)) == 4 * 3 * 2, "four networks, three sizes, one and two threads"


@pytest.mark.parametrize("words", [["measure"], ["read", "speed.json"]])
def test_words_that_are_missing(words, monkeypatch):
    monkeypatch.setattr("sys.argv", ["speed_table.py", *words])
    with pytest.raises(SystemExit) as leaving:
        script.main()
    assert leaving.value.code == 2
