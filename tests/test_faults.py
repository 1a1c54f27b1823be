"""Failures in the middle of the work: what ran is kept, what was half is made again, and one message says what broke.

`make test-faults` runs it; `MMFUSE_KILLS` says how often each engine is killed at a random moment, and with
`MMFUSE_DEMO=1`, after `make run`, the study that is killed is the one of params.yaml.
"""

from __future__ import annotations

import errno
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from mmfuse.cli import app as cli
from mmfuse.data.images import write_image
from mmfuse.data.packs import write_pack
from mmfuse.errors import UserError
from mmfuse.files.writing import checksum, files_below, remove_leftovers, whole_file, whole_folder, write_text
from mmfuse.pipeline.jobs import Job, execute
from mmfuse.scenes import synthetic_road
from mmfuse.tracking import Tracker
from mmfuse.training.checkpoints import WeightsCard, load_state, save_state, save_weights
from test_engines import ENVIRONMENT, call, clone, demo, results, template, tiny, write  # noqa: F401

pytestmark = pytest.mark.faults
ROOT = Path(__file__).parents[1]
KILLS = int(os.environ.get("MMFUSE_KILLS", "5"))
DEMO = bool(os.environ.get("MMFUSE_DEMO"))
ENGINES = {
    "snakemake": ("snakemake", "--cores", "2", "--rerun-incomplete", "all"),
    "dvc": ("dvc", "repro", "--quiet"),
}


@pytest.fixture
def mmfuse(mmfuse):
    """Run a command in this process: `mmfuse("fuse", a, b, out)` returns exit code and errors."""

    def run(*words):
        code, _, err = mmfuse(*words)
        return code, err

    return run


def job(folder, **changes):
    """A small job whose one output is written whole."""
    write_text(folder / "in.txt", "in")
    values = {
        "stage": "train", "name": "x", "inputs": [folder / "in.txt"], "outputs": [folder / "out.txt"],
        "record": folder / "out.run.json", "parameters": {"steps": 1}, "tags": {"seed": 0}, "study": "faults",
    }  # fmt: skip
    return Job(**(values | changes))


# ------------------------------------------------------------------------------------------- asked to stop (SIGTERM)

DOWNLOAD = ("stage", "download", "--dataset", "synthetic_road")


@pytest.mark.usefixtures("database")
def test_a_stage_that_is_asked_to_stop_leaves_nothing_half(project, mmfuse, monkeypatch):
    """The next run makes the whole. Trainings save their state first: tests/test_training.py."""
    values = yaml.safe_load((project / "params.yaml").read_text())
    values["generate"]["synthetic_road"] |= {"height": 96, "width": 128, "train": 2, "val": 1, "test": 1}
    write(project, values)
    generate = synthetic_road.generate

    def stopped(folder, **arguments):
        generate(folder, **arguments)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(synthetic_road, "generate", stopped)
    code, said = mmfuse(*DOWNLOAD)
    assert code == 143
    assert "Asked to stop (SIGTERM); run the same command again" in said
    assert "Traceback" not in said
    assert [path.name for path in (project / "data/raw").iterdir()] == []
    monkeypatch.setattr(synthetic_road, "generate", generate)
    assert mmfuse(*DOWNLOAD)[0] == 0
    assert (project / "data/raw/synthetic_road.run.json").is_file()


# ------------------------------------------------------------------------------------------------- memory and disk

HUNGRY = """
import resource, sys
import numpy, torch, mmfuse.inference.fast_copy
from mmfuse.cli import app as cli
from mmfuse.cli import own_images as people
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (60 << 20), resource.RLIM_INFINITY))
sys.argv = ["mmfuse", "fuse", "a", "b", "out", "--method", "laplacian"]
cli.main()
"""


