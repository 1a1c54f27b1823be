"""Jobs use the parameters that were planned, whatever happens to params.yaml meanwhile."""

import os
import shutil
import time
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


def test_an_edit_while_the_parameters_are_read_is_planned_as_a_whole(project, monkeypatch):
    """The parameters that are returned and the copy for the jobs are the same state of the file."""
    params, read = project / "params.yaml", load_parameters
    calls = []

    def edited(path):
        found = read(path)
        calls.append(path)
        if len(calls) < 4:
            change(params, lambda values: values["study"].update(seeds=[len(calls)]))
        return found

    monkeypatch.setattr(planned, "load_parameters", edited)
    found = planned.planned_parameters(Path("params.yaml"))
    assert found["study"]["seeds"] == [3]
    assert read(Path(os.environ[planned.VARIABLE])) == read(params) == found


def test_copies_of_runs_long_ago_are_removed(project, monkeypatch):
    """Those of the last runs stay, however old they are: an engine may still need them."""
    folder = project / planned.FOLDER
    folder.mkdir(parents=True)
    now, days = time.time(), 86400
    ages = {"new": 0, "month": 30, "old": 90, "older": 400, ".half.part": 500}
    for name, age in ages.items():
        (folder / name).touch()
        os.utime(folder / name, (now - age * days, now - age * days))
    planned.planned_parameters(Path("params.yaml"))
    own = Path(os.environ[planned.VARIABLE]).name
    assert {path.name for path in folder.iterdir()} == {own, *ages}, "few enough"
    os.utime(folder / own, (now - 900 * days, now - 900 * days))
    monkeypatch.setattr(planned, "_LAST", 2)
    monkeypatch.setenv(planned.VARIABLE, "")
    planned.planned_parameters(Path("params.yaml"))
    assert {path.name for path in folder.iterdir()} == {own, "new", "month"}, "the run that begins is the newest"


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
