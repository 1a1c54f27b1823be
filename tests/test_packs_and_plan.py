"""Packs of image pairs, and the study's plan: systems, shared parts, paths, what a job depends on."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from mmfuse.data.packs import Pack, write_pack
from mmfuse.errors import UserError
from mmfuse.study import plan
from mmfuse.study.plan import System
from mmfuse.study.settings import merged
from mmfuse.study.stages import STAGES, TRAIN, complete_weights, report_inputs

# ------------------------------------------------------------------------------------------------------------ packs


def samples(image):
    boxes = np.array([[1, 0.5, 0.25, 0.1, 0.2], [0, 0.1, 0.9, 0.05, 0.05]], np.float32)
    return [
        {"name": "grey", "a": image(1, 17, 23), "b": image(2, 17, 23)},
        {"name": "cölour 1", "a": image(3, 20, 9), "b": image(4, 20, 9, colour=True), "boxes": boxes},
        {
            "name": "labels",
            "a": image(5, 16, 16),
            "b": image(6, 16, 16),
            "mask": (image(7, 16, 16) % 9).astype(np.uint8),
            "boxes": np.empty((0, 5), np.float32),
        },
    ]


def test_a_pack_gives_back_what_was_written(tmp_path, image):
    wanted = samples(image)
    write_pack(tmp_path / "x.safetensors", wanted)
    pack = Pack(tmp_path / "x.safetensors")
    assert len(pack) == 3
    assert pack.names == ["grey", "cölour 1", "labels"]
    for sample, expected in zip(pack, wanted, strict=True):
        assert sample.keys() == expected.keys()
        assert sample["name"] == expected["name"]
        for key in sample.keys() - {"name"}:
            assert sample[key].dtype == expected[key].dtype
            assert np.array_equal(sample[key], expected[key])


def test_arrays_are_read_only_views(tmp_path, image):
    write_pack(tmp_path / "x.safetensors", samples(image))
    array = Pack(tmp_path / "x.safetensors")[1]["b"]
    assert not array.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        array[0, 0] = 1


def test_cut_outs_and_generators_can_be_packed(tmp_path, image):
    whole = image(1, 30, 30)
    write_pack(tmp_path / "x.safetensors", ({"name": f"{n}", "a": whole[n:, ::-1], "b": whole[n:]} for n in range(3)))
    pack = Pack(tmp_path / "x.safetensors")
    assert np.array_equal(pack[2]["a"], whole[2:, ::-1])
    with pytest.raises(IndexError):
        pack[3]
    with pytest.raises(IndexError):
        pack[-1]


def test_equal_samples_give_equal_bytes(tmp_path, image):
    for name in ("x", "y"):
        write_pack(tmp_path / name, samples(image))
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()


def test_more_than_ten_samples_keep_their_order(tmp_path, image):
    write_pack(tmp_path / "x", [{"name": f"{n}", "a": image(n, 16, 17), "b": image(n, 16, 17)} for n in range(25)])
    pack = Pack(tmp_path / "x")
    assert [sample["name"] for sample in pack] == [f"{n}" for n in range(25)]
    assert all(np.array_equal(pack[n]["a"], image(n, 16, 17)) for n in range(25))


def test_writing_holds_one_sample_at_a_time(tmp_path):
    size = 100_000

    def drawn():
        for n in range(50):
            yield {"name": f"{n}", "a": np.full((1, size), n, np.uint8), "b": np.full((1, size), 255 - n, np.uint8)}

    tracemalloc.start()
    write_pack(tmp_path / "x", drawn())
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 10 * size
    assert [int(sample["a"][0, -1]) + int(sample["b"][0, 0]) for sample in Pack(tmp_path / "x")] == [255] * 50
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_an_error_among_the_samples_leaves_no_pack(tmp_path):
    with pytest.raises(ZeroDivisionError):
        write_pack(tmp_path / "x", ({"name": "x", "a": np.zeros((1, n // n), np.uint8)} for n in (1, 0)))
    assert list(tmp_path.iterdir()) == []


def test_an_empty_pack(tmp_path):
    write_pack(tmp_path / "x", [])
    assert len(Pack(tmp_path / "x")) == 0
    assert list(Pack(tmp_path / "x")) == []


def test_a_missing_or_damaged_pack_is_named(tmp_path, image):
    with pytest.raises(UserError, match="Pack not found"):
        Pack(tmp_path / "none")
    write_pack(tmp_path / "x", samples(image))
    good = (tmp_path / "x").read_bytes()
    for number, bad in enumerate([b"", b"garbage", good[:100], good[:-10], b"\xff" * len(good), b"\0" * len(good)]):
        (tmp_path / f"bad{number}").write_bytes(bad)
        with pytest.raises(UserError, match=f"Not a readable pack: .*bad{number}"):
            Pack(tmp_path / f"bad{number}")


def test_another_safetensors_file_is_no_pack(tmp_path):
    from safetensors.numpy import save_file

    save_file({"x": np.zeros(3, np.float32)}, tmp_path / "x")
    with pytest.raises(UserError, match="Not a readable pack"):
        Pack(tmp_path / "x")


# ------------------------------------------------------------------------------------------------------------- plan


@pytest.fixture
def study(parameters):
    """Two seeds; MMA-UNet with a variant of the last part, one of an earlier part and one of the whole network."""
    parameters["study"]["seeds"] = [0, 7]
    parameters["methods"]["mma_unet"]["variants"] = {
        "base": {},
        "late": {"parts": {"fusion": {"loss": {"ssim": 0.0}}}},
        "early": {"parts": {"ir_unet": {"network": {"guidance": False}}}},
        "wide": {"network": {"width": 8}},
    }
    parameters["study"]["systems"] = [
        {"method": "average", "variant": "base", "tasks": ["ivif", "mif"]},
        *({"method": "mma_unet", "variant": v, "tasks": ["ivif"]} for v in ("base", "late", "early", "wide")),
    ]
    return parameters


def test_systems_and_seeds(study):
    labels = [system.label for system in plan.systems_of(study, "ivif")]
    assert labels == ["average.base.s0"] + [
        f"mma_unet.{v}.s{s}" for v, s in itertools.product(("base", "late", "early", "wide"), (0, 7))
    ]
    assert plan.systems_of(study, "mif") == [System("average", "base", "mif", 0)]


def test_a_variant_is_laid_over_block_by_block(study):
    base, late = (plan.settings_of(study, "mma_unet", variant) for variant in ("base", "late"))
    assert "variants" not in base
    assert late["parts"]["fusion"]["loss"] == {**base["parts"]["fusion"]["loss"], "ssim": 0.0}
    late["parts"]["fusion"]["loss"]["ssim"] = 0.5
    assert late == base
    assert study["methods"]["mma_unet"]["parts"]["fusion"]["loss"]["ssim"] == 0.5, "the parameters were changed"
    with pytest.raises(UserError, match="'none' of mma_unet") as caught:
        plan.settings_of(study, "mma_unet", "none")
    assert "late" in str(caught.value)


def test_merging():
    base = {"a": {"b": 1, "c": [1, 2]}, "d": None}
    before = copy.deepcopy(base)
    assert merged(base, {"a": {"c": [3]}, "d": {"e": 1}, "f": 2}) == {
        "a": {"b": 1, "c": [3]}, "d": {"e": 1}, "f": 2,
    }  # fmt: skip
    assert merged(base, {"a": None}) == {"a": None, "d": None}
    assert base == before


@pytest.mark.parametrize(
    ("variant", "own"),
    [
        ("base", []),
        ("late", ["fusion"]),
        ("early", ["ir_unet", "fusion"]),
        ("wide", ["vi_unet", "ir_unet", "fusion"]),
    ],
)
def test_variants_share_the_parts_in_which_they_do_not_differ(study, variant, own):
    for part in ("vi_unet", "ir_unet", "fusion"):
        expected = variant if part in own else "base"
        assert plan.origin(study, "mma_unet", variant, part) == expected
        found = plan.training_of(study, System("mma_unet", variant, "ivif", 7), part)
        assert found == plan.Training("ivif", "mma_unet", expected, 7, part)


def test_variants_share_with_each_other_what_base_does_not_have(study):
    """MMA-UNet's Table 4: one unguided IR-UNet for E2 with both pairings and E3; guided ones are base's."""
    unguided = {"ir_unet": {"network": {"guidance": False}}}
    study["methods"]["mma_unet"]["variants"] = {
        "e2a": {"parts": unguided | {"fusion": {"network": {"pairing": [[1, 1], [2, 2]]}}}},
        "base": {},
        "e3": {"parts": unguided},
        "e3_again": {"parts": {"ir_unet": {"network": {"guidance": False}}, "fusion": {}}},
        "e4": {"parts": {"ir_unet": {"network": {"guidance": True}}, "fusion": {"network": {"pairing": [[1, 3]]}}}},
        "slow": {"parts": unguided | {"vi_unet": {"steps": 7}}},
    }
    found = {
        variant: [plan.origin(study, "mma_unet", variant, part) for part in ("vi_unet", "ir_unet", "fusion")]
        for variant in study["methods"]["mma_unet"]["variants"]
    }
    assert found == {
        "e2a": ["base", "e2a", "e2a"],
        "base": ["base", "base", "base"],
        "e3": ["base", "e2a", "e3"],
        "e3_again": ["base", "e2a", "e3"],
        "e4": ["base", "base", "e4"],
        "slow": ["slow", "slow", "slow"],
    }
    study["study"]["systems"] = [{"method": "mma_unet", "variant": v, "tasks": ["ivif"]} for v in ("e3", "e4")]
    study["study"]["seeds"] = [0]
    assert [(training.variant, training.part) for training in plan.trainings(study)] == [
        ("base", "vi_unet"), ("e2a", "ir_unet"), ("e3", "fusion"), ("base", "ir_unet"), ("e4", "fusion"),
    ]  # fmt: skip


def test_weights_of_one_task_serve_another_without_a_training_of_their_own(study):
    """SMFNet's Table 4: what was trained on infrared-visible pairs, applied to medical ones."""
    study["methods"]["mma_unet"]["variants"]["from_ivif"] = {"trained_on": "ivif"}
    study["study"]["systems"] = [
        {"method": "mma_unet", "variant": "base", "tasks": ["ivif", "mif"]},
        {"method": "mma_unet", "variant": "from_ivif", "tasks": ["mif"]},
    ]
    study["study"]["seeds"] = [3]
    assert {training.trained_on for training in plan.trainings(study)} == {"ivif", "mif"}
    assert len(plan.trainings(study)) == 6, "the transferred system trains nothing"
    weights = complete_weights(study, System("mma_unet", "from_ivif", "mif", 3))
    assert weights == Path("data/checkpoints/ivif/mma_unet/base/s3/fusion.safetensors")
    del study["study"]["systems"][0]
    assert {(one.trained_on, one.variant) for one in plan.trainings(study)} == {("ivif", "base")}


