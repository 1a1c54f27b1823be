"""What messages tell the user to do can be done: the files exist, and the commands change something."""

import base64
import sys
from pathlib import Path

import pytest
import torch

from mmfuse import methods
from mmfuse.errors import MmfuseError, UserError
from mmfuse.pipeline import jobs
from mmfuse.study.parameters import load_parameters
from mmfuse.study.stages import STAGES
from mmfuse.training.checkpoints import WeightsCard, load_method, save_weights

sys.path.insert(0, str(Path(__file__).parents[1] / "workflow/scripts"))
import sync

TRAINED = [name for name in methods.available() if methods.load(name).parts]
PARTS = [(name, part) for name in TRAINED for part in methods.load(name).parts]


@pytest.mark.parametrize("name", TRAINED)
def test_weights_that_every_study_makes_are_asked_for(folders, tmp_path, mmfuse, name):
    method = methods.load(name)
    code, _, said = mmfuse("fuse", *folders, tmp_path / "out", "--method", name)
    assert code == 2
    assert f"give its {method.last_part()}.safetensors below data/checkpoints" in said
    assert not any(f"{part}.safetensors" in said for part in method.optional_parts)
    listed = mmfuse("list", "methods")[1]
    assert all(f"{part} (optional)" in listed for part in method.optional_parts)
    assert listed.count("(optional)") == sum(len(methods.load(one).optional_parts) for one in TRAINED)


@pytest.mark.parametrize(("name", "part"), PARTS)
def test_the_weights_of_a_part_lead_to_those_of_a_later_one(tmp_path, name, part):
    method, path = methods.load(name), tmp_path / "x.safetensors"
    save_weights(path, {"w": torch.ones(1)}, WeightsCard(name, "base", "ivif", 0, part, {}, complete=False))
    with pytest.raises(UserError) as caught:
        load_method(path)
    advised = caught.value.fix.removeprefix("name the weights of ").strip("'")
    if part == method.last_part():  # only the optional part can follow
        assert advised == method.parts[-1]
    else:
        assert advised == method.last_part()
        assert advised not in method.optional_parts


OTHER_JOBS = {
    "download": {"dataset": "tno"},
    "prepare": {"dataset": "msrs"},
    "crop": {"dataset": "synthetic_road", "patches": "other"},
    "train": {"trained_on": "ivif", "method": "mma_unet", "variant": "gone", "seed": "0", "part": "fusion"},
    "fuse": {"dataset": "synthetic_road", "method": "average", "variant": "base", "seed": "7"},
    "evaluate": {"dataset": "tno", "method": "average", "variant": "base", "seed": "0"},
    "analyse": {"dataset": "tno", "analysis": "cka", "method": "mma_unet", "variant": "base", "seed": "0"},
    "label": {"dataset": "tno"},
    "divide": {"dataset": "synthetic_road", "protocol": "gone"},
    "fuse_labelled": {"dataset": "synthetic_road", "method": "maximum", "variant": "base", "seed": "0"},
    "detect": {"protocol": "gone", "set": "a", "seed": "0"},
    "segment": {"protocol": "road_masks", "set": "a", "seed": "9"},
}


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("name", OTHER_JOBS)
def test_a_job_of_another_study_is_refused_if_dvc_runs_it(monkeypatch, name):
    monkeypatch.setenv("DVC_STAGE", f"{name}-x")
    with pytest.raises(UserError, match=r"dvc\.yaml belongs to another study") as caught:
        jobs.run(STAGES[name], OTHER_JOBS[name], Path("params.yaml"), lambda _: pytest.fail("it ran"))
    assert "run `mmfuse sync --write-dvc`" in str(caught.value)


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("by_dvc", [False, True])
def test_a_missing_input_leads_to_the_engine_that_runs(monkeypatch, by_dvc):
    monkeypatch.delenv("DVC_STAGE", raising=False)
    if by_dvc:
        monkeypatch.setenv("DVC_STAGE", "x")
    parameters = load_parameters(Path("params.yaml"))
    count = 0
    for name in set(STAGES) - {"download", "crop"}:  # these trainings read whole images
        key = next(iter(STAGES[name].jobs(parameters)))
        with pytest.raises(UserError, match="lacks an input") as caught:
            jobs.run(STAGES[name], key, Path("params.yaml"), lambda _: pytest.fail("it ran"))
        assert "dvc repro" in caught.value.fix
        assert ("mmfuse sync --write-dvc" in caught.value.fix) == by_dvc
        assert ("snakemake" in caught.value.fix) != by_dvc
        count += 1
    assert count == len(STAGES) - 2


@pytest.mark.parametrize(
    ("call", "words"), [(sync._commit, "not inside of a DVC repository"), (sync._renew, "Snakefile")]
)
def test_an_engine_that_fails_is_quoted(tmp_path, call, words):
    with pytest.raises(MmfuseError, match="failed:") as caught:
        call(tmp_path)
    assert words in str(caught.value)


# ----------------------------------------------------------------------- what a killed run of Snakemake leaves behind


def test_incomplete_files_are_named(tmp_path):
    assert sync.incomplete(tmp_path, ["data/raw/tno"]) == []
    names = ["data/raw/tno", "reports/index.html", "data/ä b/x?.png", f"data/{'n' * 400}/x", "data/?>~.csv"]
    for name in names:
        text = base64.urlsafe_b64encode(name.encode()).decode()
        parts = [text[n : n + 254] for n in range(0, len(text), 254)]
        path = Path(tmp_path, ".snakemake/incomplete", *(f"@{part}" for part in parts[:-1]), parts[-1])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    for other in ("migration_underway", ".nfs01", "ä", "_w=="):  # Snakemake's own, and what no name stands for
        Path(tmp_path, ".snakemake/incomplete", other).write_text("")
    assert sync.incomplete(tmp_path, [*names, "data/raw/whole"]) == sorted(names)
    assert sync.incomplete(tmp_path, names[:1]) == names[:1], "the study has no other job any more"


def test_a_linked_dvc_yaml_is_written_where_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(sync, "declared_jobs", lambda _: [])
    kept = tmp_path / "elsewhere/dvc.yaml"
    kept.parent.mkdir()
    (tmp_path / "dvc.yaml").symlink_to(kept)
    for made in (True, False):
        assert sync.write_dvc(tmp_path) is made
        assert (tmp_path / "dvc.yaml").is_symlink()
        assert kept.read_text(encoding="utf-8") == sync.dvc_yaml([])


def test_a_locked_folder_is_said_before_anything_is_done(tmp_path):
    sync.check_unlocked(tmp_path)
    (tmp_path / ".snakemake/locks").mkdir(parents=True)
    sync.check_unlocked(tmp_path)
    (tmp_path / ".snakemake/locks/0.input.lock").write_text("x")
    with pytest.raises(UserError, match="Snakemake has locked this folder") as caught:
        sync.check_unlocked(tmp_path)
    assert "snakemake --unlock" in str(caught.value)
