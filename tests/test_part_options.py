"""Options of a training part: flips, turns, brightness, whole batches, which weights count, moments, averages."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from mmfuse.data.packs import Pack, write_pack
from mmfuse.errors import UserError
from mmfuse.files.reading import read_yaml
from mmfuse.methods.base import FusionMethod
from mmfuse.stages import train as stage
from mmfuse.study.parameters import load_parameters
from mmfuse.study.plan import System
from mmfuse.training.batches import TrainingPairs, validation_pairs
from mmfuse.training.checkpoints import WeightsCard, read_moments, read_weights, save_weights
from mmfuse.training.loop import make_fabric, step_count, train_part
from mmfuse.training.seeding import seed_everything
from test_training import BLOCK, LOOP

WHOLE = {"height": 40, "width": 48, "scale": None, "ratio": [1.0, 1.0]}
PLAIN = BLOCK | {"schedule": "constant", "optimiser": "adam", "crop": WHOLE, "flip": False}


# ------------------------------------------------------------------------------------------------------------- flips


@pytest.mark.parametrize(
    ("flips", "expected"),
    [
        ({"flip": False}, {(0, 0)}),
        ({"flip": True}, {(0, 0), (0, 1)}),
        ({"flip": False, "vertical_flip": True}, {(0, 0), (1, 0)}),
        ({"flip": True, "vertical_flip": True}, {(0, 0), (0, 1), (1, 0), (1, 1)}),
    ],
    ids=str,
)
def test_flips_are_independent_and_alike_in_a_pair_and_its_mask(tmp_path, flips, expected):
    seen = corners(tmp_path, WHOLE | {"width": 48}, **flips)
    assert set(seen) == expected
    assert min(seen.values()) > 200 / len(expected) * 0.6


def corners(folder, crop, **changes):
    """Count where 200 crops have the corner that is bright in both images and in the mask."""
    corner = np.zeros((crop["height"], crop["width"]), np.uint8)
    corner[0, 0] = 255
    write_pack(folder / "d/train.safetensors", [{"name": "p", "a": corner, "b": corner, "mask": corner // 255}])
    settings = {**PLAIN, "crop": crop, "batch": 1, **changes}
    pairs = TrainingPairs([Pack(folder / "d/train.safetensors")], settings, 0)
    pairs.masks = True
    seen = Counter()
    for step in range(200):
        seed_everything(0, step)
        a, b, mask = pairs.batch(step)
        assert torch.equal(a, b)
        assert torch.equal(a[0, 0], mask[0].float())
        ((row, column),) = a[0, 0].nonzero().tolist()
        seen[row // (crop["height"] - 1), column // (crop["width"] - 1)] += 1
    return seen


# ------------------------------------------------------------------------------------------------ turns and brightness


def test_quarter_turns_come_equally_often_and_alike_in_a_pair_and_its_mask(tmp_path):
    seen = corners(tmp_path, WHOLE | {"width": 40}, quarter_turns=True)
    assert set(seen) == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert min(seen.values()) > 30


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_brightness_changes_for_each_image_by_itself(tmp_path, share):
    half = np.full((40, 48), 64, np.uint8)
    write_pack(tmp_path / "d/train.safetensors", [{"name": "p", "a": half, "b": half}])
    jitter = {"share": share, "gamma": [0.5, 2.0], "gain": [0.8, 1.25]}
    pairs = TrainingPairs([Pack(tmp_path / "d/train.safetensors")], {**PLAIN, "batch": 1, "jitter": jitter}, 0)
    values = []
    for step in range(300):
        seed_everything(0, step)
        values.append([float(image.unique()) for image in pairs.batch(step)])  # one value: constant images stay so
    values = np.array(values)
    changed = values != np.float32(64 / 255)
    assert abs(changed.mean() - share) < 0.06
    assert abs((changed[:, 0] & changed[:, 1]).mean() - share**2) < 0.07, "the images of a pair are drawn apart"
    x = 64 / 255
    assert values.min() >= x**2 * 0.8 - 1e-6
    assert values.max() <= x**0.5 * 1.25 + 1e-6
    if share:
        middle = np.log(np.log(values[changed]) / np.log(x)).mean()
        assert abs(middle) < 0.1, "gamma and gain are drawn evenly by their logarithms"


def test_brightness_stays_in_range(tmp_path):
    write_pack(
        tmp_path / "d/train.safetensors",
        [{"name": "p", "a": bright, "b": bright} for bright in [np.full((40, 48), 250, np.uint8)]],
    )
    jitter = {"share": 1.0, "gamma": [0.5, 2.0], "gain": [1.5, 2.0]}
    pairs = TrainingPairs([Pack(tmp_path / "d/train.safetensors")], {**PLAIN, "jitter": jitter}, 0)
    assert all(float(image.max()) == 1 for image in pairs.batch(0))


def test_an_option_that_is_off_draws_nothing(make_pack):
    """Crops of older studies stay what they were."""
    pack = Pack(make_pack(3))
    batches = []
    for changes in ({}, {"vertical_flip": False}, {"quarter_turns": False}):
        seed_everything(0, 1)
        batches.append(TrainingPairs([pack], BLOCK | changes, 0).batch(0)[0])
    assert all(torch.equal(batches[0], other) for other in batches)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"quarter_turns": True, "crop": {"height": 32, "width": 48, "scale": None, "ratio": [1.0, 1.0]}},
            "not square",
        ),
        ({"averaging": 0.99, "keep_moments": True, "weights": "last"}, "do not belong to its weights"),
        ({"averaging": 1.0}, "averaging"),
        ({"jitter": {"share": 0.5, "gamma": [0.0, 1.0], "gain": [1.0, 1.0]}}, "jitter"),
        ({"jitter": {"share": 0.5, "gamma": [0.5, 1.0]}}, "gain"),
    ],
    ids=str,
)
def test_options_that_do_not_go_together_are_refused(project, changes, says):
    values = read_yaml(project / "params.yaml")
    values["methods"]["lkc_funet"]["parts"]["net"] |= changes
    (project / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    with pytest.raises(UserError, match=says):
        load_parameters(project / "params.yaml")


# ------------------------------------------------------------------------------------------------------- whole batches


def test_the_last_incomplete_batch_of_an_epoch_is_dropped(make_pack):
    pairs = TrainingPairs([Pack(make_pack(5))], PLAIN | {"drop_last": True}, 0)
    drawn = [[pairs._position(2 * step + k) for k in (0, 1)] for step in range(40)]
    epochs = [{*drawn[step], *drawn[step + 1]} for step in range(0, 40, 2)]
    assert all(len(epoch) == 4 for epoch in epochs), "no pair twice in an epoch"
    assert len({frozenset(range(5)) - epoch for epoch in epochs}) > 2, "not always the same one is left out"


@pytest.mark.parametrize(
    ("pairs", "batch", "epochs", "steps"), [(40, 32, 1000, 1000), (1083, 32, 1000, 33_000), (64, 32, 3, 6)]
)
def test_steps_of_whole_batches(pairs, batch, epochs, steps):
    assert step_count({"epochs": epochs, "batch": batch, "drop_last": True}, pairs) == steps
    assert step_count({"epochs": epochs, "batch": batch}, pairs) == -(-epochs * pairs // batch)


def test_fewer_pairs_than_a_batch_are_refused(make_pack):
    pairs = TrainingPairs([Pack(make_pack(3))], PLAIN | {"batch": 4, "drop_last": True}, 0)
    with pytest.raises(UserError, match="too few training pairs for one batch"):
        pairs.batch(0)
    with pytest.raises(UserError, match="too few training pairs for one batch"):
        step_count({"epochs": 1, "batch": 4, "drop_last": True}, 3)


# ------------------------------------------------------------------------------------------ an optimiser that goes on


class _TwoParts(FusionMethod):
    """One layer that both parts train; the second has a layer of its own besides."""

    parts = ("first", "second")
    loss_terms = {"first": ("mse",), "second": ("mse",)}  # noqa: RUF012 - as in a method

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.shared, self.own = nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 1)

    def part_modules(self, part):
        return {"shared": self.shared} | ({"own": self.own} if part == "second" else {})

    def part_outputs(self, part, a, b):  # noqa: ARG002 - a method's signature
        return {"fused": self.shared(a)}

    def part_terms(self, part, outputs, a, b):  # noqa: ARG002
        return {"mse": (outputs["fused"] - b).square().mean()}


class _SameBatch(TrainingPairs):
    """The same batch at every step, so that what comes after a step depends on weights and moments alone."""

    def batch(self, step):  # noqa: ARG002
        return super().batch(0)


@pytest.fixture
def train(make_pack, tmp_path):
    pack, fabric = Pack(make_pack(2)), make_fabric(LOOP)

    def run(method, part, *, moments=None, on_rows=lambda _: None, loop=None, **changes):
        settings = {**PLAIN, "weights": "last", **changes}
        return train_part(
            fabric, method, part, settings=settings, loop=LOOP | (loop or {}), pairs=_SameBatch([pack], settings, 0),
            validation=[], seed=0, resume=tmp_path / "resume.pt", fingerprint=part, on_rows=on_rows, moments=moments,
        )  # fmt: skip

    return run


def shared(outcome):
    return {key: value for key, value in outcome.last.items() if key.startswith("shared")}


def test_a_part_that_goes_on_with_the_moments_is_one_long_training(train, tmp_path):
    """Six steps, or three and three: equal to the last bit with the moments, and not without them."""
    whole = shared(train(_TwoParts(), "first", steps=6))

    def in_two(*, kept: bool):
        method = _TwoParts()
        first = train(method, "first", steps=3, keep_moments=kept)
        path = tmp_path / "first.safetensors"
        card = WeightsCard("toy", "base", "ivif", 0, "first", {}, complete=False)
        save_weights(path, first.last | first.moments, card)
        assert read_weights(path)[0].keys() == first.last.keys(), "moments are no weights"
        moments = read_moments(path) if kept else None
        return shared(train(method, "second", steps=3, moments=moments))

    assert all(torch.equal(value, whole[key]) for key, value in in_two(kept=True).items())
    assert not all(torch.equal(value, whole[key]) for key, value in in_two(kept=False).items())


def test_a_killed_part_resumes_its_own_moments(train):
    whole = shared(train(_TwoParts(), "first", steps=6))
    method = _TwoParts()
    first = train(method, "first", steps=3, keep_moments=True)
    killed = []

    def kill(_rows):
        if not killed:
            killed.append(True)
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        train(method, "second", steps=3, moments=first.moments, on_rows=kill, loop={"save_every": 2})
    again = _TwoParts()
    again.load_state_dict(first.last, strict=False)
    resumed = train(again, "second", steps=3, moments=first.moments, loop={"save_every": 2})
    assert all(torch.equal(value, whole[key]) for key, value in shared(resumed).items())


def test_weights_without_moments_cannot_be_gone_on_with(train, tmp_path):
    method = _TwoParts()
    path = tmp_path / "first.safetensors"
    outcome = train(method, "first", steps=1)
    save_weights(path, outcome.last, WeightsCard("toy", "base", "ivif", 0, "first", {}, complete=False))
    with pytest.raises(UserError, match="no optimiser moments"):
        read_moments(path)
    with pytest.raises(UserError, match="No parameter of this part has moments"):
        train(method, "second", steps=1, moments={"optimiser.step.elsewhere": torch.ones(())})


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        ({"weights": "last"}, {"moments": "continued"}, "does not keep"),
        ({"keep_moments": True}, {"moments": "continued"}, "do not belong to its weights"),
        ({"moments": "continued"}, {}, "does not keep"),
        ({"weights": "last", "keep_moments": True}, {"moments": "continued"}, None),
    ],
    ids=str,
)
def test_moments_are_checked_with_the_parameters(project, first, second, says):
    values = read_yaml(project / "params.yaml")
    parts = values["methods"]["smfnet"]["parts"]
    parts["reconstruction"] |= first
    parts["fusion"] |= second
    (project / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    if says is None:
        assert load_parameters(project / "params.yaml") == values
        return
    with pytest.raises(UserError, match=says):
        load_parameters(project / "params.yaml")


# ------------------------------------------------------------------------------------------------- averaged weights


def test_the_average_is_the_recurrence_over_the_weights_of_every_step(train):
    """Against an average of the weights that trainings of 1, 2, ... steps end with; torch's own is the reference."""
    whole = {"schedule": "constant", "loop": {"save_every": 100}}  # nothing to resume from
    one_by_one = [train(_TwoParts(), "first", steps=steps, **whole).last for steps in range(1, 7)]
    averaged = train(_TwoParts(), "first", steps=6, averaging=0.4, **whole).last
    network = _TwoParts()
    network.load_state_dict(one_by_one[0], strict=False)
    reference = torch.optim.swa_utils.AveragedModel(
        network, avg_fn=lambda old, new, count: old + (1 - min(0.4, (count + 1) / (count + 10))) * (new - old)
    )
    for weights in one_by_one:
        network.load_state_dict(weights, strict=False)
        reference.update_parameters(network)
    for key, value in averaged.items():
        torch.testing.assert_close(value, dict(reference.module.state_dict())[key], rtol=1e-6, atol=1e-7)
        assert not torch.equal(value, one_by_one[-1][key])