@pytest.fixture
def sets(study):
    """Three training sets beside those of the tasks, of which one method uses two and another one the third."""
    study["study"]["seeds"] = [0]
    study["study"]["tasks"]["ivif"] = {"train": ["synthetic_road"], "test": ["synthetic_road", "tno"]}
    study["study"]["training_sets"] = {
        "night": {"task": "ivif", "train": ["msrs"], "val": []},
        "both": {"task": "ivif", "train": ["m3fd", "msrs"], "val": ["roadscene"], "pairs": {"m3fd": 7}},
        "forty": {"task": "mif", "train": ["harvard_ct_mri"], "val": ["harvard_ct_mri"]},
    }
    study["methods"]["lkc_funet"]["trained_on"] = {"ivif": "night"}
    study["methods"]["mma_unet"]["trained_on"] = {"ivif": "both", "mif": "forty"}
    study["methods"]["mma_unet"]["variants"] = {
        "base": {},
        "late": {"trained_on": {"ivif": "night"}, "parts": {"fusion": {"loss": {"ssim": 0.0}}}},
        "own": {"trained_on": "ivif"},
    }
    study["study"]["systems"] = [
        {"method": "average", "variant": "base", "tasks": ["ivif", "mif"]},
        {"method": "lkc_funet", "variant": "base", "tasks": ["ivif", "mif"]},
        {"method": "mma_unet", "variant": "base", "tasks": ["ivif", "mif"]},
        {"method": "mma_unet", "variant": "late", "tasks": ["ivif", "mif"]},
        {"method": "mma_unet", "variant": "own", "tasks": ["mif"]},
    ]
    return study


