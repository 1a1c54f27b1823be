"""The training loop: batches, schedules, validation, and a killed job that ends as if it had never been killed."""

from __future__ import annotations

import copy
import dataclasses
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.transforms import RandomCrop

from mmfuse.data.packs import Pack, write_pack
from mmfuse.errors import MmfuseError, UserError
from mmfuse.stages import crop
from mmfuse.stages.train import _pictured, _write
from mmfuse.training import loop as training
from mmfuse.training.batches import TrainingPairs, validation_pairs
from mmfuse.training.checkpoints import WeightsCard, build, load_state, read_weights, save_state
from mmfuse.training.loop import learning_rate, make_fabric, step_count, train_part
from mmfuse.training.seeding import derived_seed, seed_everything

BLOCK = {
    "steps": 6, "batch": 2, "crop": {"height": 32, "width": 32, "scale": [0.35, 1.0], "ratio": [0.75, 1.3333]},
    "flip": True, "optimiser": "adamw", "learning_rate": 0.01, "weight_decay": 0.005, "schedule": "cosine",
    "warmup": 0, "clip": None, "loss": {"mse": 1.0},
}  # fmt: skip
LOOP = {
    "accelerator": "cpu", "devices": 1, "precision": "auto", "threads": 1, "log_every": 1, "save_every": 3,
    "validate_every": 2, "validation_images": 2, "validation_side": 32,
}  # fmt: skip


@pytest.fixture(scope="module")
def fabric():
    return make_fabric(LOOP)


@pytest.fixture
def train(fabric, make_pack, tmp_path):
    """Train one part of a small MMA-UNet; every call has fresh objects and shares the resume state."""
    packs = [Pack(make_pack(5)), Pack(make_pack(3, name="more"))]

    def run(
        part="vi_unet",
        *,
        method=None,
        first_weights=0,
        on_rows=lambda _: None,
        fingerprint="job",
        loop=None,
        look=None,
        validation=None,
        **k,
    ):
        if method is None:
            torch.manual_seed(first_weights)
            method = build("mma_unet", {"width": 4})
        settings = {**BLOCK, **k}
        settings["loss"] = dict.fromkeys(method.loss_terms[part], 1.0)
        return train_part(
            run.fabric, method, part, settings=settings, loop={**LOOP, **(loop or {})},
            pairs=TrainingPairs(packs, settings, 0), seed=0,
            validation=validation_pairs(packs, 2, 32) if validation is None else validation,
            resume=tmp_path / "resume/state.pt", fingerprint=fingerprint, on_rows=on_rows,
            on_validation=look or (lambda _: None),
        )  # fmt: skip

    run.fabric = fabric
    return run


def same(one, other):
    """Whether two outcomes agree in every bit."""
    for weights, expected in ((one.best, other.best), (one.last, other.last)):
        assert weights.keys() == expected.keys()
        for key, value in weights.items():
            assert torch.equal(value, expected[key]), key
    assert one.best_step == other.best_step
    assert one.history == other.history


# ------------------------------------------------------------------------------------------------------------ seeds


def test_seeds_depend_on_every_word():
    seeds = {derived_seed(*words) for words in [(0, 0, 5), (0, 1, 5), (0, 0, 6), (1, 0, 5), (0, 5, 1)]}
    assert len(seeds) == 5
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derived_seed(0, 0, 5) == derived_seed(0, 0, 5)


def test_seeding_everything():
    draws = []
    for seed in (3, 3, 4):
        seed_everything(seed, 7)
        draws.append((torch.rand(()).item(), np.random.rand()))  # noqa: NPY002 - the global generator is the point
    assert draws[0] == draws[1]
    assert draws[0][0] != draws[2][0]
    assert draws[0][1] != draws[2][1]


# ---------------------------------------------------------------------------------------------------------- batches