def test_a_killed_part_resumes_its_average(train):
    whole = train(_TwoParts(), "first", steps=6, averaging=0.9).last
    killed = []

    def kill(_rows):
        if not killed:
            killed.append(True)
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        train(_TwoParts(), "first", steps=6, averaging=0.9, on_rows=kill, loop={"save_every": 2})
    resumed = train(_TwoParts(), "first", steps=6, averaging=0.9, loop={"save_every": 2}).last
    assert all(torch.equal(value, whole[key]) for key, value in resumed.items())


def test_the_average_is_what_is_validated(make_pack, tmp_path):
    """The best loss is that of the averaged weights, and training goes on with its own."""
    pack, fabric = Pack(make_pack(2)), make_fabric(LOOP)

    def run(**changes):
        method, settings = _TwoParts(), {**PLAIN, "steps": 6, "learning_rate": 0.3, **changes}
        outcome = train_part(
            fabric, method, "first", settings=settings, loop=LOOP, pairs=_SameBatch([pack], settings, 0),
            validation=validation_pairs([pack], 2, 32), seed=0, resume=tmp_path / str(changes), fingerprint="first",
            on_rows=lambda _: None,
        )  # fmt: skip
        return method, outcome

    plain, averaged = run(), run(averaging=0.95)
    assert all(torch.equal(*pair) for pair in zip(plain[0].parameters(), averaged[0].parameters(), strict=True))
    method, outcome = averaged
    method.load_state_dict(outcome.last, strict=False)
    with torch.no_grad():
        losses = [method.part_losses("first", *pair, {"mse": 1.0})["mse"] for pair in validation_pairs([pack], 2, 32)]
    assert outcome.history[-1]["val/total"] == pytest.approx(float(torch.stack(losses).mean()), rel=1e-6)


