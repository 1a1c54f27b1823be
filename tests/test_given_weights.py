"""Weights from elsewhere in a study: a system of its own, never trained, with its row in every table."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
import yaml

from mmfuse.cli import doctor
from mmfuse.errors import UserError
from mmfuse.files.writing import sha256, write_json
from mmfuse.reporting import given_weights, training_data
from mmfuse.stages import fuse
from mmfuse.study import plan
from mmfuse.study.parameters import load_parameters
from mmfuse.study.plan import System
from mmfuse.study.set_checks import check_fused
from mmfuse.study.stages import FUSE, complete_weights, report_inputs
from mmfuse.training.checkpoints import WeightsCard, build, save_weights, weights_of

FILE = "data/external/weights/theirs.safetensors"
SYSTEM = System("mma_unet", "theirs", "ivif", 0)


def weights(path: Path, method: str = "mma_unet", *, complete: bool = True, lost: int = 0) -> Path:
    torch.manual_seed(1)
    network = {"width": 4, "channels": 3} if method == "mma_unet" else {"levels": 2}
    made = build(method, network)
    held = dict(list(weights_of(made.deployed_modules()).items())[lost:])
    sources = {"checkpoint-100.pth": "ab" * 32, "checkpoint-400-vi.pth": "cd" * 32}
    card = WeightsCard(method, "as_published", "ivif", 0, "fusion", network, complete=complete, sources=sources)
    save_weights(path, held, card)
    return path


@pytest.fixture
def parameters(parameters: dict[str, Any]) -> dict[str, Any]:
    """The small study with two seeds and one more variant, whose weights are given."""
    parameters["methods"]["mma_unet"]["variants"]["theirs"] = {"weights": FILE}
    parameters["study"]["systems"].append({"method": "mma_unet", "variant": "theirs", "tasks": ["ivif"]})
    parameters["study"]["seeds"] = [3, 4]
    return parameters


def test_the_system_is_measured_once_and_never_trained(parameters):
    found = [s for s in plan.systems_of(parameters, "ivif") if s.variant == "theirs"]
    assert found == [SYSTEM], "no seed changes given weights"
    assert [s.seed for s in plan.systems_of(parameters, "ivif") if s.label.startswith("mma_unet.base")] == [3, 4]
    assert not any(training.variant == "theirs" for training in plan.trainings(parameters))
    assert not plan.is_trained(parameters, SYSTEM)
    assert complete_weights(parameters, SYSTEM) == Path(FILE)
    trained = Path("data/checkpoints/ivif/mma_unet/base/s3/fusion.safetensors")
    assert complete_weights(parameters, System("mma_unet", "base", "ivif", 3)) == trained
    assert complete_weights(parameters, System("average", "base", "ivif", 0)) is None
    assert ("synthetic_road", SYSTEM) in plan.scored_pairs(parameters)
    inputs = report_inputs(parameters)
    assert FILE in inputs
    assert f"reports/scores/synthetic_road/{SYSTEM.label}.csv" in inputs


def test_it_takes_part_in_analyses_and_in_detection(parameters):
    parameters["downstream"]["road_boxes"]["sets"] = ["a", "mma_unet.theirs"]
    parameters["analyse"]["cka"]["systems"] = [{"method": "mma_unet", "variant": "theirs"}]
    assert plan.image_sets(parameters, "road_boxes") == {"a": None, SYSTEM.label: SYSTEM}
    assert [(d, s) for name, d, s in plan.analysed(parameters) if name == "cka"] == [("synthetic_road", SYSTEM)]


def test_weights_can_differ_from_task_to_task(parameters, project):
    parameters["methods"]["mma_unet"]["variants"]["theirs"] = {"weights": {"ivif": FILE}}
    assert plan.given_weights(parameters, SYSTEM) == Path(FILE)
    weights(project / FILE)
    (project / "params.yaml").write_text(yaml.safe_dump(parameters))
    assert load_parameters(project / "params.yaml")
    parameters["study"]["systems"][-1]["tasks"] = ["ivif", "mif"]
    (project / "params.yaml").write_text(yaml.safe_dump(parameters))
    with pytest.raises(UserError, match=r"variant theirs: weights has no file for mif(.|\n)*mif: FILE"):
        load_parameters(project / "params.yaml")


def test_a_method_of_given_weights_alone_needs_no_training_block(parameters, project):
    weights(project / FILE)
    parameters["methods"]["mma_unet"] = {"variants": {"base": {"weights": FILE}}}
    parameters["study"]["systems"] = [{"method": "mma_unet", "variant": "base", "tasks": ["ivif"]}]
    parameters["downstream"], parameters["analyse"] = {}, {}
    (project / "params.yaml").write_text(yaml.safe_dump(parameters))
    read = load_parameters(project / "params.yaml")
    assert plan.trainings(read) == []
    assert FUSE.watched(read, {"method": "mma_unet", "variant": "base", "dataset": "synthetic_road"})
    assert "mma_unet.base (0.2" in doctor._methods(project / "params.yaml")


@pytest.mark.parametrize("file", ["/else/w.safetensors", "w.pth", 5, {"other": FILE}, {}])
def test_what_is_no_file_of_weights_is_refused(parameters, project, file):
    parameters["methods"]["mma_unet"]["variants"]["theirs"] = {"weights": file}
    (project / "params.yaml").write_text(yaml.safe_dump(parameters))
    with pytest.raises(UserError, match=r"variant theirs: .*weights"):
        load_parameters(project / "params.yaml")


def test_a_missing_file_is_one_error_before_any_job(parameters, project):
    (project / "params.yaml").write_text(yaml.safe_dump(parameters))
    with pytest.raises(UserError, match="variant theirs: weights names a missing file") as error:
        load_parameters(project / "params.yaml")
    assert FILE in str(error.value)


def test_the_stage_applies_them_and_refuses_others(tmp_path, make_pack):
    def run(file: Path) -> None:
        running = SimpleNamespace(measured={}, tracker=Mock())
        fuse.run(
            "mma_unet", network={}, weights=file, test=make_pack(2, name="test"), out=tmp_path / "out", threads=1,
            pictures=0, running=running,
        )  # fmt: skip

    run(weights(tmp_path / "w.safetensors"))
    assert len(list((tmp_path / "out").glob("*.png"))) == 2
    with pytest.raises(UserError, match="contains another method"):
        run(weights(tmp_path / "other.safetensors", "laplacian"))
    with pytest.raises(UserError, match="contains only the part"):
        run(weights(tmp_path / "part.safetensors", complete=False))
    with pytest.raises(UserError, match="1 too few"):
        run(weights(tmp_path / "less.safetensors", lost=1))


def test_the_report_says_where_the_weights_come_from(parameters, project):
    digest = sha256(weights(project / FILE))
    study = SimpleNamespace(parameters=parameters, sheets={}, rooms=None)
    (one,) = given_weights.read(study)
    assert (one.system, one.task, one.file, one.digest) == ("mma_unet.theirs", "ivif", FILE, digest)
    assert one.options == {"width": 4, "channels": 3}
    (row,) = given_weights.shown(study, [one])
    assert row["sources"] == {"checkpoint-100.pth": "ab" * 32, "checkpoint-400-vi.pth": "cd" * 32}
    assert (
        f"mma_unet,theirs,ivif,{FILE},{digest},checkpoint-100.pth checkpoint-400-vi.pth," in study.sheets["given.csv"]
    )
    assert "ab" * 6 + ")" in study.sheets["given.tex"]
    assert given_weights.on_dataset([one], "ivif", "synthetic_road").endswith("unknown to the study: mma_unet.theirs.")
    assert given_weights.on_dataset([one], "mif", "synthetic_brain") == ""
    rows = {"MMA-UNet": "mma_unet.theirs", "Average": "average.base"}
    assert given_weights.behind([one], rows, "ivif") == f", MMA-UNet with weights from {FILE}"
    (project / FILE).write_bytes(b"broken")
    with pytest.raises(UserError, match="Not a readable weights file"):
        given_weights.read(study)


def test_images_of_other_weights_are_refused(parameters, project):
    parameters["study"]["systems"] = [{"method": "mma_unet", "variant": "theirs", "tasks": ["ivif"]}]
    for dataset, system in plan.scored_pairs(parameters):
        write_json(project / f"data/fused/{dataset}/{system.label}.run.json", {"inputs": {FILE: "x"}})
    check_fused(parameters)
    parameters["methods"]["mma_unet"]["variants"]["theirs"]["weights"] = "data/external/weights/new.safetensors"
    with pytest.raises(UserError, match=rf"with weights other than its own(.|\n)*new\.safetensors(.|\n)*{FILE}"):
        check_fused(parameters)


def test_given_weights_are_no_training_in_the_report(parameters, monkeypatch):
    monkeypatch.setattr(training_data, "_one", lambda _study, task, method, variant, *_: (task, method, variant))
    found = training_data.read(SimpleNamespace(parameters=parameters))
    assert ("ivif", "mma_unet", "base") in found
    assert ("ivif", "mma_unet", "theirs") not in found