def test_too_little_memory_is_said_in_one_message(tmp_path):
    """Under a limit of the operating system, as a cluster sets it."""
    for side in ("a", "b"):
        write_image(tmp_path / side / "1.png", np.zeros((4000, 4000), np.uint8))
    run = subprocess.run(
        [sys.executable, "-c", HUNGRY], cwd=tmp_path, capture_output=True, text=True, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert run.returncode == 2, run.stderr
    assert "There is not enough memory" in run.stderr
    assert "Traceback" not in run.stderr
    assert not list(tmp_path.glob("out/.*"))


@pytest.mark.parametrize("megabytes", [30, 60, 90, 250, 1000, 3000])
@pytest.mark.parametrize("words", [("fuse", "a", "b", "out", "--method", "laplacian"), ("list", "methods")])
def test_too_little_address_space_is_said_in_one_message(tmp_path, megabytes, words):
    """Under `ulimit -v`: it is missing where libraries are loaded, in any of them, or the command succeeds."""
    for side in ("a", "b"):
        write_image(tmp_path / side / "1.png", np.zeros((40, 40), np.uint8))
    limit = ("prlimit", f"--as={megabytes << 20}", sys.executable, "-m", "mmfuse", *words)
    run = subprocess.run(
        limit, cwd=tmp_path, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert "Traceback" not in run.stderr
    if run.returncode:
        assert run.returncode in {1, 2}
        assert "There is not enough memory" in run.stderr or "Memory allocation still failed" in run.stderr
        assert not list(tmp_path.rglob("out/*"))


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("CUDA out of memory. Tried"), OSError(errno.ENOMEM, "Cannot allocate memory")]
)
def test_every_kind_of_out_of_memory_is_known(monkeypatch, mmfuse, error):
    def hungry():
        raise error

    monkeypatch.setattr(cli, "app", hungry)
    code, said = mmfuse("list", "methods")
    assert code == 2
    assert said.startswith("error: There is not enough memory.")
    assert "batch" in said


@pytest.fixture
def disk(tmp_path):
    """A disk of 1 MiB, which only root can make."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


CARD = WeightsCard("average", "base", "ivif", 0, "x", {}, complete=True)
NOISE = np.random.default_rng(0).integers(0, 256, (1400, 1000), dtype=np.uint8)
WRITERS = {
    "text": lambda path: write_text(path, "x" * (2 << 20)),
    "image": lambda path: write_image(path.with_suffix(".png"), NOISE),
    "pack": lambda path: write_pack(path, [{"name": "x", "a": NOISE, "b": NOISE}]),
    "pack, its second copy": lambda path: write_pack(path, [{"name": "x", "a": NOISE[:350], "b": NOISE[:350]}]),
    "weights": lambda path: save_weights(path, {"w": torch.ones(1 << 19)}, CARD),
    "state": lambda path: save_state(path, {"w": torch.ones(1 << 19)}),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_full_disk_is_one_message_and_the_old_file_stays(disk, kind):
    path = disk / "x.png" if kind == "image" else disk / "x"
    path.write_text("old")
    with pytest.raises(UserError, match="No space left on device") as caught:
        WRITERS[kind](path)
    assert str(path) in str(caught.value)
    assert "free some space" in str(caught.value)
    assert path.read_text() == "old"
    assert [file.name for file in disk.iterdir()] == [path.name]


LIMITED = """
import resource, signal, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from mmfuse.errors import UserError
from test_faults import WRITERS
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
for kind in sys.argv[3:]:
    try:
        WRITERS[kind](Path(sys.argv[2]) / "x.png")
    except UserError as error:
        print(str(error).replace("\\n", " "))