def test_each_system_is_trained_on_its_own_set(sets):
    chosen = {
        (system.method, system.variant, task): plan.trained_on(sets, system.method, system.variant, task)
        for task in ("ivif", "mif")
        for system in plan.systems_of(sets, task)
        if system.method != "average"
    }
    assert chosen == {
        ("lkc_funet", "base", "ivif"): "night",
        ("lkc_funet", "base", "mif"): "mif",
        ("mma_unet", "base", "ivif"): "both",
        ("mma_unet", "base", "mif"): "forty",
        ("mma_unet", "late", "ivif"): "night",
        ("mma_unet", "late", "mif"): "forty",  # the variant changes one task alone
        ("mma_unet", "own", "mif"): "ivif",  # trained on the pairs of a task, applied to the other's
    }


def stem(training):
    """Return where a training's weights lie, below the folder of all of them."""
    path = TRAIN.path("best", dataclasses.asdict(training))
    return path.removeprefix("data/checkpoints/").removesuffix(".safetensors")


def test_weights_lie_below_the_name_of_their_training_set(sets):
    found = {stem(training) for training in plan.trainings(sets)}
    units = ("vi_unet", "ir_unet")
    assert found == {
        "night/lkc_funet/base/s0/net",
        "mif/lkc_funet/base/s0/net",
        *(f"both/mma_unet/base/s0/{part}" for part in (*units, "fusion")),
        *(f"forty/mma_unet/base/s0/{part}" for part in (*units, "fusion")),
        *(f"night/mma_unet/base/s0/{part}" for part in units),  # what `late` shares with `base`, on its own pairs
        "night/mma_unet/late/s0/fusion",
        "forty/mma_unet/late/s0/fusion",
        *(f"ivif/mma_unet/base/s0/{part}" for part in (*units, "fusion")),
    }
    assert len(plan.trainings(sets)) == len(found)
    shared = {task: plan.training_of(sets, System("mma_unet", "late", task, 0), "vi_unet") for task in ("ivif", "mif")}
    assert stem(shared["ivif"]) == "night/mma_unet/base/s0/vi_unet"
    assert stem(shared["mif"]) == "forty/mma_unet/base/s0/vi_unet"
    # what a training starts from comes from its own set, whichever set the variant that it shares with has
    late = plan.Training("night", "mma_unet", "late", 0, "fusion")
    assert plan.earlier_trainings(sets, late)[0] == shared["ivif"]


