"""Both engines see what a person changes in data/manual and data/external, in a study on a dataset fetched by hand."""

import os
import re
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
import yaml

from conftest import draw_image
from mmfuse.data.images import write_image
from test_engines import ENVIRONMENT, call, clone, plans_nothing, since, template, write  # noqa: F401

pytestmark = pytest.mark.engines
SNAKEMAKE, DVC = ("snakemake", "--cores", "2"), ("dvc", "repro", "--quiet")
ALL = {
    "download/vifb.log", "prepare/vifb.log", "fuse/vifb.average.base.s0.log", "evaluate/vifb.average.base.s0.log",
    "report.log",
}  # fmt: skip


def add(place, name, seed):
    write_image(place / f"IR/{name}.jpg", draw_image(seed, 48, 64))
    write_image(place / f"VI/{name}.jpg", draw_image(seed + 50, 48, 64, colour=True))


def rows(folder):
    return (folder / "reports/scores/vifb/average.base.s0.csv").read_text().splitlines()[1:]


def run(folder, engine, good=(0,)):
    """Run an engine; return the logs of the jobs that ran, and what it said."""
    moment = time.time()
    said = call(folder, *engine, good=good)
    return since(folder, moment), said


def made(template, name):  # noqa: F811
    """Make a clone with a study of one method on the pairs in data/manual/vifb."""
    folder = clone(template, name)
    parameters = yaml.safe_load((folder / "params.yaml").read_text())
    parameters["study"] |= {
        "tasks": {"ivif": {"train": [], "test": ["vifb"]}},
        "systems": [{"method": "average", "variant": "base", "tasks": ["ivif"]}],
    }
    for block in ("analyse", "downstream"):
        parameters.pop(block)
    parameters["prepare"]["subset"] = {}
    write(folder, parameters)
    for number in range(3):
        add(folder / "data/manual/vifb", f"p{number}", number)
    call(folder, "mmfuse", "sync", "--write-dvc")
    call(folder, "git", "commit", "-qam", "by hand")
    return folder


@pytest.fixture(scope="module")
def repaired(template):  # noqa: F811
    """A study whose first run met a damaged image, which was then repaired; what both runs did; both engines agree."""
    folder = made(template, "byhand")
    place = folder / "data/manual/vifb/VI"
    whole = (place / "p1.jpg").read_bytes()
    (place / "p1.jpg").write_bytes(whole[:-200])
    runs = [run(folder, SNAKEMAKE, good=(1,))]
    # repaired, with the time of an archive
    (place / "whole").write_bytes(whole)
    os.utime(place / "whole", (1e9, 1e9))
    (place / "whole").replace(place / "p1.jpg")
    runs.append(run(folder, SNAKEMAKE))
    call(folder, "mmfuse", "sync")
    return folder, runs


@pytest.fixture
def study(repaired, request):
    """A copy of the repaired study, of its own for each test."""
    folder = repaired[0].with_name(re.sub(r"\W", "-", request.node.name))
    shutil.copytree(repaired[0], folder, symlinks=True)
    return folder


def test_a_repaired_image_is_seen(repaired):
    folder, ((_, said), (ran, _)) = repaired
    assert "p1.jpg" in said
    assert ran == ALL
    assert len(rows(folder)) == 3


def test_an_added_pair_is_seen_by_dvc(study):
    add(study / "data/manual/vifb", "p3", 3)
    assert "Neither engine" in call(study, "mmfuse", "sync", good=(2,))
    assert not plans_nothing(study)
    assert run(study, DVC)[0] == ALL
    assert [row.partition(",")[0] for row in rows(study)] == ["p0", "p1", "p2", "p3"]
    call(study, "mmfuse", "sync")
    assert plans_nothing(study)


@pytest.mark.parametrize(("engine", "other"), [(SNAKEMAKE, DVC), (DVC, SNAKEMAKE)])
def test_swapped_images_are_seen_though_nothing_is_newer(study, engine, other):
    place = study / "data/manual/vifb/IR"
    before = {row.partition(",")[0]: row for row in rows(study)}
    (place / "p0.jpg").rename(place / "between")
    (place / "p1.jpg").rename(place / "p0.jpg")
    (place / "between").rename(place / "p1.jpg")
    assert run(study, engine)[0] == ALL
    assert {row.partition(",")[0] for row in rows(study) if row not in before.values()} == {"p0", "p1"}
    call(study, "mmfuse", "sync")
    assert run(study, other)[0] == set()