"""


def test_a_limit_on_the_size_of_files_is_one_message_and_the_old_file_stays(tmp_path):
    """Under `ulimit -f`."""
    (tmp_path / "x.png").write_text("old")
    command = [sys.executable, "-c", LIMITED, str(Path(__file__).parent), str(tmp_path), *WRITERS]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert len(lines) == len(WRITERS)
    for line in lines:
        assert "File too large" in line and str(tmp_path) in line and "ulimit -f" in line
    assert (tmp_path / "x.png").read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["x.png"]


def test_a_command_under_a_limit_on_the_size_of_files_ends_with_one_message(tmp_path):
    for side in ("a", "b"):
        write_image(tmp_path / side / "1.png", NOISE)
    for words in ((), ("--log", "x.log")):
        fuse = ("fuse", "a", "b", "out", "--method", "laplacian")
        limit = ("prlimit", "--fsize=1000", sys.executable, "-m", "mmfuse", *words, *fuse)
        run = subprocess.run(limit, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert run.returncode == 2, run.stderr
        assert "File too large" in run.stderr
        assert run.stderr.count("error:") == 1 and "Traceback" not in run.stderr
        assert not [path for path in tmp_path.rglob("out/*") if path.name != ".gitignore"]


def test_a_folder_on_a_full_disk_is_not_begun(disk):
    write_text(disk / "out/old.txt", "old")
    with pytest.raises(UserError, match="No space left on device"), whole_folder(disk / "out") as folder:
        for number in range(20):
            (folder / f"{number}").write_bytes(bytes(100_000))
    assert [path.name for path in files_below(disk)] == ["old.txt"]
    assert not list(disk.glob(".*"))


def test_a_log_on_a_full_disk_does_not_hide_the_message(disk, mmfuse, monkeypatch):
    monkeypatch.setattr(sys, "stderr", sys.__stderr__)
    (disk / "filler").write_bytes(b"")
    with (disk / "filler").open("ab", buffering=0) as filler, pytest.raises(OSError, match="space"):
        while True:
            filler.write(bytes(4096))
    code, said = mmfuse("--log", disk / "x.log", "fuse", disk, disk, disk / "out")
    assert code == 2
    assert "error:" in said


def test_a_read_only_folder_is_one_message(disk, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    work = job(disk)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    for call_ in (
        *(lambda kind=kind: WRITERS[kind](disk / "y.png") for kind in WRITERS),
        lambda: write_text(disk / "d/y", ""),
    ):
        with pytest.raises(UserError, match="Read-only file system") as caught:
            call_()
        assert str(disk) in str(caught.value)
    monkeypatch.chdir(disk)
    with pytest.raises(UserError, match=r"Cannot work in(.|\n)*Read-only file system"):
        execute(work, lambda _: None)


# ----------------------------------------------------------------------------------------------------- tracking, clock


def test_a_tracking_server_that_never_answers_holds_nothing_up(tmp_path, monkeypatch, capfd):
    """It takes the connection and says nothing: the job waits for seconds, once, and goes on."""
    import mlflow  # noqa: F401 - its import is not what is measured

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        kept = []
        threading.Thread(target=lambda: [kept.append(silent.accept()) for _ in range(9)], daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        begin = time.monotonic()
        with Tracker(tmp_path, "faults", "x", fingerprint="x", tags={}, parameters={}) as tracker:
            for step in range(100):
                tracker.log_rows([{"step": step, "loss": 1.0}])
        assert time.monotonic() - begin < 30
        assert kept, "the server was not asked"
    assert capfd.readouterr().err.count("the job continues without it") == 1
    assert list(tmp_path.iterdir()) == [tmp_path / ".mmfuse"], "a server's address is no file"


SLOW_START = """
import sys
from pathlib import Path
from mmfuse.tracking import Tracker
with Tracker(Path(sys.argv[1]), "faults", "x", fingerprint="x", tags={}, parameters={}):
    pass
