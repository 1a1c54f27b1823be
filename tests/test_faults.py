"""Failures in the middle of the work: what ran is kept, what was half is made again, and one message says what broke.

`make test-faults` runs it; `MMFUSE_KILLS` says how often each engine is killed at a random moment.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from test_engines import ENVIRONMENT, call, clone, plans_nothing, results, template, tiny, write  # noqa: F401

pytestmark = pytest.mark.faults
ROOT = Path(__file__).parents[1]
KILLS = int(os.environ.get("MMFUSE_KILLS", "5"))
ENGINES = {
    "snakemake": ("snakemake", "--cores", "2", "--rerun-incomplete", "all"),
    "dvc": ("dvc", "repro", "--quiet"),
}


# --------------------------------------------------------------------------------- kill -9 at random moments


def start(folder, command):
    """Start an engine in a session of its own, its words in a file beside the folder."""
    environment = ENVIRONMENT | {"PYTHONPATH": str(folder / "src")}
    with folder.with_suffix(".said").open("ab") as said:
        return subprocess.Popen(
            command, cwd=folder, env=environment, stdout=said, stderr=subprocess.STDOUT, start_new_session=True
        )


def kill_session(leader):
    """Kill an engine and everything that it started, at once and without a warning."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if os.getsid(int(entry.name)) == leader.pid:
                    os.kill(int(entry.name), signal.SIGKILL)
            except ProcessLookupError:
                continue
    leader.wait()


def ended(running, folder):
    said = folder.with_suffix(".said").read_text(errors="replace")
    assert running.returncode == 0, f"{running.args}: {running.returncode}\n{said[-6000:]}"


def unlock(folder, engine):
    """What the documentation tells a user to do after a kill."""
    if engine == "snakemake":
        call(folder, "snakemake", "--unlock")


def smallest(parameters):
    """The study of the engines' tests without what does not end in scores or weights."""
    tiny(parameters)
    parameters["analyse"], parameters["downstream"] = {}, {}
    return parameters


@pytest.fixture(scope="module")
def study(template):  # noqa: F811
    folder = clone(template, "smallest")
    write(folder, smallest(yaml.safe_load((ROOT / "params.yaml").read_text())))
    call(folder, "git", "config", "user.email", "test@example.org")
    call(folder, "git", "config", "user.name", "test")
    call(folder, "mmfuse", "sync", "--write-dvc")
    call(folder, "git", "commit", "-qam", "smallest study")
    return folder


@pytest.fixture(scope="module")
def undisturbed(study):
    """What the study comes to when nobody disturbs it, and how long that takes."""
    begin = time.monotonic()
    folder = clone(study, "undisturbed")
    running = start(folder, ENGINES["snakemake"])
    running.wait()
    ended(running, folder)
    return results(folder), time.monotonic() - begin


@pytest.mark.engines
@pytest.mark.parametrize("engine", ENGINES)
def test_kills_at_random_moments_change_nothing(study, undisturbed, engine, capsys):
    """Each kill leaves the folder as it is; reruns until the study is whole, and its bytes are the undisturbed ones.

    A run begins where the last one was killed, so that moments from a part of the whole time meet all of it.
    """
    begin = time.monotonic()
    draw = random.Random(int(os.environ.get("MMFUSE_KILLS_SEED", "0")))
    expected, usual = undisturbed
    survived = runs = finished = 0
    while survived < KILLS or not finished:
        folder = clone(study, f"killed_{engine}_{finished}")
        over = False
        while not over:
            runs += 1
            running = start(folder, ENGINES[engine])
            try:
                running.wait(draw.uniform(0, usual / 3) if survived < KILLS else None)
                over = True
            except subprocess.TimeoutExpired:
                kill_session(running)
                survived += 1
                unlock(folder, engine)
        ended(running, folder)
        finished += 1
        assert results(folder) == expected
        assert not list(folder.glob("data/resume/**/*.pt")), "the state of a finished training was left"
        assert not list(folder.glob("data/**/.*.part")), "a half-written file was left"
        shutil.rmtree(folder)
    with capsys.disabled():
        print(
            f"\n{engine}: {survived} kills survived in {runs} runs, {finished} studies finished with the undisturbed "
            f"run's bytes, {time.monotonic() - begin:.0f} s (undisturbed by snakemake: {usual:.0f} s)"
        )
