"""Measures of flicker: still and moving scenes with known values, and flow against other code."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from skimage.transform import warp

from mmfuse.video import steadiness
from mmfuse.video.steadiness import MEASURES, consistent, measure, not_occluded, optical_flow, warped
from test_video import film

SIZE = 64
INSIDE = (slice(12, -12), slice(12, -12))


def texture(down=0.0, right=0.0, light=0.0):
    """A smooth picture moved by some pixels, (64, 64) uint8, with something added."""
    y, x = np.mgrid[:SIZE, :SIZE].astype(float)
    y, x = y - down, x - right
    value = 128 + 40 * np.sin(x / 4) * np.cos(y / 5) + 30 * np.sin((x + y) / 6) + light
    return np.rint(value).clip(0, 255).astype(np.uint8)


def means(*frames, **options):
    """The means of the measures of a system `x`; each frame is (a, b, fused)."""
    lines = [line["x"] for line in measure(({"a": a, "b": b, "x": x} for a, b, x in frames), ["x"], **options)]
    return {name: np.mean([line[name] for line in lines if name in line]) for name in MEASURES}


def test_a_still_film_has_no_flicker():
    assert means(*[(texture(), texture(5), texture(2))] * 3) == dict.fromkeys(MEASURES, 0.0)
    black = np.zeros((SIZE, SIZE), np.uint8)
    assert means(*[(black, black, black)] * 3) == dict.fromkeys(MEASURES, 0.0)


@pytest.mark.parametrize("light", [5, 20])
def test_flicker_on_a_still_scene_is_measured_as_it_is(light):
    """The visible film does not move, so each frame is compared with the next one in place."""
    still = texture()
    found = means(*((still, still, texture(light=light * (number % 2))) for number in range(4)))
    assert found["WarpError"] == pytest.approx((light / 255) ** 2, rel=1e-6)
    flat = np.full((SIZE, SIZE), 90, np.uint8)  # nothing to which the fused film's own flow could move
    found = means(*((still, still, flat + np.uint8(light * (number % 2))) for number in range(4)))
    assert found["BiSWE"] == pytest.approx(2 * light, rel=1e-6)
    assert found["MS2R"] == pytest.approx(0, abs=1e-6)


def test_the_flow_of_a_known_movement():
    for down, right in ((0, 1.5), (2, -1), (-1.25, 0.5)):
        first, second = (texture(*move).astype(np.float32) for move in ((0, 0), (down, right)))
        flow = optical_flow(first, second)
        assert np.abs(flow[0][INSIDE] - down).mean() < 0.15
        assert np.abs(flow[1][INSIDE] - right).mean() < 0.15
        reverse = optical_flow(second, first)
        assert consistent(flow, reverse)[INSIDE].mean() > 0.99
        assert np.abs(warped(second, flow) - first)[INSIDE].mean() < 2
        half = optical_flow(first, second, side=32)
        assert np.abs(half[0][INSIDE] - down).mean() < 0.4
        assert np.abs(half[1][INSIDE] - right).mean() < 0.4


def test_a_film_that_moves_with_its_sources_is_steady():
    moving = [texture(0.5 * number, number) for number in range(4)]
    good = means(*((frame, frame, frame) for frame in moving))
    lights = [frame + np.uint8(12 * (number % 2)) for number, frame in enumerate(moving)]
    bad = means(*((frame, frame, light) for frame, light in zip(moving, lights, strict=True)))
    stuck = means(*((frame, frame, moving[0]) for frame in moving))
    assert good["MS2R"] == 0  # the same flow as both sources
    assert good["WarpError"] < 2e-4 < stuck["WarpError"]
    assert bad["WarpError"] == pytest.approx((12 / 255) ** 2, rel=0.1)
    assert good["BiSWE"] < bad["BiSWE"]
    jumps = [moving[place] for place in (0, 2, 1, 3)]
    assert means(*zip(moving, moving, jumps, strict=True))["MS2R"] > 1


def test_the_change_of_flow_by_hand():
    """Speeds of the fused film 1 and 4, of the sources 1 and 2, and 3 and 3: changes 3, 1 and 0, of one component."""
    flows = {speed: np.stack([np.full((8, 8), float(speed)), np.zeros((8, 8))]).astype("f4") for speed in (1, 2, 3, 4)}
    found = steadiness.motion_difference((flows[1], flows[4]), ((flows[1], flows[2]), (flows[3], flows[3])))
    assert found == pytest.approx(((3 - 1) / 2 + (3 - 0) / 2) / 2)


def test_what_is_hidden_does_not_count():
    still = np.zeros((2, SIZE, SIZE), np.float32)
    torn = still.copy()
    torn[1, 20:40, 20:40] = 6  # a square moves to the right, and its flow back is unknown
    seen = not_occluded(torn, still)
    assert not seen[20:40, 20:40].any()
    assert not seen[19, 20:40].any()  # the motion's boundary
    assert seen[:15].all()
    assert not consistent(torn, still)[20:40, 20:40].any()
    first = texture().astype(np.float32)
    second = np.where(seen, first, 255).astype(np.float32)
    assert steadiness.warp_error(first, second, still, seen) == 0
    assert steadiness.warp_error(first, second, still, np.ones_like(seen)) > 0
    nowhere = np.zeros_like(seen)
    assert steadiness.warp_error(first, second, still, nowhere) == steadiness.warp_error(first, second, still, ~nowhere)


def test_warping_agrees_with_other_code():
    """With scikit-image's `warp`, as its example of optical flow uses it, and with `grid_sample` of torch."""
    random = np.random.default_rng(0)
    image = random.uniform(0, 255, (20, 31)).astype(np.float32)
    flow = random.uniform(-4, 4, (2, 20, 31)).astype(np.float32)
    rows, columns = np.mgrid[:20, :31]
    ours = warped(image, flow)
    theirs = warp(image, np.array([rows + flow[0], columns + flow[1]]), order=1, mode="edge", preserve_range=True)
    assert np.abs(ours - theirs).max() < 1e-2
    places = np.stack([(columns + flow[1]) / 30 * 2 - 1, (rows + flow[0]) / 19 * 2 - 1], axis=-1).astype(np.float32)
    other = torch.nn.functional.grid_sample(
        torch.from_numpy(image)[None, None], torch.from_numpy(places)[None], padding_mode="border", align_corners=True
    )[0, 0].numpy()
    assert np.abs(ours - other).max() < 1e-2