def test_a_training_reads_the_packs_of_its_set(sets):
    packs = {}
    for training in plan.trainings(sets):
        reads = TRAIN.inputs(sets, dataclasses.asdict(training))
        reads = [reads["train"], reads["val"]]
        packs[training.trained_on] = [[path.replace("data/prepared/", "p/") for path in paths] for paths in reads]
    assert packs == {
        "night": [["p/msrs/train.safetensors"], []],
        "both": [["p/m3fd/train.safetensors", "p/msrs/train.safetensors"], ["p/roadscene/val.safetensors"]],
        "forty": [["p/harvard_ct_mri/train.safetensors"], ["p/harvard_ct_mri/val.safetensors"]],
        "ivif": [["p/synthetic_road/train.safetensors"], ["p/synthetic_road/val.safetensors"]],
        "mif": [["p/synthetic_brain/train.safetensors"], ["p/synthetic_brain/val.safetensors"]],
    }
    assert plan.datasets_of(sets) == [
        "synthetic_road", "tno", "synthetic_brain", "msrs", "m3fd", "roadscene", "harvard_ct_mri",
    ]  # fmt: skip
    assert plan.task_of(sets, "roadscene") == "ivif"
    assert plan.task_of(sets, "harvard_ct_mri") == "mif"
    files = report_inputs(sets)
    assert len(files) == len(set(files))
    assert {"data/prepared/m3fd/pairs.csv", "data/checkpoints/night/lkc_funet/base/s0/net.run.json"} <= set(files)