"""


def test_a_kill_while_the_database_is_made_does_not_break_it(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    part = tmp_path / ".mlflow.db.part"
    with subprocess.Popen([sys.executable, "-c", SLOW_START, str(tmp_path)]) as running:
        end = time.monotonic() + 300
        while not (part.is_file() and part.stat().st_size > 50_000):
            assert running.poll() is None and time.monotonic() < end
            time.sleep(0.01)
        running.kill()
    assert not (tmp_path / "mlflow.db").exists()
    with Tracker(tmp_path, "faults", "x", fingerprint="x", tags={}, parameters={}) as tracker:
        tracker.log_metrics({"x": 1})
    assert tracker.run_id is not None
    assert "continues without it" not in capfd.readouterr().err
    assert not part.exists()


@pytest.mark.usefixtures("database")
def test_a_clock_that_runs_backwards_changes_no_result(tmp_path, monkeypatch):
    """Jobs know each other by their content; neither the fingerprint nor the record holds a time."""
    monkeypatch.chdir(tmp_path)
    records, prints = [], []
    now = time.time()
    for moment in (now, now - 86400):
        monkeypatch.setattr(time, "time", lambda moment=moment: moment)
        monkeypatch.setattr(time, "time_ns", lambda moment=moment: int(moment * 1e9))
        work = job(tmp_path)
        os.utime(tmp_path / "in.txt", (now + 3600, now + 3600))

        def done(running):
            prints.append(running.fingerprint)
            running.tracker.log_metrics({"x": 1})
            write_text(tmp_path / "out.txt", "out")

        execute(work, done)
        records.append((tmp_path / "out.run.json").read_bytes())
    assert prints[0] == prints[1]
    assert records[0] == records[1]


# ---------------------------------------------------------------------------------- power cut, two runs in one folder


def cut_off(action):
    """Do something in a process that ends at once where it calls `os._exit`, as in a power cut."""
    child = os.fork()
    if child == 0:
        action()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def half(kind, path):
    with kind(path) as temporary:
        (temporary / "new.txt" if kind is whole_folder else temporary).write_text("half")
        os._exit(9)


@pytest.mark.parametrize("kind", [whole_file, whole_folder])
def test_a_power_cut_before_the_rename_leaves_the_old_and_is_cleared_away(tmp_path, kind):
    target = tmp_path / "out" / ("n" * 100)
    write_text(target / "old.txt" if kind is whole_folder else target, "old")
    before = checksum(tmp_path / "out")
    cut_off(lambda: half(kind, target))
    assert len(list(target.parent.iterdir())) == 2
    assert checksum(tmp_path / "out") == before, "what was left half is not looked at"
    remove_leftovers(target)
    assert list(target.parent.iterdir()) == [target]
    assert checksum(tmp_path / "out") == before


def test_what_another_target_is_writing_is_not_cleared_away(tmp_path):
    with whole_file(tmp_path / "x.csv") as one, whole_file(tmp_path / "x") as other:
        one.write_text("1")
        other.write_text("2")
        remove_leftovers(tmp_path / "x.csv.json")
        remove_leftovers(tmp_path / ("x" * 50))
    assert (tmp_path / "x.csv").read_text() == "1"


@pytest.mark.usefixtures("database")
def test_a_job_clears_away_what_its_killed_predecessor_left(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    work = job(tmp_path)
    cut_off(lambda: half(whole_file, tmp_path / "out.txt"))
    cut_off(lambda: half(whole_file, tmp_path / "out.run.json"))
    assert len(list(tmp_path.glob(".*.part"))) == 2
    execute(work, lambda _: write_text(tmp_path / "out.txt", "out"))
    assert not list(tmp_path.glob(".*.part"))


def test_a_training_clears_away_a_half_written_state_and_takes_the_one_before(tmp_path):
    path = tmp_path / "fusion.pt"
    save_state(path, {"fingerprint": "x", "step": 3})
    cut_off(lambda: half(whole_file, path))
    assert load_state(path)["step"] == 3
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.engines
@pytest.mark.parametrize("engine", ENGINES)
def test_a_second_run_in_the_same_folder_is_refused(study, engine):
    """While one engine works, the same engine says that the folder is taken; each job says so to the other engine."""
    folder = clone(study, f"two_{engine}")
    running = start(folder, ENGINES[engine])
    try:
        end = time.monotonic() + 300
        locks = (".snakemake/locks/*", ".dvc/tmp/rwlock")
        while not any(list(folder.glob(lock)) for lock in locks) or not list(folder.glob("logs/*/*.log")):
            assert running.poll() is None and time.monotonic() < end
            time.sleep(0.1)
        command = [word for word in ENGINES[engine] if word != "--quiet"]  # with it DVC ends with 255 and not a word
        second = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False)
        assert second.returncode != 0
        assert re.search("lock|busy|another process", second.stdout + second.stderr, re.IGNORECASE)
        assert running.poll() is None
    finally:
        kill_session(running)


# --------------------------------------------------------------------------------- kill -9 at random moments


def start(folder, command):
    """Start an engine in a session of its own, its words in a file beside the folder."""
    with folder.with_suffix(".said").open("ab") as said:
        return subprocess.Popen(
            command, cwd=folder, env=ENVIRONMENT, stdout=said, stderr=subprocess.STDOUT, start_new_session=True
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


def cut_off_by_a_kill(folder):
    """The file that a kill met while DVC wrote it, which it does in place; all its commands then name it. Or None."""
    said = call(folder, "dvc", "status", good=(0, 1, 255))
    named = re.search(
        r"(dvc\.lock)' validation failed|unable to read: '\S*(dvc\.lock)'|'(\.dvc/tmp/rwlock)'\. JSON", said
    )
    return folder / named[named.lastindex] if named else None


def without_lock(folder):
    """What the documentation says of a lock that was cut off: without it DVC takes what ran from its run cache."""
    (folder / "dvc.lock").write_text("")
    broken = cut_off_by_a_kill(folder)
    assert broken == folder / "dvc.lock"
    broken.unlink()
    said = call(folder, "dvc", "repro")
    assert "is cached - skipping run" in said and "Running stage" not in said


def smallest(parameters):
    """The study of the engines' tests without what does not end in scores or weights."""
    tiny(parameters)
    parameters["analyse"], parameters["downstream"] = {}, {}
    return parameters


