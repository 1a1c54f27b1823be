"""MMA-UNet's level pairings that are not made by hand: adaptive (found by CKA) and learned (trained along)."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from mmfuse.errors import UserError
from mmfuse.methods.mma_unet import PAPER_PAIRING
from mmfuse.nn.cka import best_pairing
from mmfuse.nn.level_fusion import LevelFusion, SoftLevelFusion
from mmfuse.stages import train as stage
from mmfuse.study import plan
from mmfuse.study.parameters import load_parameters
from mmfuse.study.plan import System
from mmfuse.study.settings import network_options
from mmfuse.training.checkpoints import WeightsCard, build, load_method, read_weights, save_weights, weights_of
from mmfuse.training.loop import prepare_part

ROOT = Path(__file__).parents[1]


def pair(height: int, width: int, batch: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    a, b = torch.rand(2, batch, 1, height, width, generator=torch.Generator().manual_seed(seed))
    return a, b


def network(seed: int = 0, **options):
    torch.manual_seed(seed)
    return build("mma_unet", {"width": 2} | options).eval()


# ------------------------------------------------------------------------------------------------------- adaptive


class Silent:
    """What a training is given to report to."""

    def log_rows(self, rows):
        """Take the losses."""

    def log_metrics(self, values):
        """Take numbers."""

    def log_picture(self, name, pixels, **_):
        """Take a picture."""


@pytest.fixture
def settings(parameters):
    block = plan.settings_of(parameters, "mma_unet", "base")
    block["network"]["width"] = 2
    for part in block["parts"].values():
        part |= {"steps": 1, "batch": 4}
    block["parts"]["fusion"]["network"]["pairing"] = "adaptive"
    block["parts"]["fusion"]["survey"] = 2
    return block


@pytest.fixture
def stage_one(tmp_path, settings):
    """Weights of both encoders, as stage I leaves them."""
    paths, net = [], network(channels=3)
    for part in ("vi_unet", "ir_unet"):
        card = WeightsCard("mma_unet", "base", "ivif", 0, part, network_options(settings, part), complete=False)
        paths.append(tmp_path / f"{part}.safetensors")
        save_weights(paths[-1], weights_of(net.part_modules(part)), card)
    return paths


@pytest.fixture
def train(make_pack, tmp_path, settings, stage_one, parameters):
    def run(part="fusion", start=stage_one, changed=settings, out="fusion", seed=0):
        loop = parameters["train"] | {"validate_every": 1, "validation_images": 1}
        stage.run(
            System("mma_unet", "adaptive", "ivif", seed), part, settings=changed, loop=loop, train=[make_pack(6)],
            val=[make_pack(2, name="val")], start=start, out=tmp_path / f"{out}.safetensors",
            resume=tmp_path / "resume" / f"{out}.pt", running=SimpleNamespace(tracker=Silent(), fingerprint=out),
        )  # fmt: skip
        return tmp_path / f"{out}.safetensors"

    return run


def test_the_pairing_is_found_once_and_stands_in_the_weights(train, settings, stage_one):
    path = train()
    found = read_weights(path)[1].network["pairing"]
    assert len(found) == 4
    assert train(out="again").read_bytes() == path.read_bytes()
    loaded, _ = load_method(path)
    assert loaded.fusion.pairing == [tuple(levels) for levels in found]
    assert loaded(*pair(33, 40, 1)).isfinite().all()
    # a later part takes it from there: without a survey nothing could find it again
    joint = copy.deepcopy(settings)
    joint["parts"]["joint"] = copy.deepcopy(joint["parts"]["fusion"])
    for block in (joint["parts"]["fusion"], joint["parts"]["joint"]):
        block.pop("survey")
    joint["parts"]["joint"].pop("network")
    later = train("joint", [*stage_one, path], joint, "joint")
    assert read_weights(later)[1].network["pairing"] == found


def test_the_rule_is_applied_to_the_trained_encoders(monkeypatch):
    seen = []

    def spy(similarity, pairs):
        seen.append((similarity, pairs))
        return best_pairing(similarity, pairs)

    monkeypatch.setattr("mmfuse.methods.mma_unet.best_pairing", spy)
    net, batches = network(), [pair(32, 48, seed=seed) for seed in range(3)]
    found = net.found_options(["pairing"], batches)
    assert found == net.found_options(["pairing"], batches)
    assert json.dumps(found), "weights say it in JSON"
    (similarity, pairs), _ = seen
    assert (similarity.shape, pairs) == ((5, 5), 4)
    # an infrared encoder that is the visible one, on the same images, is most like it at its own levels
    twin = network(guidance=False)
    twin.ir_unet.load_state_dict(twin.vi_unet.state_dict())
    same = [(a, a) for a, _ in batches]
    pairing = twin.found_options(["pairing"], same)["pairing"]
    assert all(v == i for v, i in pairing)
    with pytest.raises(UserError, match="larger batches"):
        net.found_options(["pairing"], [pair(32, 32, batch=3)])


def test_what_cannot_be_found_is_refused(train, settings):
    without = copy.deepcopy(settings)
    without["parts"]["fusion"].pop("survey")
    with pytest.raises(UserError, match="The number of images from which to find pairing"):
        train(changed=without)
    settings["parts"]["fusion"]["network"] |= {"attention": "adaptive", "pairing": [[1, 2]]}
    with pytest.raises(UserError, match="cannot determine attention automatically"):
        train()
    with pytest.raises(UserError, match="pairing of levels"):
        network(pairing="adaptive")


# -------------------------------------------------------------------------------------------------------- learned


def test_one_certain_pair_makes_a_soft_level_a_plain_one():
    torch.manual_seed(0)
    soft = SoftLevelFusion(3, 2, deep=True).eval()
    visible, infrared = ([torch.rand(1, 2 * 2**n, 32 // 2**n, 32 // 2**n) for n in range(5)] for _ in range(2))
    assert sorted(soft.pairs) == [(1, 3), (2, 3), (3, 1), (3, 2), (3, 3)]
    for number, (v, i) in enumerate(soft.pairs):
        plain = LevelFusion(v, i, 2, deep=True)
        plain.attention.load_state_dict(soft.attention.state_dict())
        plain.visible.load_state_dict(soft.visible[v - 1].state_dict())
        plain.infrared.load_state_dict(soft.infrared[i - 1].state_dict())
        with torch.no_grad():
            soft.choice.fill_(-100)[number] = 100
            assert torch.allclose(soft(visible, infrared), plain(visible[v - 1], infrared[i - 1]), atol=1e-6)


def test_learned_weights_get_gradients_and_move():
    net = network(pairing="learned")
    trained = prepare_part(net, "fusion")
    optimiser = torch.optim.SGD(trained, lr=1.0)
    losses = net.part_losses("fusion", *pair(32, 48), {"mse": 1.0, "ssim": 0.5, "detail": 1.0})
    sum(losses.values()).backward()
    choices = [level.choice for level in net.fusion.pairs]
    assert [len(choice) for choice in choices] == [3, 5, 7, 9]
    assert all(choice.grad.abs().max() > 0 for choice in choices)
    assert all(parameter.grad is not None for parameter in trained)
    assert all(p.grad is None for p in net.vi_unet.parameters())
    before = net.fusion.pair_weights()
    assert before[0] == pytest.approx({"1-2": 1 / 3, "2-1": 1 / 3, "2-2": 1 / 3})
    optimiser.step()
    after = net.fusion.pair_weights()
    assert all(sum(level.values()) == pytest.approx(1) for level in after)
    assert after != before


def test_learned_weights_are_kept_with_the_network(tmp_path):
    net = network(pairing="learned")
    with torch.no_grad():
        for level in net.fusion.pairs:
            level.choice.copy_(torch.randn(len(level.choice)))
    card = WeightsCard("mma_unet", "learned", "ivif", 0, "fusion", {"width": 2, "pairing": "learned"}, complete=True)
    save_weights(tmp_path / "w", weights_of(net.deployed_modules()), card)
    loaded, _ = load_method(tmp_path / "w")
    assert loaded.fusion.pair_weights() == net.fusion.pair_weights()
    a, b = pair(33, 40, 2)
    with torch.no_grad():
        assert torch.equal(loaded(a, b), net(a, b))


def test_a_pairing_by_hand_counts_wholly():
    weights = network().fusion.pair_weights()
    assert weights == [{f"{v}-{i}": 1.0} for v, i in PAPER_PAIRING]


# --------------------------------------------------------------------------------------------------- the study


def test_the_variants_of_table_4():
    parameters = yaml.safe_load((ROOT / "workflow/configs/small_mma.yaml").read_text())
    load_parameters(ROOT / "workflow/configs/small_mma.yaml")
    found = {}
    for variant in parameters["methods"]["mma_unet"]["variants"]:
        settings = plan.settings_of(parameters, "mma_unet", variant)
        options = network_options(settings)
        origins = [plan.origin(parameters, "mma_unet", variant, part) for part in settings["parts"]]
        found[variant] = (options["guidance"], options["pairing"], origins)
    paper, base = [list(levels) for levels in PAPER_PAIRING], ["base", "base"]
    unguided = ["base", "e3"]
    assert found == {
        "base": (True, paper, [*base, "base"]),
        "e3": (False, paper, [*unguided, "e3"]),
        "e2_shallow": (False, [[1, 1], [2, 2], [3, 3], [4, 4]], [*unguided, "e2_shallow"]),
        "e2_deep": (False, [[2, 2], [3, 3], [4, 4], [5, 5]], [*unguided, "e2_deep"]),
        "e4": (True, [[1, 3], [2, 4], [3, 5]], [*base, "e4"]),
        "e5": (True, [[2, 1], [3, 2], [4, 3], [5, 4]], [*base, "e5"]),
        "adaptive": (True, "adaptive", [*base, "adaptive"]),
        "learned": (True, "learned", [*base, "learned"]),
    }
    named = {entry["variant"] for entry in parameters["study"]["systems"] if entry["method"] == "mma_unet"}
    assert named == set(found)
    seeds = len(parameters["study"]["seeds"])
    medical = [
        entry for entry in parameters["study"]["systems"] if entry["method"] == "mma_unet" and "mif" in entry["tasks"]
    ]
    # stage I on each task: one visible network, one infrared with guidance and one without
    assert len(plan.trainings(parameters)) == seeds * (3 + len(found) + 3 + len(medical))