def test_a_changed_training_set_reruns_the_trainings_that_use_it_and_no_other(sets):
    def rerun(change):
        return {
            stem(training)
            for training in plan.trainings(sets)
            if changes(sets, "train", change, **dataclasses.asdict(training))
        }

    of = {
        name: {stem(one) for one in plan.trainings(sets) if one.trained_on == name} for name in ("night", "ivif", "mif")
    }
    assert rerun(lambda p: p["study"]["training_sets"]["night"].update(pairs={"msrs": 4})) == of["night"]
    assert rerun(lambda p: p["study"]["tasks"]["ivif"].update(train=["msrs"])) == of["ivif"]
    assert rerun(lambda p: p["study"]["tasks"]["mif"]["train"].append("harvard_ct_mri")) == of["mif"]
    assert rerun(lambda p: p["study"]["tasks"]["ivif"].update(test=["msrs"])) == set()
    assert rerun(lambda p: p["study"]["training_sets"].update(more=p["study"]["training_sets"]["night"])) == set()


def test_images_fused_with_the_weights_of_another_set_are_refused(sets, project):
    """What DVC leaves in place where a system's training set changed and dvc.yaml was not written anew."""
    from mmfuse.study.set_checks import check_fused

    sets["study"]["tasks"]["ivif"]["test"] = ["tno"]
    sets["study"]["systems"] = [
        {"method": name, "variant": "base", "tasks": ["ivif"]} for name in ("average", "lkc_funet")
    ]
    record = project / "data/fused/tno/lkc_funet.base.s0.run.json"
    record.parent.mkdir(parents=True)
    fused_with = "data/checkpoints/night/lkc_funet/base/s0/net.safetensors"
    record.write_text(json.dumps({"inputs": {"data/prepared/tno/test.safetensors": "1", fused_with: "2"}}))
    check_fused(sets)
    sets["methods"]["lkc_funet"]["trained_on"] = "ivif"
    with pytest.raises(UserError, match=r"lkc_funet\.base\.s0 on tno(.|\n)*checkpoints/ivif(.|\n)*checkpoints/night"):
        check_fused(sets)


@pytest.mark.usefixtures("project")
def test_runs_say_what_a_system_was_trained_on(sets):
    from mmfuse.pipeline.lineage import parents

    _, system = parents(sets, System("mma_unet", "late", "mif", 0))
    assert system.tags["trained_on"] == "forty"
    assert system.parameters["study"]["training_sets"] == {"forty": sets["study"]["training_sets"]["forty"]}
    _, system = parents(sets, System("average", "base", "ivif", 0))
    assert "trained_on" not in system.tags
    assert list(system.parameters["study"]) == ["tasks"]


def test_every_shared_part_is_trained_once(study):
    trainings = plan.trainings(study)
    assert len(trainings) == len(set(trainings)) == 2 * (3 + 1 + 2 + 3)
    # what a training starts from is trained as well
    for training in trainings:
        assert set(plan.earlier_trainings(study, training)) <= set(trainings)


def training_packs(study, variant, part):
    return TRAIN.inputs(study, dataclasses.asdict(plan.Training("ivif", "mma_unet", variant, 0, part)))["train"]


def test_parts_and_packs(study):
    assert plan.parts_of(study, "mma_unet") == ["vi_unet", "ir_unet", "fusion"]
    assert plan.parts_of(study, "average") == plan.parts_of(study, "a_method_without_a_block") == []
    assert plan.earlier_parts(study, "mma_unet", "fusion") == ["vi_unet", "ir_unet"]
    assert plan.earlier_parts(study, "mma_unet", "vi_unet") == []
    for part in ("vi_unet", "fusion"):
        assert training_packs(study, "late", part) == ["data/prepared/synthetic_road/train.safetensors"]
    study["methods"]["mma_unet"]["variants"]["late"]["parts"]["fusion"]["patches"] = "square"
    assert training_packs(study, "late", "fusion") == ["data/prepared/synthetic_road/patches.square.safetensors"]
    assert training_packs(study, "base", "fusion") == ["data/prepared/synthetic_road/train.safetensors"]


def test_datasets_and_tasks(study):
    study["study"]["tasks"]["ivif"]["test"] = ["tno", "synthetic_road"]
    assert plan.datasets_of(study) == ["synthetic_road", "tno", "synthetic_brain"]
    assert plan.task_of(study, "tno") == "ivif"
    with pytest.raises(UserError, match="'msrs' is not part of the study"):
        plan.task_of(study, "msrs")
    assert len(plan.scored_pairs(study)) == 2 * 9 + 1