@pytest.fixture(scope="module")
def study(template):  # noqa: F811
    if DEMO:
        demo(template.parent / "demo")
        return template.parent / "demo"
    folder = clone(template, "smallest")
    write(folder, smallest(yaml.safe_load((ROOT / "workflow/configs/demo.yaml").read_text())))
    call(folder, "git", "config", "user.email", "test@example.org")
    call(folder, "git", "config", "user.name", "test")
    call(folder, "mmfuse", "sync", "--write-dvc")
    call(folder, "git", "commit", "-qam", "smallest study")
    return folder


@pytest.fixture(scope="module")
def undisturbed(study):
    """What the study comes to when nobody disturbs it, and the longest pause before a kill, in seconds."""
    if DEMO:
        return results(ROOT), 60
    begin = time.monotonic()
    folder = clone(study, "undisturbed")
    running = start(folder, ENGINES["snakemake"])
    running.wait()
    ended(running, folder)
    return results(folder), (time.monotonic() - begin) / 4


@pytest.mark.engines
@pytest.mark.parametrize("engine", ENGINES)
def test_kills_at_random_moments_change_nothing(study, undisturbed, engine, capsys):
    """Each kill leaves the folder as it is; reruns until the study is whole, and its bytes are the undisturbed ones.

    A run begins where the last one was killed, so that moments from a part of the whole time meet all of it.
    """
    begin = time.monotonic()
    draw = random.Random(int(os.environ.get("MMFUSE_KILLS_SEED", "0")))
    expected, pause = undisturbed
    survived = runs = finished = mended = 0
    while survived < KILLS or not finished:
        folder = clone(study, f"killed_{engine}_{finished}")
        over = False
        while not over:
            runs += 1
            running = start(folder, ENGINES[engine])
            try:
                running.wait(draw.uniform(0, pause) if survived < KILLS else None)
                broken = cut_off_by_a_kill(folder) if running.returncode and engine == "dvc" else None
                over = broken is None
                if broken:
                    broken.unlink()
                    mended += 1
            except subprocess.TimeoutExpired:
                kill_session(running)
                survived += 1
                unlock(folder, engine)
        ended(running, folder)
        finished += 1
        if engine == "dvc" and finished == 1:
            without_lock(folder)
        assert results(folder) == expected
        assert not list(folder.glob("data/resume/**/*.pt")), "the state of a finished training was left"
        assert not list(folder.glob("data/**/.*.part")), "a half-written file was left"
        shutil.rmtree(folder)
    with capsys.disabled():
        print(
            f"\n{engine}: {survived} kills survived in {runs} runs, {finished} studies finished with the undisturbed "
            f"run's {len(expected)} checksums, {mended} files of DVC's were cut off, {time.monotonic() - begin:.0f} s, "
            f"kills after at most {pause:.0f} s"
        )