def test_every_epoch_visits_each_pair_once_in_a_new_order(make_pack):
    packs = [Pack(make_pack(5)), Pack(make_pack(4, name="more"))]
    pairs = TrainingPairs(packs, BLOCK, 0)
    assert len(pairs) == 9
    epochs = [[pairs._position(epoch * 9 + k) for k in range(9)] for epoch in range(3)]
    assert all(sorted(order) == list(range(9)) for order in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    # neither the way there nor another object changes an order; another seed does
    assert [TrainingPairs(packs, BLOCK, 0)._position(9 + k) for k in range(9)] == epochs[1]
    assert [TrainingPairs(packs, BLOCK, 1)._position(k) for k in range(9)] != epochs[0]


def test_the_pairs_of_a_repeated_dataset_come_more_often(make_pack, tmp_path):
    paths = [tmp_path / name / "train.safetensors" for name in ("large", "little")]
    for path, count in zip(paths, (5, 2), strict=True):
        path.parent.mkdir()
        shutil.copy(make_pack(count), path)
    pairs = TrainingPairs([Pack(path) for path in paths], BLOCK | {"repeat": {"little": 3}}, 0)
    drawn = [pairs.index[pairs._position(k)] for k in range(11)]
    counts = Counter((pack.path.parent.name, number) for pack, number in drawn)
    assert counts == {("large", n): 1 for n in range(5)} | {("little", n): 3 for n in range(2)}


def placed(make_pack, tmp_path, dataset, count, file="train"):
    """Return a pack of as many pairs where `prepare` would write it."""
    path = tmp_path / dataset / f"{file}.safetensors"
    path.parent.mkdir(exist_ok=True)
    shutil.copy(make_pack(count, 96, 96), path)
    return path


def test_a_number_of_pairs_is_spread_over_the_names_of_a_dataset(make_pack, tmp_path):
    packs = [Pack(placed(make_pack, tmp_path, name, count)) for name, count in (("large", 9), ("little", 2))]
    pairs = TrainingPairs(packs, BLOCK, 0, {"large": 4})
    assert [(pack.path.parent.name, pack.names[number]) for pack, number in pairs.index] == [
        ("large", "p0"), ("large", "p2"), ("large", "p4"), ("large", "p6"), ("little", "p0"), ("little", "p1"),
    ]  # fmt: skip
    assert TrainingPairs(packs, BLOCK, 0, {"large": 9}).index == TrainingPairs(packs, BLOCK, 0).index
    repeated = TrainingPairs(packs, BLOCK | {"repeat": {"large": 2}}, 0, {"large": 4})
    assert len(repeated) == 2 * 4 + 2
    with pytest.raises(UserError, match=r"little(.|\n)*fewer pairs(.|\n)*at least 3(.|\n)*found: +2"):
        TrainingPairs(packs, BLOCK, 0, {"little": 3})


def test_the_patches_of_a_chosen_pair_come_together(make_pack, tmp_path):
    out = tmp_path / "large/patches.square.safetensors"
    square = {"height": 32, "width": 32, "stride": 32, "random": None, "low_contrast": None, "box_visible": 0.5}
    crop.run(pack=placed(make_pack, tmp_path, "large", 5), out=out, patches=square)
    pack = Pack(out)
    assert len(pack) == 5 * 9
    chosen = [pack.names[number] for _, number in TrainingPairs([pack], BLOCK, 0, {"large": 2}).index]
    corners = [f"{top},{left}" for top in (0, 32, 64) for left in (0, 32, 64)]
    assert chosen == [f"{name}@{corner}" for name in ("p0", "p2") for corner in corners]


def test_without_validation_pairs_the_last_weights_count(train):
    looked = []
    outcome = train(validation=[], weights="last", look=looked.append)
    assert outcome.best_step == 6
    assert not looked
    assert all(torch.equal(outcome.best[key], value) for key, value in outcome.last.items())
    assert [row["step"] for row in outcome.history] == [1, 2, 3, 4, 5, 6]
    assert not any(key.startswith("val/") for row in outcome.history for key in row)
    validated = train(weights="last", fingerprint="another job")
    assert all(torch.equal(outcome.last[key], value) for key, value in validated.last.items()), (
        "validation changed the training"
    )


def test_a_batch_depends_on_its_step_alone(make_pack):
    pairs = TrainingPairs([Pack(make_pack(5))], BLOCK, 0)
    seen = []
    for step in (0, 1, 2, 1, 0):
        seed_everything(0, step)
        seen.append(pairs.batch(step))
    for one, other in ((0, 4), (1, 3)):
        assert all(torch.equal(x, y) for x, y in zip(seen[one], seen[other], strict=True))
    assert not torch.equal(seen[0][0], seen[1][0])
    a, b = seen[0]
    assert a.shape == b.shape == (2, 1, 32, 32)
    assert a.dtype == torch.float32
    assert 0 <= a.min() < a.max() <= 1


def negatives(tmp_path, height=40, width=52):
    """A pack whose second image is the first one's negative, and whose first image tells every place."""
    rows, columns = np.mgrid[:height, :width]
    a = (rows * 4 + columns).astype(np.uint8)
    write_pack(tmp_path / "negatives", [{"name": "x", "a": a, "b": 255 - a}])
    return a, Pack(tmp_path / "negatives")


@pytest.mark.parametrize("scale", [None, [0.2, 1.0]])
def test_both_images_are_cropped_alike(tmp_path, scale):
    _, pack = negatives(tmp_path)
    crop = {"height": 16, "width": 32, "scale": scale, "ratio": [0.5, 2.0]}
    pairs = TrainingPairs([pack], {**BLOCK, "crop": crop, "batch": 20}, 0)
    torch.manual_seed(0)
    a, b = pairs.batch(0)
    assert a.shape == (20, 1, 16, 32)
    assert torch.allclose(a + b, torch.ones_like(a), atol=1e-6)
    assert len({tuple(crop.flatten().tolist()) for crop in a}) > 15, "crops and mirroring vary"


@pytest.mark.parametrize("scale", [None, [0.2, 0.6]])
def test_a_mask_is_cropped_with_its_images(tmp_path, scale):
    a = np.zeros((40, 52), np.uint8)
    a[10:30, 20:40] = 255
    write_pack(tmp_path / "masked", [{"name": "x", "a": a, "b": a, "mask": a // 85}])
    crop = {"height": 24, "width": 32, "scale": scale, "ratio": [0.75, 1.5]}
    pack = Pack(tmp_path / "masked")
    pairs = TrainingPairs([pack], {**BLOCK, "crop": crop, "batch": 20}, 0)
    torch.manual_seed(0)
    plain = pairs.batch(0)
    pairs.masks = True
    torch.manual_seed(0)
    images, _, mask = pairs.batch(0)
    assert torch.equal(images, plain[0]), "the masks change no crop"
    assert (mask.shape, mask.dtype) == ((20, 24, 32), torch.int64)
    assert set(mask.unique().tolist()) == {0, 3}
    assert ((images[:, 0] > 0.5) == (mask == 3)).float().mean() > (0.999 if scale is None else 0.97)
    (images, _, mask) = validation_pairs([pack], 1, 64, masks=True)[0]
    assert torch.equal(images[0] * 3, mask.float())


def test_a_pair_without_mask_is_named(make_pack):
    pairs = TrainingPairs([Pack(make_pack(2))], BLOCK, 0)
    pairs.masks = True
    with pytest.raises(UserError, match=r"p\d in .* has no mask"):
        pairs.batch(0)


def test_crops_without_scale_are_pieces_of_the_image(tmp_path):
    whole, pack = negatives(tmp_path)
    crop = {"height": 16, "width": 24, "scale": None, "ratio": [1.0, 1.0]}
    for flip in (False, True):
        torch.manual_seed(0)
        a, _ = TrainingPairs([pack], {**BLOCK, "crop": crop, "batch": 30, "flip": flip}, 0).batch(0)
        pieces = np.rint(a[:, 0].numpy() * 255).astype(np.uint8)
        mirrored = 0
        for piece in pieces:
            backwards = int(piece[0, 1]) < int(piece[0, 0])
            mirrored += backwards
            straight = piece[:, ::-1] if backwards else piece
            hits = np.lib.stride_tricks.sliding_window_view(whole, (16, 24)) == straight
            assert hits.all(axis=(2, 3)).any()
        assert (5 < mirrored < 25) if flip else mirrored == 0


def test_crops_are_drawn_as_torchvision_draws_them(tmp_path):
    whole, pack = negatives(tmp_path)
    crop = {"height": 16, "width": 24, "scale": None, "ratio": [1.0, 1.0]}
    torch.manual_seed(4)
    a, _ = TrainingPairs([pack], {**BLOCK, "crop": crop, "batch": 3, "flip": False}, 0).batch(0)
    torch.manual_seed(4)
    expected = torch.stack([RandomCrop((16, 24))(torch.from_numpy(whole)[None]) for _ in range(3)])
    assert torch.equal(a, expected / 255)


def test_images_smaller_than_the_crop(tmp_path):
    _, pack = negatives(tmp_path, 20, 20)
    crop = {"height": 32, "width": 16, "scale": None, "ratio": [1.0, 1.0]}
    with pytest.raises(UserError, match="smaller than the crop") as caught:
        TrainingPairs([pack], {**BLOCK, "crop": crop}, 0).batch(0)
    assert "20 x 20" in str(caught.value)
    resized, _ = TrainingPairs([pack], {**BLOCK, "crop": {**crop, "scale": [0.5, 1.0]}}, 0).batch(0)
    assert resized.shape == (2, 1, 32, 16)


def test_nothing_to_train_on(tmp_path):
    write_pack(tmp_path / "empty", [])
    with pytest.raises(UserError, match="no training pairs") as caught:
        TrainingPairs([Pack(tmp_path / "empty")], BLOCK, 0)
    assert str(tmp_path / "empty") in str(caught.value)


def test_validation_pairs(make_pack):
    packs = [Pack(make_pack(3, 40, 70)), Pack(make_pack(4, 100, 33, name="more"))]
    shapes = [tuple(a.shape) for a, _ in validation_pairs(packs, 99, 64)]
    assert shapes == [(1, 1, 32, 64)] * 3 + [(1, 1, 64, 32)] * 4
    chosen = validation_pairs(packs, 3, 64)
    assert len(chosen) == 3
    everything = validation_pairs(packs, 7, 64)
    for (a, b), expected in zip(chosen, (0, 2, 4), strict=True):
        assert torch.equal(a, everything[expected][0])
        assert torch.equal(b, everything[expected][1])
    whole = torch.from_numpy(packs[0][0]["a"].copy()).float() / 255
    assert torch.equal(everything[0][0][0, 0], whole[4:36, 3:67])  # cut centrally
    assert validation_pairs([], 3, 64) == []


def test_steps_and_epochs():
    assert step_count({"steps": 7, "batch": 4}, 100) == 7
    assert step_count({"epochs": 3, "batch": 4}, 10) == 8  # 30 pairs in batches of 4
    assert step_count({"epochs": 0.5, "batch": 4}, 8) == 1


def test_learning_rates():
    constant = {"learning_rate": 0.1, "warmup": 0, "schedule": "constant"}
    assert [learning_rate(step, 10, constant) for step in range(10)] == [0.1] * 10
    warm = {**constant, "warmup": 4}
    assert [learning_rate(step, 10, warm) for step in range(6)] == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1, 0.1])
    cosine = {"learning_rate": 0.1, "warmup": 2, "schedule": "cosine"}
    rates = [learning_rate(step, 10, cosine) for step in range(10)]
    assert rates[:3] == pytest.approx([0.05, 0.1, 0.1])
    assert rates[6] == pytest.approx(0.05)  # half-way
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert rates[9] == pytest.approx(0.05 * (1 + math.cos(math.pi * 7 / 8)))
    assert learning_rate(3, 3, {**cosine, "warmup": 3}) == pytest.approx(0.1)  # nothing but warm-up
    falling = {**constant, "schedule": {"step_epochs": 20, "factor": 0.5, "floor": 0.02, "ahead": 0}}
    rates = [learning_rate(9, 10, falling, epoch) for epoch in (0, 19.99, 20, 39, 40, 60, 999)]
    assert rates == pytest.approx([0.1, 0.1, 0.05, 0.05, 0.025, 0.02, 0.02])
    assert learning_rate(1, 10, {**falling, "warmup": 4}, 20) == pytest.approx(0.05)


# --------------------------------------------------------------------------------------------------------- the loop


def test_the_loss_falls(train):
    outcome = train(steps=30, loop={"validate_every": 10, "save_every": 100})
    losses = [row["val/total"] for row in outcome.history if "val/total" in row]
    assert len(losses) == 3
    assert losses[-1] < 0.5 * losses[0]
    assert outcome.history[-1]["train/total"] < 0.5 * outcome.history[0]["train/total"]


@pytest.mark.parametrize("part", ["vi_unet", "ir_unet", "fusion"])
def test_a_part_trains_its_own_modules_alone(train, part):
    method = build("mma_unet", {"width": 4})
    before = copy.deepcopy(method.state_dict())
    outcome = train(part, method=method, steps=2)
    after = method.state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert {key.partition(".")[0] for key in changed} == {part}
    assert outcome.last.keys() == {key for key in after if key.startswith(f"{part}.")}
    assert all(torch.equal(value, after[key]) for key, value in outcome.last.items())


def test_history_rows(train):
    seen = []
    outcome = train(on_rows=seen.extend, loop={"log_every": 2, "validate_every": 3, "save_every": 2})
    assert [row["step"] for row in outcome.history] == [2, 3, 4, 6]
    assert [("val/total" in row) for row in outcome.history] == [False, True, False, True]
    assert seen == outcome.history
    for row in outcome.history:
        assert row["train/total"] == pytest.approx(row["train/mse"])
    assert outcome.history[0]["lr"] == pytest.approx(learning_rate(1, 6, BLOCK))


def test_a_file_gets_plain_lines_with_the_losses(train, capsys):
    train()
    said = capsys.readouterr().err
    assert "\r" not in said
    assert re.fullmatch(r"vi_unet: 6 of 6 steps, loss=\d\S*, validation=\d\S*, 00:\d\d passed, 00:00 left\n", said), (
        said
    )


def test_a_terminal_shows_step_losses_and_remaining_time(train, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    train()
    assert re.search(
        r"\rvi_unet: 100%\|.*\| 6/6 \[00:\d\d<00:00,.*, loss=\d\S*, validation=\d\S*", capsys.readouterr().err
    )


def test_a_slurm_that_is_not_used_is_no_reason_to_warn(tmp_path, monkeypatch, recwarn):
    (tmp_path / "srun").touch(mode=0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for name in [name for name in os.environ if name.startswith("SLURM")]:
        monkeypatch.delenv(name)
    from lightning_fabric import Fabric

    Fabric(accelerator="cpu", devices=1)
    assert "srun" in str(recwarn.pop().message), "it would"
    make_fabric(LOOP)
    assert not [str(warning.message) for warning in recwarn]


def test_the_weights_with_the_smallest_validation_loss_are_kept(train, monkeypatch):
    method = build("mma_unet", {"width": 4})
    scripted, weights = iter([3.0, 1.0, 1.0, 2.0]), []

    def validate(*_):
        weights.append({f"vi_unet.{key}": value.clone() for key, value in method.vi_unet.state_dict().items()})
        return {"val/total": next(scripted)}

    monkeypatch.setattr(training, "_validate", validate)
    outcome = train(method=method, steps=4, loop={"validate_every": 1})
    assert outcome.best_step == 2
    assert all(torch.equal(outcome.best[key], value) for key, value in weights[1].items())
    assert not all(torch.equal(outcome.last[key], value) for key, value in weights[1].items())


def test_validation_changes_nothing(train):
    often, once = (train(loop={"validate_every": n, "save_every": 100}) for n in (1, 6))
    assert all(torch.equal(value, once.last[key]) for key, value in often.last.items())


def test_after_a_validation_the_method_can_be_looked_at_and_trains_on(train):
    method, seen = build("mma_unet", {"width": 4}), []

    def look(step):
        seen.append((step, method.vi_unet.training))

    train(method=method, steps=5, loop={"validate_every": 2}, look=look)
    assert seen == [(2, False), (4, False), (5, False)]
    assert method.vi_unet.training


@pytest.mark.parametrize(
    ("steps", "wanted", "shown"),
    [(10, 0, set()), (10, 1, {10}), (10, 2, {6, 10}), (9, 2, {6, 9}), (10, 99, {2, 4, 6, 8, 10})],
)
def test_pictures_are_spread_over_the_validations(steps, wanted, shown):
    assert _pictured(steps, {"validate_every": 2, "pictures": wanted}) == shown
    assert _pictured(steps, {"validate_every": 2}) == set()


def test_validation_uses_the_running_statistics(train, make_pack):
    """The last validation loss is that of the last weights in eval mode."""
    method = build("mma_unet", {"width": 4})
    outcome = train(method=method, steps=3)
    pairs = validation_pairs([Pack(make_pack(5)), Pack(make_pack(3, name="more"))], 2, 32)
    method.eval()
    with torch.no_grad():
        losses = [method.part_losses("vi_unet", a, b, {"mse": 1.0})["mse"].item() for a, b in pairs]
    assert outcome.history[-1]["val/total"] == pytest.approx(np.mean(losses), rel=1e-6)


def test_the_gradient_is_clipped(train):
    free, clipped = (train(clip=clip, optimiser="adam", weight_decay=0, steps=1) for clip in (None, 1e-9))
    assert not all(torch.equal(value, clipped.last[key]) for key, value in free.last.items())


def test_a_falling_rate_counts_epochs(train):
    """Eight pairs in batches of two: an epoch is four steps."""
    falling = {"step_epochs": 1, "factor": 0.5, "floor": 0.003, "ahead": 5}
    outcome = train(schedule=falling, steps=10)
    assert [row["lr"] for row in outcome.history] == pytest.approx([0.01] * 4 + [0.005] * 4 + [0.003] * 2)


def test_only_modules_that_were_trained_before_are_ahead_and_each_is_clipped_by_itself(train, monkeypatch):
    method = build("mma_unet", {"width": 4})
    encoder, fusion = method.vi_unet.encoder, method.fusion
    method.part_modules = lambda part: {"encoder": encoder} | ({"fusion": fusion} if part == "fusion" else {})
    seen = []

    def step(self):
        norms = [torch.stack([p.grad.norm() for p in group["params"]]).norm().item() for group in self.param_groups]
        seen.append((norms, [group["lr"] for group in self.param_groups]))

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    falling = {"step_epochs": 10, "factor": 0.5, "floor": 0, "ahead": 20}
    train("fusion", method=method, schedule=falling, clip=0.001, steps=1)
    assert seen == [(pytest.approx([0.001] * 2, rel=1e-2), pytest.approx([0.01 / 4, 0.01]))]


@pytest.mark.parametrize("part", ["vi_unet", "fusion"])
def test_best_and_last_weights_are_written_apart(train, tmp_path, part):
    method = build("mma_unet", {"width": 4})
    outcome = train(part, method=method, steps=2)
    best = {key: torch.full_like(value, 2) for key, value in outcome.last.items()}
    card = WeightsCard("mma_unet", "base", "ivif", 0, part, {"width": 4}, complete=part == "fusion")
    _write(method, dataclasses.replace(outcome, best=best), card, tmp_path / "w.safetensors")
    (found, found_card), (last, _) = (read_weights(tmp_path / f"w{end}safetensors") for end in (".", ".last."))
    assert found_card == card
    assert found.keys() == last.keys()
    assert all(torch.equal(found[key], value) for key, value in best.items())
    assert all(torch.equal(last[key], value) for key, value in outcome.last.items())
    encoders = {key.partition(".")[0] for key in found.keys() - best.keys()}
    assert encoders == ({"vi_unet", "ir_unet"} if card.complete else set())
    assert "step,lr,train/total" in (tmp_path / "w.history.csv").read_text(encoding="utf-8")


@pytest.mark.parametrize("part", ["vi_unet", "ir_unet", "fusion"])
def test_bf16_on_a_processor_has_the_losses_of_fp32(part, train, monkeypatch):
    """The same initial weights and batches, for a few steps, with losses in fp32."""
    half = make_fabric({**LOOP, "precision": "bf16-mixed"})
    dtypes = set()
    layer = torch.nn.Conv2d._conv_forward

    def look(self, image, weight, bias):
        found = layer(self, image, weight, bias)
        dtypes.add(found.dtype)
        return found

    monkeypatch.setattr(torch.nn.Conv2d, "_conv_forward", look)
    single = train(part, steps=4, learning_rate=1e-3)
    assert dtypes == {torch.float32}
    monkeypatch.setattr(train, "fabric", half)
    other = train(part, steps=4, learning_rate=1e-3, fingerprint="bf16")
    assert torch.bfloat16 in dtypes
    for row, expected in zip(other.history, single.history, strict=True):
        assert row["train/total"] == pytest.approx(expected["train/total"], rel=0.05)
        assert row["train/total"] != expected["train/total"]
    assert all(value.dtype != torch.bfloat16 for value in other.best.values())


# ------------------------------------------------------------------------------------------- killed and going on


class KilledError(Exception):
    """Stands for a crash."""


@pytest.mark.parametrize("part", ["vi_unet", "fusion"])
def test_a_crashed_training_ends_with_the_same_bits(train, tmp_path, part):
    whole = train(part, fingerprint="uninterrupted")
    rows = []

    def crash(new):
        rows.extend(new)
        raise KilledError

    with pytest.raises(KilledError):
        train(part, on_rows=crash)
    assert load_state(tmp_path / "resume/state.pt")["step"] == 3
    again = train(part, on_rows=rows.extend)
    same(again, whole)
    assert rows == whole.history, "each row is logged once"


def test_a_resumed_training_takes_everything_from_the_state(train):
    """Other first weights make no difference, so nothing is trained anew."""
    whole = train(fingerprint="uninterrupted")

    def crash(_):
        raise KilledError

    with pytest.raises(KilledError):
        train(on_rows=crash)
    same(train(first_weights=99), whole)


def test_sigterm_saves_and_stops_after_the_step(train, tmp_path, monkeypatch):
    whole = train(fingerprint="uninterrupted")
    handler = signal.getsignal(signal.SIGTERM)
    calls, one_step = [], training._one_step

    def killed_in_the_second_step(*arguments):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return one_step(*arguments)

    monkeypatch.setattr(training, "_one_step", killed_in_the_second_step)
    with pytest.raises(MmfuseError, match="stop after step 2 of 6; run the same command"):
        train(loop={"save_every": 100})
    assert signal.getsignal(signal.SIGTERM) is handler
    assert load_state(tmp_path / "resume/state.pt")["step"] == 2
    same(train(), whole)


SCRIPT = """
import os, signal, sys
from pathlib import Path
import torch
from mmfuse.training import batches
from mmfuse.training import loop as training
from mmfuse.training.checkpoints import build
from mmfuse.data.packs import Pack

block, loop, resume, packs = eval(sys.argv[1])
torch.manual_seed(0)
method = build("mma_unet", {"width": 4})
packs = [Pack(Path(path)) for path in packs]
fabric = training.make_fabric(loop)
training.train_part(
    fabric, method, "vi_unet", settings=block, loop=loop, pairs=batches.TrainingPairs(packs, block, 0),
    validation=batches.validation_pairs(packs, 2, 32), seed=0, resume=Path(resume), fingerprint="job",
    on_rows=lambda rows: os.kill(os.getpid(), signal.SIGKILL),
)
"""


def test_a_process_that_was_killed_hard_is_gone_on_with_in_another(train, tmp_path, make_pack):
    packs = [str(make_pack(5)), str(make_pack(3, name="more"))]
    argument = repr((BLOCK, LOOP, str(tmp_path / "resume/state.pt"), packs))
    run = subprocess.run([sys.executable, "-c", SCRIPT, argument], capture_output=True, text=True, check=False)
    assert run.returncode == -signal.SIGKILL, run.stderr
    assert load_state(tmp_path / "resume/state.pt")["step"] == 3
    resumed = train(first_weights=99)
    (tmp_path / "resume/state.pt").unlink()
    same(resumed, train())


def test_a_state_of_another_job_is_ignored(train, tmp_path):
    whole = train(loop={"save_every": 100})

    def crash(_):
        raise KilledError

    with pytest.raises(KilledError):
        train(on_rows=crash, fingerprint="another", learning_rate=0.5)
    assert load_state(tmp_path / "resume/state.pt")["fingerprint"] == "another"
    same(train(loop={"save_every": 100}), whole)


@pytest.mark.parametrize("damage", [lambda _: b"", lambda good: good[: len(good) // 2], lambda _: b"garbage" * 99])
def test_a_damaged_state_starts_again(train, tmp_path, damage):
    whole = train()
    path = tmp_path / "resume/state.pt"
    path.write_bytes(damage(path.read_bytes()))
    same(train(), whole)


def test_a_state_runs_no_code(tmp_path):
    class Evil:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"fingerprint": Evil()}, tmp_path / "state.pt")
    assert load_state(tmp_path / "state.pt") is None
    assert not (tmp_path / "ran").exists()


# ------------------------------------------------------------------------------------------------ not a number


def test_a_loss_that_is_no_number_stops_and_leaves_the_earlier_state(train, tmp_path, monkeypatch):
    whole = train(fingerprint="uninterrupted")
    batch = TrainingPairs.batch

    def damaged(self, step):
        a, b = batch(self, step)
        return a, b * (float("nan") if step == 4 else 1)

    monkeypatch.setattr(TrainingPairs, "batch", damaged)
    with pytest.raises(MmfuseError, match="step 4: the training loss is not a finite number") as caught:
        train()
    assert "mse" in str(caught.value)
    assert "learning rate" in str(caught.value)
    assert load_state(tmp_path / "resume/state.pt")["step"] == 3
    monkeypatch.undo()
    same(train(), whole)


def test_an_infinite_learning_rate_stops(train):
    with pytest.raises(MmfuseError, match="not a finite number"):
        train(learning_rate=math.inf, schedule="constant", loop={"validate_every": 100})


def test_weights_that_broke_in_the_last_step_are_not_handed_on(train):
    with pytest.raises(MmfuseError, match="not a finite number"):
        train(learning_rate=math.inf, schedule="constant", steps=1)


def test_states_are_written_whole(tmp_path, monkeypatch):
    save_state(tmp_path / "s.pt", {"fingerprint": "job", "step": 1})

    def half(_state, stream):
        stream.write(b"half")
        raise KilledError

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(KilledError):
        save_state(tmp_path / "s.pt", {"fingerprint": "job", "step": 2})
    assert load_state(tmp_path / "s.pt") == {"fingerprint": "job", "step": 1}