def test_report_inputs_are_listed_once_each_and_complete(study):
    files = report_inputs(study)
    assert len(files) == len(set(files))
    assert "data/checkpoints/ivif/mma_unet/late/s7/fusion.history.csv" in files
    assert "data/checkpoints/ivif/mma_unet/late/s7/vi_unet.history.csv" not in files
    assert "data/fused/synthetic_road/mma_unet.wide.s0" in files
    assert "reports/scores/synthetic_brain/average.base.s0.json" in files


# ------------------------------------------------------------------------------------ what reruns a job


def changes(study, stage, change, **what):
    """Whether a change of the parameters changes what a job watches."""
    from mmfuse.study.parameters import pick_all

    after = copy.deepcopy(study)
    change(after)
    files = [key for key in STAGES[stage].watched(study, what) if ":" in key]
    keys = [key for key in STAGES[stage].watched(study, what) if key not in files]
    return pick_all(study, keys) != pick_all(after, keys)


def test_a_job_watches_what_its_result_depends_on(study):
    fusion = {"trained_on": "ivif", "method": "mma_unet", "variant": "late", "part": "fusion"}

    def rate(part):
        return lambda p: p["methods"]["mma_unet"]["parts"][part].update(learning_rate=0.5)

    assert changes(study, "train", rate("fusion"), **fusion)
    assert not changes(study, "train", rate("vi_unet"), **fusion)
    assert changes(study, "train", lambda p: p["methods"]["mma_unet"]["network"].update(width=2), **fusion)
    assert changes(study, "train", lambda p: p["methods"]["mma_unet"]["variants"]["late"].update(network={}), **fusion)
    assert not changes(study, "train", lambda p: p["methods"]["mma_unet"]["variants"]["early"].clear(), **fusion)
    assert not changes(study, "train", lambda p: p["fuse"].update(pictures=9), **fusion)
    assert changes(study, "crop", lambda p: p["prepare"]["patches"]["square"].update(seed=9), patches="square")
    assert changes(study, "evaluate", lambda p: p["evaluate"].update(metrics=["EN"]))
    assert changes(study, "evaluate", lambda p: p["evaluate"].update(beside=["vifb"]))
    assert not changes(study, "evaluate", lambda p: p["evaluate"].update(workers=9))
    road = {"dataset": "synthetic_road"}
    assert changes(study, "prepare", lambda p: p["prepare"].update(val_fraction=0.3), **road)
    study["prepare"]["val_pairs"] = {"synthetic_road": 2}
    assert changes(study, "prepare", lambda p: p["prepare"]["val_pairs"].update(synthetic_road=3), **road)
    assert not changes(study, "prepare", lambda p: p["prepare"].update(val_fraction=0.3), **road)
    assert not changes(study, "prepare", lambda p: p["prepare"]["val_pairs"].clear(), dataset="synthetic_brain")
    study["prepare"]["subset"] = {"synthetic_road": {"train": 9}}
    assert changes(study, "prepare", lambda p: p["prepare"]["subset"]["synthetic_road"].update(test=3), **road)
    assert not changes(study, "prepare", lambda p: p["prepare"]["subset"].clear(), dataset="synthetic_brain")
    assert changes(study, "download", lambda p: p["generate"]["synthetic_road"].update(seed=9), **road)
    assert not changes(study, "download", lambda p: p["generate"]["synthetic_brain"].update(seed=9), **road)
    assert not changes(study, "report", lambda p: p["download"].update(mirror="elsewhere"))
    assert changes(study, "report", lambda p: p["report"].update(images=1))


def test_the_variant_of_a_weight_free_method_is_watched(study):
    block = study["methods"]["laplacian"]
    block["variants"] = {"base": {}, "deep": {"network": {"levels": 6}}}
    deep = {"method": "laplacian", "variant": "deep"}
    assert changes(study, "fuse", lambda p: p["methods"]["laplacian"]["network"].update(levels=2), **deep)
    assert changes(
        study, "fuse", lambda p: p["methods"]["laplacian"]["variants"]["deep"]["network"].update(levels=2), **deep
    )


def test_the_catalogs_entry_is_watched(study):
    for stage in ("download", "prepare"):
        assert "data/catalog.yaml:datasets.msrs" in STAGES[stage].watched(study, {"dataset": "msrs"})