def test_data_raw_is_made_again_without_its_record_and_kept_without_its_source(study):
    before = rows(study)
    shutil.rmtree(study / "data/raw/vifb")
    said = call(study, *SNAKEMAKE)
    assert "Nothing to be done" in said
    assert "data/raw/vifb was removed" in said
    refused = call(study, "mmfuse", "sync", good=(2,))
    for words in (said, refused):
        assert "data/raw/vifb.run.json" in words
    (study / "data/raw/vifb.run.json").unlink()
    assert run(study, SNAKEMAKE)[0] == ALL
    assert rows(study) == before
    call(study, "mmfuse", "sync")
    shutil.rmtree(study / "data/raw/vifb")
    assert "download/vifb.log" not in run(study, DVC)[0], "DVC has it in its cache"
    assert (study / "data/raw/vifb/IR/p0.jpg").is_file()
    call(study, "mmfuse", "sync")

    shutil.rmtree(study / "data/manual/vifb")
    assert plans_nothing(study)
    assert run(study, DVC)[0] == set()
    assert (study / "data/raw/vifb/IR/p0.jpg").is_file()
    call(study, "mmfuse", "sync")
    call(study, "git", "add", "dvc.lock")
    call(study, "git", "commit", "-qm", "results")
    call(study, "dvc", "push", "--quiet")
    other = clone(study, "byhand-pulled")
    call(other, "dvc", "pull", "--quiet")
    call(other, "mmfuse", "sync")
    assert plans_nothing(other)
    assert run(other, DVC)[0] == set()
    assert call(other, "git", "status", "--short") == ""


def test_a_clone_without_the_images_fused_elsewhere_keeps_their_jobs(study):
    """`mmfuse sync` refuses; with `dvc add`, DVC carries the images."""
    shutil.rmtree(study / "data/manual/vifb")  # the clone will not have it either
    parameters = yaml.safe_load((study / "params.yaml").read_text())
    parameters["study"]["external"] = {"u2": ["vifb"], "u3": ["vifb"]}
    write(study, parameters)
    for method, brighter in (("u2", 1), ("u3", 2)):
        shutil.copytree(study / "data/fused/vifb/average.base.s0", study / f"data/external/{method}/vifb")
        write_image(study / f"data/external/{method}/vifb/p0.png", np.full((48, 64), 90 + brighter, np.uint8))
    call(study, "mmfuse", "sync", "--write-dvc")
    for method in ("u2", "u3"):
        call(study, "dvc", "add", "--quiet", f"data/external/{method}/vifb")
    call(study, *SNAKEMAKE)
    call(study, "mmfuse", "sync")
    call(study, "git", "add", "-A")
    call(study, "git", "commit", "-qm", "external")
    assert "data/external/u2/vifb.dvc" in call(study, "git", "ls-files", "data/external")
    call(study, "dvc", "push", "--quiet")
    other = clone(study, "external-pulled")
    listed = (other / "dvc.yaml").read_text()
    refused = call(other, "mmfuse", "sync", good=(2,))
    for folder in ("data/external/u2/vifb", "data/external/u3/vifb"):
        assert folder in refused
    assert "dvc pull" in refused
    assert "dvc.yaml is up to date" in call(other, "mmfuse", "sync", "--write-dvc")
    assert call(other, "git", "status", "--short") == ""
    call(other, "dvc", "pull", "--quiet")
    call(other, "mmfuse", "sync")
    assert (other / "dvc.yaml").read_text() == listed
    assert plans_nothing(other)
    assert call(other, "git", "status", "--short") == ""


def test_a_killed_run_goes_on_with_one_command(template):  # noqa: F811
    """`snakemake --unlock`, then the same command or the other engine; `mmfuse sync` says so until then."""
    folder = made(template, "killed-plain")
    log = folder / "logs/prepare/vifb.log"
    with subprocess.Popen(SNAKEMAKE, cwd=folder, env=ENVIRONMENT, start_new_session=True) as running:
        while not log.exists():
            assert running.poll() is None
            time.sleep(0.05)
        os.killpg(running.pid, signal.SIGKILL)
    for command, code in ((("mmfuse", "sync"), 2), (SNAKEMAKE, 1)):
        said = call(folder, *command, good=(code,))
        assert "locked" in said
        assert "--unlock" in said
    call(folder, "snakemake", "--unlock")
    said = call(folder, "mmfuse", "sync", good=(2,))
    assert "Neither engine is up to date" in said
    assert "a stopped run of Snakemake has left incomplete: data/prepared/vifb/" in said
    scores = []
    for engine in (SNAKEMAKE, DVC):
        other = folder.with_name(f"killed-{engine[0]}")
        shutil.copytree(folder, other, symlinks=True)
        call(other, *engine)
        call(other, "mmfuse", "sync")
        assert plans_nothing(other)
        assert run(other, DVC)[0] == set()
        assert not [path for path in (other / ".snakemake/incomplete").rglob("*") if path.is_file()]
        scores.append((other / "reports/scores/vifb/average.base.s0.csv").read_bytes())
    assert scores[0] == scores[1]