# --------------------------------------------------------------------------------------------------- which weights


class _Silent:
    """A tracker that keeps nothing."""

    def __getattr__(self, name):  # noqa: ANN204
        return lambda *_, **__: None


@pytest.mark.parametrize("keep", [None, "best", "last"])
def test_the_result_holds_the_weights_that_were_asked_for(make_pack, tmp_path, parameters, keep):
    block = parameters["methods"]["lkc_funet"]
    fast = {"steps": 5, "learning_rate": 1.0, "schedule": "constant", "crop": WHOLE | {"height": 32, "width": 32}}
    part = block["parts"]["net"] | fast
    block = {"network": block["network"], "parts": {"net": part | ({"weights": keep} if keep else {})}}
    out = tmp_path / "net.safetensors"
    stage.run(
        System("lkc_funet", "base", "ivif", 0), "net", settings=block, loop={**LOOP, "validate_every": 1},
        train=[make_pack(4)], val=[make_pack(2, name="val")], start=[], out=out, resume=tmp_path / "state.pt",
        running=SimpleNamespace(tracker=_Silent(), fingerprint="job"),
    )  # fmt: skip
    result, last = (read_weights(path)[0] for path in (out, out.with_suffix(".last.safetensors")))
    equal = all(torch.equal(value, last[key]) for key, value in result.items())
    history = np.genfromtxt(out.with_suffix(".history.csv"), delimiter=",", names=True)
    assert history["valtotal"].argmin() < 4, "so fast a training is not best at its end"
    assert equal == (keep == "last")
