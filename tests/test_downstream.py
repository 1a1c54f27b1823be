"""Detectors and segmenters: labels, folds, batches, models, and whole jobs from a pack to the report's part."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from mmfuse.data import catalog
from mmfuse.data.images import write_image
from mmfuse.data.packs import Pack, write_pack
from mmfuse.downstream import folds, labels, models, results, training
from mmfuse.downstream.centre import CentreDetector
from mmfuse.downstream.deeplab import losses_of
from mmfuse.downstream.images import Batches, Labelled, load_images
from mmfuse.downstream.masks import IGNORED
from mmfuse.downstream.trial import Trial
from mmfuse.errors import MmfuseError, UserError
from mmfuse.pipeline.jobs import Running
from mmfuse.stages import detect, divide, label, segment
from mmfuse.study import plan
from mmfuse.study.parameters import load_parameters
from mmfuse.study.stages import DETECT, report_inputs
from mmfuse.training.checkpoints import load_state

ROOT = Path(__file__).parents[1]
ROAD = catalog.load_catalog(ROOT / "data/catalog.yaml", schema=ROOT / catalog.SCHEMA)["synthetic_road"]
TRAINING = {
    "height": 64,
    "width": 64,
    "steps": 6,
    "batch": 2,
    "optimiser": "adamw",
    "learning_rate": 0.003,
    "momentum": 0.9,
    "weight_decay": 0.0,
    "schedule": "cosine",
    "warmup": 0,
    "clip": None,
    "flip": True,
    "zoom": [0.7, 1.0],
    "loss": {},
    "threads": 1,
    "log_every": 1,
    "save_every": 2,
}


class NoTracker:
    """A tracker that remembers what it was told."""

    def __init__(self) -> None:
        self.rows, self.pictures, self.metrics = [], [], {}

    def log_rows(self, rows):
        """Remember them."""
        self.rows += rows

    def log_picture(self, name, pixels, **_):
        """Remember its shape."""
        self.pictures.append((name, pixels.shape))

    def log_metrics(self, values):
        """Remember them."""
        self.metrics |= values


def sample(name, *, boxes=((1, 0.5, 0.5, 0.4, 0.4),), mask=True, seed=0):
    """A pair in which the labels can be seen: a bright square on noise."""
    random = np.random.default_rng(seed)
    a, b = random.integers(0, 60, (64, 64), np.uint8), random.integers(0, 60, (64, 64, 3), np.uint8)
    ids = np.zeros((64, 64), np.uint8)
    for _, x, y, width, height in boxes:
        rows = slice(max(0, int((y - height / 2) * 64)), int((y + height / 2) * 64))
        columns = slice(max(0, int((x - width / 2) * 64)), int((x + width / 2) * 64))
        a[rows, columns], b[rows, columns], ids[rows, columns] = 220, 200, 1
    found = {"name": name, "a": a, "b": b, "boxes": np.array(boxes, np.float32).reshape(-1, 5)}
    return {**found, "mask": ids} if mask else found


def scattered(count):
    """Pairs with one object each, at different places."""
    random = np.random.default_rng(5)
    places = [(1, *random.uniform(0.3, 0.7, 2), 0.4, 0.4) for _ in range(count)]
    return [sample(f"s{number:02d}", boxes=[place], seed=number) for number, place in enumerate(places)]


@pytest.fixture
def room(tmp_path):
    """A pack of ten labelled pairs, eight to train and two to test."""
    pack = tmp_path / "prepared/labelled.safetensors"
    write_pack(pack, scattered(10))
    rows = [f"s{n:02d},{'train' if n < 8 else 'test'}\n" for n in range(10)]
    pack.with_suffix(".csv").write_text("name,split\n" + "".join(rows))
    return tmp_path


def protocol(goal, **changes):
    name = {"detect": "centre", "segment": "small_deeplabv3plus"}[goal]
    block = {
        "goal": goal,
        "dataset": "synthetic_road",
        "splits": ["train", "test"],
        "division": {"by": "catalog"},
        "sets": ["a", "b"],
        "seeds": [0],
        "transfer": True,
        "pictures": 1,
        "model": {"name": name, "pretrained": False, "options": {"width": 8} if goal == "detect" else {}},
        "training": TRAINING,
    }
    return block | ({"unlabelled": "class"} if goal == "segment" else {}) | changes


def made(room, goal, *, name="a.seed0", sources=None, own="a", **changes):
    """Run one job, its folds before it; returns the path of its results and what it told the tracker."""
    block = protocol(goal, **changes)
    pack, where = room / "prepared/labelled.safetensors", room / f"prepared/folds.{goal}.csv"
    chosen = {key: block[key] for key in ("goal", "splits", "division")}
    divide.run(ROAD, pack=pack, out=where, **chosen)
    task = Trial(
        dataset=ROAD,
        block=block,
        pack=pack,
        folds=where,
        sources=sources or {"a": "a", "b": "b"},
        own=own,
        seed=0,
        out=room / name,
        resume=room / f"{name}.pt",
    )
    tracker = NoTracker()
    {"detect": detect, "segment": segment}[goal].run(task, running=Running(tracker, "print"))
    return task.out, tracker


def with_end(out, end):
    return out.with_name(f"{out.name}{end}")


# labels


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ((1, 1.2, 0.5, 0.4, 0.4), "extends outside the image"),
        ((1, 0.5, 0.5, float("nan"), 0.4), "extends outside the image"),
        ((1, 0.5, 0.5, 0.0, 0.4), "no area"),
        ((1, 0.5, 0.5, 0.4, -0.1), "no area"),
        ((17, 0.5, 0.5, 0.4, 0.4), "unknown class 17"),
    ],
)
def test_a_wrong_box_is_one_clear_error(tmp_path, box, words):
    good, wrong = sample("good"), sample("wrong")
    wrong["boxes"] = np.array([(1, 0.5, 0.5, 0.2, 0.2), box], np.float32)
    write_pack(tmp_path / "pack", [good, wrong])
    with pytest.raises(UserError, match=words) as error:
        labels.check_labels(ROAD, "detect", Pack(tmp_path / "pack"), ["good", "wrong"])
    assert "wrong: box 2" in str(error.value)
    assert "1 label " in str(error.value)
    labels.check_labels(ROAD, "detect", Pack(tmp_path / "pack"), ["good"])  # other pairs do not matter


def test_missing_labels_and_unknown_ids_are_errors_and_no_object_is_none(tmp_path):
    bare, empty = sample("bare", mask=False), sample("empty", boxes=())
    del bare["boxes"]
    strange = sample("strange")
    strange["mask"][0, 0] = 77
    write_pack(tmp_path / "pack", [bare, empty, strange])
    pack = Pack(tmp_path / "pack")
    labels.check_labels(ROAD, "detect", pack, ["empty"])
    with pytest.raises(UserError, match="its box file is missing"):
        labels.check_labels(ROAD, "detect", pack, pack.names)
    with pytest.raises(UserError, match="its mask is missing"):
        labels.check_labels(ROAD, "segment", pack, ["bare"])
    with pytest.raises(UserError, match="unknown ids 77"):
        labels.check_labels(ROAD, "segment", pack, ["strange"])


def test_a_box_just_over_the_edge_is_clipped(tmp_path):
    write_pack(tmp_path / "pack", [sample("edge", boxes=[(1, 0.1, 0.5, 0.21, 0.4)])])
    pack = Pack(tmp_path / "pack")
    labels.check_labels(ROAD, "detect", pack, ["edge"])
    (one,) = load_images(pack, "a", ["edge"], height=32, width=128, index=labels.class_index(ROAD, "detect"))
    np.testing.assert_allclose(one.boxes, [[0, 9.6, 0.205 * 128, 22.4]], rtol=1e-5)
    assert one.image.shape == (32, 128, 3)
    assert one.kinds.tolist() == [1]


def test_unlabelled_pixels_count_as_a_class_or_nowhere(tmp_path):
    write_pack(tmp_path / "pack", [sample("one")])
    assert labels.class_names(ROAD, "segment", "class")[0] == "unlabelled"
    assert labels.class_names(ROAD, "segment", "ignore")[0] == "car"
    index = labels.class_index(ROAD, "segment", "ignore")
    (one,) = load_images(Pack(tmp_path / "pack"), "b", ["one"], height=64, width=64, index=index)
    assert set(np.unique(one.mask)) == {0, IGNORED}
    with pytest.raises(UserError, match="no boxes, which detect needs"):
        labels.class_index(
            catalog.dataset("openms", ROOT / "data/catalog.yaml", schema=ROOT / catalog.SCHEMA), "detect"
        )


# folds


def test_scenes_stay_together_and_shares_are_kept():
    names = {f"{number:05d}{'DN'[number % 2]}": "test" for number in range(0, 2000, 10)}
    rule = {"by": "shares", "train": 8, "val": 1, "test": 1, "seed": 0, "scene": {"pattern": r"^(\d+)", "frames": 50}}
    found = folds.divide(names, rule)
    scenes = {}
    for name, (scene, fold) in found.items():
        assert scene == str(int(name[:5]) // 50)
        assert scenes.setdefault(scene, fold) == fold
    counts = {fold: sum(one == fold for _, one in found.values()) for fold in folds.FOLDS}
    assert counts == {"train": 160, "val": 20, "test": 20}
    assert found == folds.divide(dict(reversed(names.items())), rule)  # the names decide, not their order
    assert found != folds.divide(names, rule | {"seed": 1})


def test_folds_that_cannot_be_made_are_errors():
    with pytest.raises(UserError, match="does not determine its scene"):
        folds.scene_of("abc", {"pattern": r"^(\d+)", "frames": None})
    with pytest.raises(UserError, match="cannot be divided"):
        folds.divide({"p1_a": "train"}, {"by": "catalog"})
    with pytest.raises(UserError, match="would be in two folds"):
        folds.divide(
            {"p1_a": "train", "p1_b": "test"}, {"by": "catalog", "scene": {"pattern": "^(p1)", "frames": None}}
        )


def test_labelled_pairs_keep_their_names_unless_two_splits_share_them(tmp_path):
    raw = tmp_path / "raw"
    for split, names in {"train": ["one", "two"], "val": [], "test": ["two"]}.items():
        for name in names:
            pair = sample(name)
            write_image(raw / split / "infrared" / f"{name}.png", pair["a"])
            write_image(raw / split / "visible" / f"{name}.png", pair["b"])
            write_image(raw / split / "mask" / f"{name}.png", pair["mask"])
            (raw / split / "boxes").mkdir(exist_ok=True)
            (raw / split / "boxes" / f"{name}.txt").write_text("" if name == "one" else "1 0.5 0.5 0.4 0.4\n")
    out = tmp_path / "labelled.safetensors"
    label.run(ROAD, raw=raw, out=out, splits=["train", "test"], skip_broken=False)
    assert Pack(out).names == ["one", "train_two", "test_two"]
    assert out.with_suffix(".csv").read_text() == "name,split\none,train\ntrain_two,train\ntest_two,test\n"
    assert [len(pair["boxes"]) for pair in Pack(out)] == [0, 1, 1]
    assert Pack(out)[0]["b"].shape == (64, 64, 3)  # in colour
    (raw / "test/visible/two.png").unlink()
    with pytest.raises(UserError, match="cannot be used"):
        label.run(ROAD, raw=raw, out=out, splits=["train", "test"], skip_broken=False)
    label.run(ROAD, raw=raw, out=out, splits=["train", "test"], skip_broken=True)
    assert Pack(out).names == ["one", "two"]


def test_the_file_of_folds_has_a_checksum_of_each_pair(room):
    pack, out = room / "prepared/labelled.safetensors", room / "folds.csv"
    divide.run(ROAD, goal="detect", pack=pack, out=out, splits=["train", "test"], division={"by": "catalog"})
    first = out.read_text()
    assert folds.read_folds(out) == {"train": [f"s{n:02d}" for n in range(8)], "val": [], "test": ["s08", "s09"]}
    changed = scattered(10)
    changed[3]["boxes"][0, 1] += 0.01
    write_pack(pack, changed)
    divide.run(ROAD, goal="detect", pack=pack, out=out, splits=["train", "test"], division={"by": "catalog"})
    differing = [
        i for i, (x, y) in enumerate(zip(first.splitlines(), out.read_text().splitlines(), strict=True)) if x != y
    ]
    assert differing == [4]


@pytest.mark.mirror
@pytest.mark.parametrize(
    ("name", "protocol_name", "pairs"), [("msrs", "msrs_boxes", 181), ("openms", "openms_lesions", 215)]
)
def test_real_labels_can_be_used_and_scenes_are_apart(tmp_path, name, protocol_name, pairs):
    mirror = os.environ.get("MMFUSE_MIRROR")
    if not mirror:
        pytest.skip("MMFUSE_MIRROR is not set")
    entry = catalog.dataset(name, ROOT / "data/catalog.yaml", schema=ROOT / catalog.SCHEMA)
    block = load_parameters(ROOT / "workflow/configs/small_downstream.yaml")["downstream"][protocol_name]
    pack, out = tmp_path / "labelled.safetensors", tmp_path / "folds.csv"
    label.run(entry, raw=Path(mirror) / entry.mirror, out=pack, splits=block["splits"], skip_broken=False)
    divide.run(entry, pack=pack, out=out, **{key: block[key] for key in ("goal", "splits", "division")})
    found = folds.read_folds(out)
    assert sum(map(len, found.values())) == pairs
    scenes = {fold: {folds.scene_of(one, block["division"]["scene"]) for one in names} for fold, names in found.items()}
    assert not scenes["train"] & scenes["test"]
    kinds = {"msrs": {0, 1, 2}, "openms": {0, 1}}[name]
    places = {one: number for number, one in enumerate(Pack(pack).names)}
    for fold in ("train", "test"):  # every class can be learned and measured
        samples = [Pack(pack)[places[one]] for one in found[fold]]
        seen = [s["boxes"][:, 0] if name == "msrs" else s["mask"] for s in samples]
        assert {int(value) for one in seen for value in np.unique(one)} == kinds


# batches and models


def test_cuts_and_mirrors_move_labels_with_the_image():
    image, mask = np.zeros((64, 96, 3), np.uint8), np.zeros((64, 96), np.uint8)
    image[20:40, 30:50], mask[20:40, 30:50] = 255, 1
    one = Labelled("one", image, np.array([[30, 20, 50, 40]], np.float32), np.array([2]), mask)
    batches = Batches([one], {"batch": 6, "flip": True, "zoom": [0.6, 1.0]}, seed=0)
    torch.manual_seed(1)
    pixels, targets = batches.boxes(0)
    moved = set()
    for picture, target in zip(pixels, targets, strict=True):
        if len(target["boxes"]):
            left, top, right, bottom = target["boxes"][0].tolist()
            inside = picture[0, round(top) + 2 : round(bottom) - 2, round(left) + 2 : round(right) - 2]
            assert inside.min() > 0.9
            assert picture[0].sum() == pytest.approx((right - left) * (bottom - top), rel=0.1)
            assert target["labels"].tolist() == [2]
            moved.add(round(left))
    assert len(moved) > 2
    torch.manual_seed(1)
    pixels, masks = batches.masks(0)
    assert ((pixels[:, 0] > 0.5) == (masks == 1)).float().mean() > 0.98


def test_the_centre_detector_finds_what_it_was_shown():
    torch.manual_seed(0)
    model = CentreDetector(2, width=16)
    images = torch.zeros(2, 3, 64, 64)
    images[0, :, 8:24, 8:40], images[1, :1, 30:60, 20:44] = 1, 1
    targets = [
        {"boxes": torch.tensor([[8.0, 8, 40, 24]]), "labels": torch.tensor([0])},
        {"boxes": torch.tensor([[20.0, 30, 44, 60]]), "labels": torch.tensor([1])},
    ]
    optimiser = torch.optim.AdamW(model.parameters(), 0.005)
    for _ in range(60):
        optimiser.zero_grad()
        sum(model(images, targets).values()).backward()
        optimiser.step()
    model.eval()
    with torch.no_grad():
        for found, target in zip(model(images), targets, strict=True):
            assert found["labels"][0] == target["labels"][0]
            assert found["scores"][0] > 0.4
            assert (found["boxes"][0] - target["boxes"][0]).abs().max() < 4
        assert model(torch.rand(1, 3, 64, 96))[0]["boxes"].shape[1] == 4
    empty = {"boxes": torch.empty(0, 4), "labels": torch.empty(0, dtype=torch.int64)}
    losses = model.train()(images, [empty, empty])
    assert torch.isfinite(losses["heat"])
    assert losses["box"] == 0
    assert 0.8e6 < sum(p.numel() for p in CentreDetector(6).parameters()) < 1e6


def test_models_by_name_and_what_they_refuse(monkeypatch):
    small = {"height": 64, "width": 64, "pretrained": False, "options": {}}
    detector = models.build_detector("ssdlite", 3, **small)
    losses = detector(
        torch.rand(2, 3, 64, 64), [{"boxes": torch.tensor([[4.0, 4, 40, 40]]), "labels": torch.tensor([2])}] * 2
    )
    assert all(torch.isfinite(value) for value in losses.values())
    with torch.no_grad():
        found = detector.eval()(torch.rand(1, 3, 64, 64))[0]
    assert found["labels"].numel() == 0 or found["labels"].min() >= 0
    for name in ("small_deeplabv3plus", "deeplabv3_mobilenet_v3_large"):
        network = models.build_segmenter(name, 4, pretrained=False, options={}).eval()
        assert network(torch.rand(1, 3, 64, 96)).shape == (1, 4, 64, 96)
    with pytest.raises(UserError, match="no detector 'yolo'"):
        models.build_detector("yolo", 3, **small)
    with pytest.raises(UserError, match="no segmenter"):
        models.build_segmenter("unet", 3, pretrained=False, options={})
    with pytest.raises(UserError, match="does not take these options"):
        models.build_detector("centre", 3, **(small | {"options": {"wide": 3}}))

    with pytest.raises(UserError, match="cannot be built with norm 'layer'"):
        models.build_segmenter("small_deeplabv3plus", 3, pretrained=False, options={"norm": "layer"})
    with pytest.raises(UserError, match="norm 'group' and pretrained weights"):
        models.with_norm(torch.nn.Identity(), "group", pretrained=True)

    def offline(*_, **__):
        raise OSError("<urlopen error [Errno -3] Temporary failure in name resolution>")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(UserError, match="pretrained backbone") as error:
        models.build_segmenter("deeplabv3_mobilenet_v3_large", 3, pretrained=True, options={})
    assert "TORCH_HOME" in str(error.value)


def test_group_norm_makes_a_model_the_same_in_training_and_testing():
    """With batch norm what a network says of an image depends on the batch, and later on what it was trained with."""
    images = torch.rand(4, 3, 64, 96)
    for norm, alike in (("batch", False), ("group", True)):
        torch.manual_seed(0)
        network = models.build_segmenter("small_deeplabv3plus", 4, pretrained=False, options={"norm": norm})
        for module in network.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        with torch.no_grad():
            trained, tested = network.train()(images), network.eval()(images)
        assert torch.allclose(trained, tested, atol=1e-5) == alike
        assert torch.allclose(network.train()(images)[:2], network.train()(images[:2]), atol=1e-4) == alike
    detector = models.build_detector("centre", 3, height=64, width=64, pretrained=False, options={"norm": "group"})
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in detector.modules())


def test_segmentation_losses_by_hand_and_without_any_label():
    logits = torch.tensor([20.0, -20.0]).reshape(1, 2, 1, 1).repeat(1, 1, 2, 2)  # class 0 everywhere
    right = losses_of(logits, torch.zeros(1, 2, 2, dtype=torch.int64))
    assert right["cross_entropy"] < 1e-6
    assert right["dice"] == pytest.approx(0, abs=1e-6)
    half = torch.tensor([[[0, 0], [1, IGNORED]]])
    wrong = losses_of(logits, half)
    assert wrong["cross_entropy"] == pytest.approx(40 / 3)
    assert wrong["dice"] == pytest.approx(1 - (5 / 6 + 1 / 2) / 2)  # (2*2+1)/(3+2+1), (0+1)/(0+1+1)
    none = losses_of(logits.requires_grad_(), torch.full((1, 2, 2), IGNORED))
    sum(none.values()).backward()


# whole jobs


def test_a_detector_learns_and_repeats_itself(room):
    longer = TRAINING | {"steps": 60, "batch": 4}
    out, tracker = made(room, "detect", training=longer)
    summary, matched = results.read_detections(out)
    assert summary["results"]["a"]["mAP50"] > 0.5
    assert summary["results"]["a"]["mAP50"] == tracker.metrics["mAP50"]
    assert set(summary["results"]) == {"a", "b"}
    assert summary["results"]["a"]["AP50"]["Bus"] is None  # no bus in the test images
    assert results.detection_summary(matched, summary["classes"]) == summary["results"]["a"]
    assert np.mean(summary["curves"]["Car"]) == pytest.approx(summary["results"]["a"]["AP50"]["Car"])
    assert summary["folds"] == {"train": 8, "val": 0, "test": 2}
    assert [path.stem for path in with_end(out, ".pictures").iterdir()] == [name for name, _ in tracker.pictures]
    assert [row["step"] for row in tracker.rows] == list(range(1, 61))
    again, _ = made(room, "detect", name="again", training=longer)
    for end in (".json", ".csv"):
        assert with_end(again, end).read_bytes() == with_end(out, end).read_bytes()


def test_a_segmenter_learns_and_sees_fused_images(room):
    fused = room / "average.base.s0"
    for one in Pack(room / "prepared/labelled.safetensors"):
        write_image(fused / f"{one['name']}.png", one["a"])
    longer = TRAINING | {"steps": 30, "batch": 4, "learning_rate": 0.01}
    out, _ = made(room, "segment", own=fused.name, sources={"b": "b", fused.name: fused}, training=longer)
    summary, matrices = results.read_masks(out)
    assert summary["results"][fused.name]["IoU"]["car"] > 0.5
    assert summary["results"][fused.name]["IoU"]["person"] is None
    assert results.segmentation_summary(matrices.sum(0), summary["classes"]) == summary["results"][fused.name]
    assert matrices.sum() == 2 * 64 * 64
    (fused / "s09.png").unlink()
    with pytest.raises(UserError, match=r"s09\.png"):
        made(room, "segment", own=fused.name, sources={fused.name: fused})


@pytest.mark.parametrize("goal", ["detect", "segment"])
def test_a_killed_training_goes_on_and_ends_the_same(room, goal, monkeypatch):
    whole, _ = made(room, goal, name="whole")
    saved = training.save_state

    def killed(path, state):
        saved(path, state)
        if state["step"] == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(training, "save_state", killed)
    with pytest.raises(KeyboardInterrupt):
        made(room, goal, name="killed")
    assert load_state(room / "killed.pt")["step"] == 4
    assert not with_end(room / "killed", ".json").exists()
    monkeypatch.setattr(training, "save_state", saved)
    resumed, tracker = made(room, goal, name="killed")
    assert [row["step"] for row in tracker.rows] == [5, 6]
    for end in (".json", ".csv"):
        assert with_end(resumed, end).read_bytes() == with_end(whole, end).read_bytes()


def test_a_loss_that_is_no_number_stops_the_job(room):
    with pytest.raises(MmfuseError, match="not a finite number"):
        made(room, "segment", training=TRAINING | {"optimiser": "sgd", "learning_rate": 1e20})


def test_yolo_says_what_it_needs(room, monkeypatch):
    named = {"name": "yolov8n", "pretrained": False, "options": {}}
    monkeypatch.setattr("mmfuse.downstream.yolo.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"mmfuse\[yolo\]"):
        made(room, "detect", model=named)


def test_yolo_trains_offline_in_its_own_folder(room, monkeypatch):
    pytest.importorskip("ultralytics", reason="the optional extra mmfuse[yolo] is not installed")
    monkeypatch.chdir(room)
    named = {"name": "yolov8n", "pretrained": False, "options": {}}
    before = set(room.rglob("*"))
    out, tracker = made(room, "detect", model=named, training=TRAINING | {"steps": 8, "batch": 4})
    summary, _ = results.read_detections(out)
    assert summary["parameters"] > 1e6
    assert set(summary["results"]) == {"a", "b"}
    assert tracker.rows
    new = {path.relative_to(room).parts[0] for path in set(room.rglob("*")) - before}
    assert new <= {"a.seed0.json", "a.seed0.csv", "a.seed0.pictures", "a.seed0.yolo", "prepared"}


# the study


def test_the_plan_names_sets_files_and_what_a_job_depends_on():
    parameters = load_parameters(ROOT / "workflow/configs/demo.yaml")
    block = parameters["downstream"]["road_boxes"]
    labels_of = plan.image_sets(parameters, "road_boxes")
    assert list(labels_of)[:3] == ["a", "b", "average.base.s0"]
    assert labels_of["a"] is None
    assert len(plan.downstream_jobs(parameters)) == 2 * len(block["sets"]) * len(block["seeds"])
    key = {"protocol": "road_boxes", "set": "a", "seed": "0"}
    every = DETECT.inputs(parameters, key)["fused"]
    assert "data/fused/synthetic_road/labelled/average.base.s0" in every  # run on the others, so it needs them
    assert "downstream.road_boxes.sets" in DETECT.watched(parameters, {"protocol": "road_boxes"})
    block["transfer"] = False
    assert DETECT.inputs(parameters, key)["fused"] == []
    assert "downstream.road_boxes.sets" not in DETECT.watched(parameters, {"protocol": "road_boxes"})
    assert "reports/downstream/road_boxes/a.seed0.json" in report_inputs(parameters)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sets": ["a", "laplacian.other"]}, "which the study lacks"),
        ({"dataset": "tno"}, "not a dataset of the study"),
        ({"unlabelled": "class"}, "is required for segment"),
    ],
)
def test_a_protocol_names_what_the_study_has(project, parameters, change, words):
    parameters["downstream"]["road_boxes"] |= change
    (project / "params.yaml").write_text(yaml.safe_dump(parameters, sort_keys=False))
    with pytest.raises(UserError, match=words):
        load_parameters(project / "params.yaml")


def test_the_report_has_intervals_tests_and_transfer(room):
    from mmfuse.reporting import downstream
    from mmfuse.reporting.study import Study

    parameters = {
        "study": {"seeds": [0], "tasks": {"ivif": {"train": ["synthetic_road"], "test": ["synthetic_road"]}}},
        "methods": {},
        "downstream": {"tried": protocol("segment", seeds=[0, 1])},
        "report": {"width": 64},
    }
    for own in ("a", "b"):
        out, _ = made(
            room, "segment", own=own, name=f"reports/downstream/tried/{own}.seed0", training=TRAINING | {"steps": 12}
        )
        for end in (".json", ".csv", ".pictures"):
            source, target = with_end(out, end), out.with_name(f"{own}.seed1{end}")
            shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    catalog = {"synthetic_road": SimpleNamespace(roles={"a": "infrared", "b": "visible"})}
    study = Study(parameters, room, catalog, room / "none.csv", {}, {}, [])
    (page,) = downstream.pages(study)
    part = page.shown
    (first, cells), (second, _) = part["rows"]
    assert [first.title, second.title] == ["infrared alone", "visible alone"]
    stated = json.loads((room / "reports/downstream/tried/a.seed0.json").read_text())["results"]["a"]["mIoU"]
    assert cells[0].text == f"{stated:.3f}"
    low, high = (float(end) for end in cells[0].below[0].strip("[]").split(", "))
    assert low <= stated + 5e-4
    assert high >= stated - 5e-4
    assert cells[0].below[1] == "seeds ± 0.000"  # the second seed is a copy
    assert len(part["tests"]) == 1
    assert part["transfer"][0][1][0] == cells[0].text
    assert len(study.sheets["downstream.tried.csv"].splitlines()) == 1 + 2 * 2 * 2
    assert len(part["grid"]) == 1
    (room / "reports/downstream/tried/b.seed1.json").unlink()
    with pytest.raises(UserError, match="segment"):
        downstream.pages(replace(study, _seen={}))  # read anew
