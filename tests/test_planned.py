"""Jobs use the parameters that were planned, whatever happens to params.yaml meanwhile."""

import shutil
from pathlib import Path

import pytest
import yaml

from mmfuse.data import catalog
from mmfuse.errors import UserError
from mmfuse.files.reading import read_json
from mmfuse.pipeline import jobs
from mmfuse.study import planned
from mmfuse.study.parameters import load_parameters
from mmfuse.study.stages import STAGES

ROOT = Path(__file__).parents[1]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder that is the root of a project without code of its own."""
    shutil.copy(ROOT / "workflow/configs/tiny.yaml", tmp_path / "params.yaml")
    shutil.copytree(ROOT / "workflow/schemas", tmp_path / "workflow/schemas")
    (tmp_path / "data").mkdir()
    shutil.copy(ROOT / "data/catalog.yaml", tmp_path / "data")
    (tmp_path / "data/manifests").symlink_to(ROOT / "data/manifests")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(planned.VARIABLE, "")  # restored after the test
    return tmp_path


def change(file, change_values):
    values = yaml.safe_load(file.read_text())
    change_values(values)
    file.write_text(yaml.safe_dump(values, sort_keys=False))


def fewer_steps(values):
    values["methods"]["mma_unet"]["parts"]["fusion"]["steps"] = 7


def test_a_planned_study_keeps_its_parameters(project):
    params = project / "params.yaml"
    before = planned.planned_parameters(Path("params.yaml"))
    change(params, fewer_steps)
    assert load_parameters(params) != before
    assert planned.planned_parameters(Path("params.yaml")) == before, "a later process of the same run"


def test_the_next_run_has_the_new_parameters(project, monkeypatch):
    before = planned.planned_parameters(Path("params.yaml"))
    change(project / "params.yaml", fewer_steps)
    monkeypatch.setenv(planned.VARIABLE, "")
    after = planned.planned_parameters(Path("params.yaml"))
    assert after == load_parameters(project / "params.yaml") != before
    assert len(list((project / planned.FOLDER).iterdir())) == 2, "the first run may still need its own"


def test_mistakes_are_named_in_the_users_file(project):
    change(project / "params.yaml", lambda values: values["study"].update(seeds=["many"]))
    with pytest.raises(UserError, match=r"^params\.yaml"):
        planned.planned_parameters(Path("params.yaml"))
    assert not (project / planned.FOLDER).exists()


def job(work):
    """Run the download of a generated dataset with another work in its place."""
    jobs.run(STAGES["download"], {"dataset": "synthetic_road"}, Path("params.yaml"), work)


@pytest.mark.parametrize(
    ("file", "edit"),
    [
        ("params.yaml", lambda values: values["generate"]["synthetic_road"].update(seed=9)),
        ("data/catalog.yaml", lambda values: values["datasets"]["synthetic_road"].update(title="Another")),
    ],
)
def test_a_job_whose_parameters_change_while_it_runs_is_refused(project, file, edit):
    def work(asked):
        asked.outputs["folder"].mkdir(parents=True)
        change(project / file, edit)

    with pytest.raises(UserError, match=f"Parameters of download synthetic_road changed while it ran(.|\n)*{file}"):
        job(work)
    assert not (project / STAGES["download"].path("record", {"dataset": "synthetic_road"})).exists()


@pytest.mark.parametrize("file", ["params.yaml", "data/catalog.yaml"])
def test_a_job_does_not_mind_a_change_that_is_none_of_its_business(project, file):
    def edit(values):
        if file == "params.yaml":
            fewer_steps(values)
        else:
            values["datasets"]["tno"].update(title="Another")

    def work(asked):
        asked.outputs["folder"].mkdir(parents=True)
        change(project / file, edit)

    job(work)
    record = read_json(project / STAGES["download"].path("record", {"dataset": "synthetic_road"}), fix="")
    assert list(record["parameters"]) == [f"{catalog.CATALOG}:datasets.synthetic_road", "generate.synthetic_road"]