def test_films_are_measured(mmfuse, tmp_path):
    ir, vi = film(tmp_path / "ir.mp4", 4, seed=1), film(tmp_path / "vi.mp4", 4, seed=2)
    fused = tmp_path / "fused.mp4"
    assert mmfuse("fuse", ir, vi, fused, "--method", "average", "--frames", "3")[0] == 0
    words = ("evaluate", "--a", ir, "--b", vi, "--allow-missing", "--flow-side", "32")
    code, _, err = mmfuse(*words, "--fused", fused, "--out", tmp_path / "one.csv")
    assert code == 0, err
    with (tmp_path / "one.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["name"] for row in rows] == ["vi_f00001", "vi_f00002"]
    assert rows[0]["BiSWE"] == ""
    summary = json.loads((tmp_path / "one.json").read_text(encoding="utf-8"))
    assert summary["frames"] == 3
    assert summary["metrics"]["WarpError"]["mean"] == pytest.approx(np.mean([float(row["WarpError"]) for row in rows]))
    code, _, err = mmfuse(
        *words, "--fused", f"x={fused}", "--fused", f"ir={ir}", "--out", tmp_path / "all.csv", "--metrics", "MS2R,BiSWE"
    )
    assert code == 0, err
    with (tmp_path / "all.csv").open(encoding="utf-8") as stream:
        table = {row["system"]: row for row in csv.DictReader(stream)}
    assert float(table["x"]["BiSWE"]) == pytest.approx(summary["metrics"]["BiSWE"]["mean"])
    assert (tmp_path / "all.ir.json").is_file()
    before = sorted(path.name for path in tmp_path.iterdir())
    wrong = [
        (("--metrics", "SSIM"), "not a measure of films"),
        (("--convention", "cddfuse"), "no effect on films"),
        (("--out", tmp_path / "x.txt"), "Cannot write"),
        (("--fused", tmp_path / "one.csv"), "NAME=FOLDER"),
    ]
    for extra, said in wrong:
        code, _, err = mmfuse(*words, "--fused", fused, "--out", tmp_path / "no.csv", *extra)
        assert (code, said in err) == (2, True), err
    code, _, err = mmfuse(*words[:5], "--fused", fused, "--out", tmp_path / "no.csv")
    assert (code, "differ in length" in err) == (2, True), err
    code, _, err = mmfuse(*words, "--fused", tmp_path / "one.csv", "--out", tmp_path / "no.csv")
    assert (code, "only be fused with a film" in err) == (2, True), err
    assert sorted(path.name for path in tmp_path.iterdir()) == before
