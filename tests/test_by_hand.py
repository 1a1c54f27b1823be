"""Files that a person put in place: every change of them is noticed, and nothing else is taken for a change."""

import json
import os
import shutil
import sys
import time
from pathlib import Path

import pytest
import yaml

from mmfuse.data import origins
from mmfuse.data.images import write_image
from mmfuse.errors import UserError
from mmfuse.files import remembered
from mmfuse.files.writing import checksum, write_text
from mmfuse.pipeline import jobs as pipeline
from mmfuse.stages import download
from mmfuse.study.integrity import check_outputs, removed_outputs
from mmfuse.study.parameters import load_parameters
from mmfuse.study.plan import check_external
from mmfuse.study.stages import ANALYSE, DOWNLOAD, FUSE, jobs_of

sys.path.insert(0, str(Path(__file__).parents[1] / "workflow/scripts"))
import sync
from jobs import manual_checksums

KEY = {"dataset": "vifb"}
PLACE = Path("data/manual/vifb")
OLD = (1e9, 1e9)  # a time long before any run, as archives and `cp -p` give it


@pytest.fixture
def study(project, parameters, image, monkeypatch):
    """A study that tests on a dataset in data/manual; return its parameters."""
    monkeypatch.delenv("MMFUSE_MIRROR", raising=False)
    parameters["study"]["tasks"]["ivif"]["test"] = ["vifb"]
    parameters["study"]["external"] = {"u2": ["vifb"]}
    for block in ("analyse", "downstream"):
        parameters.pop(block)
    monkeypatch.setattr(remembered, "_SETTLED", 0)  # else a file of this second is read each time
    assert Path.cwd() == project
    for side in ("IR", "VI"):
        for number in range(3):
            write_image(PLACE / side / f"{number}.jpg", image(number, colour=side == "VI"))
    (PLACE / "labels").mkdir()
    (PLACE / "labels/0.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    shutil.copytree(PLACE / "VI", "data/external/u2/vifb")
    return parameters


def replaced(path, content):
    """Put another file in place of one, with the old name, size and time."""
    new = path.with_name("new")
    new.write_bytes(content)
    os.utime(new, OLD)
    new.replace(path)


def flipped(path):
    """Change one byte of a file in place and set its old times again."""
    state = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def swapped(one, other):
    one.replace("between")
    other.replace(one)
    Path("between").replace(other)


CHANGES = {
    "a file added": lambda: shutil.copy(PLACE / "IR/0.jpg", PLACE / "IR/3.jpg"),
    "an old file added": lambda: shutil.copy2(PLACE / "IR/0.jpg", PLACE / "IR/3.jpg"),
    "a file in a new folder": lambda: write_text(PLACE / "more/a/b.txt", "x"),
    "a file removed": (PLACE / "VI/2.jpg").unlink,
    "a folder removed": lambda: shutil.rmtree(PLACE / "labels"),
    "a file renamed": lambda: (PLACE / "IR/2.jpg").rename(PLACE / "IR/7.jpg"),
    "two files swapped": lambda: swapped(PLACE / "IR/0.jpg", PLACE / "IR/1.jpg"),
    "the folders swapped": lambda: swapped(PLACE / "IR", PLACE / "VI"),
    "a label edited": lambda: (PLACE / "labels/0.txt").write_text("1 0.5 0.5 0.1 0.1\n"),
    "a file emptied": lambda: (PLACE / "IR/1.jpg").write_bytes(b""),
    "one byte changed, time and size kept": lambda: flipped(PLACE / "IR/1.jpg"),
    "an older file of the same size in its place": lambda: replaced(PLACE / "labels/0.txt", b"2 0.5 0.5 0.1 0.1\n"),
    "the folder replaced by a link": lambda: (
        shutil.copytree(PLACE, "elsewhere"), write_text(Path("elsewhere/x.txt"), "x"), shutil.rmtree(PLACE),
        PLACE.symlink_to(Path("elsewhere").resolve()),
    ),
}  # fmt: skip
NO_CHANGES = {
    "nothing": lambda: None,
    "a file touched": (PLACE / "IR/1.jpg").touch,
    "a hidden file": lambda: (PLACE / ".DS_Store").write_bytes(b"x"),
    "a file written again": lambda: (PLACE / "IR/1.jpg").write_bytes((PLACE / "IR/1.jpg").read_bytes()),
    "an empty folder": (PLACE / "empty").mkdir,
    "the folder copied": lambda: (shutil.copytree(PLACE, "copy"), shutil.rmtree(PLACE), Path("copy").rename(PLACE)),
    "another dataset": lambda: write_text(Path("data/manual/tno/ir/1.jpg"), "x"),
}


def done(study):
    """Do the download as a job does, and write its record."""
    (folder,) = DOWNLOAD.by_hand(study, KEY)
    download.run(dataset="vifb", out=Path("data/raw/vifb"), mirror=None, generate=None)
    write_text(Path("data/raw/vifb.run.json"), json.dumps({"inputs": {folder: checksum(Path(folder))}}))


@pytest.mark.parametrize("change", [*CHANGES, *NO_CHANGES])
def test_every_change_in_data_manual_is_noticed_and_nothing_else(study, change):
    before = DOWNLOAD.checksums(study, KEY)
    assert before == {"data/manual/vifb": checksum(PLACE)}
    time.sleep(0.01)
    (CHANGES | NO_CHANGES)[change]()
    assert (DOWNLOAD.checksums(study, KEY) != before) == (change in CHANGES)


def test_data_raw_outlives_the_files_it_was_copied_from(study):
    """Archives of gigabytes may be removed after the download; that is no reason to download again."""
    entry = yaml.safe_load(Path("data/catalog.yaml").read_text())
    entry["datasets"]["vifb"]["manifest"] = None
    Path("data/catalog.yaml").write_text(yaml.safe_dump(entry))
    before = DOWNLOAD.checksums(study, KEY)
    done(study)
    shutil.rmtree(PLACE)
    assert DOWNLOAD.checksums(study, KEY) == before
    PLACE.mkdir()
    assert DOWNLOAD.checksums(study, KEY) == before
    write_text(PLACE / "IR/0.jpg", "another")
    assert DOWNLOAD.checksums(study, KEY) != before
    shutil.rmtree(PLACE)
    shutil.rmtree("data/raw/vifb")
    assert DOWNLOAD.checksums(study, KEY) == {}


def test_files_are_not_read_again_without_need(study, monkeypatch):
    read = []
    monkeypatch.setattr(remembered, "sha256", lambda path: read.append(path.name) or "0" * 64)
    DOWNLOAD.checksums(study, KEY)
    assert len(read) == 7
    DOWNLOAD.checksums(study, KEY)
    assert len(read) == 7
    (PLACE / "IR/1.jpg").touch()
    DOWNLOAD.checksums(study, KEY)
    assert read[7:] == ["1.jpg"]
    for damaged in ("", "[]", '{"x": 1', "null"):
        next(remembered.FOLDER.iterdir()).write_text(damaged)
        DOWNLOAD.checksums(study, KEY)
    assert len(read) == 8 + 4 * 7


def test_a_file_of_this_moment_is_read_each_time(tmp_path):
    """Two changes within the resolution of the clock leave the same times."""
    path = tmp_path / "x"
    for content in ("a", "b", "c"):
        path.write_text(content)
        os.utime(path, OLD)
        assert remembered.remembered_checksum(path, tmp_path / "memory") == checksum(path)


@pytest.mark.parametrize("taken", ["a mirror", "a generator", "hidden files", "no folder"])
def test_a_folder_that_is_not_taken_is_no_input(study, tmp_path, taken):
    study["download"]["mirror"] = str(tmp_path)
    if taken == "a mirror":
        (tmp_path / "vifb").mkdir()
    if taken == "a generator":
        write_text(Path("data/manual/synthetic_road/x.txt"), "x")
    if taken in {"hidden files", "no folder"}:
        shutil.rmtree(PLACE)
    if taken == "hidden files":
        write_text(PLACE / ".keep", "")
    key = {"dataset": "synthetic_road"} if taken == "a generator" else KEY
    assert DOWNLOAD.by_hand(study, key) == []
    assert DOWNLOAD.checksums(study, key) == {}


FUSED = Path("data/external/u2/vifb")


@pytest.mark.parametrize(
    ("change", "noticed"),
    [
        (lambda: None, False),
        ((FUSED / "0.jpg").touch, False),
        (lambda: flipped(FUSED / "0.jpg"), True),
        (lambda: replaced(FUSED / "0.jpg", (FUSED / "1.jpg").read_bytes()), True),
        ((FUSED / "2.jpg").unlink, True),
        (lambda: shutil.copy2(FUSED / "0.jpg", FUSED / "3.jpg"), True),
    ],
)
def test_images_fused_elsewhere_are_compared_by_content(study, change, noticed):
    key = {"dataset": "vifb", "method": "u2", "variant": "external", "seed": "0"}
    before = FUSE.checksums(study, key)
    assert list(before) == [FUSED.as_posix()]
    change()
    assert (FUSE.checksums(study, key) != before) == noticed


def test_weights_from_elsewhere_are_compared_by_content_and_shipped_ones_are_code(study):
    given = Path("data/external/weights/x.safetensors")
    study["methods"]["lkc_funet"]["variants"] |= {
        "given": {"weights": given.as_posix()},
        "shipped": {"weights": "shipped"},
    }
    own = {"dataset": "vifb", "method": "lkc_funet", "seed": "0", "analysis": "local_consistency"}
    assert FUSE.checksums(study, own | {"variant": "given"}) == {}
    write_text(given, "weights")
    for stage in (FUSE, ANALYSE):
        before = stage.checksums(study, own | {"variant": "given"})
        assert list(before) == [given.as_posix()]
        replaced(given, given.read_bytes()[::-1])
        assert stage.checksums(study, own | {"variant": "given"}) != before
        for variant in ("base", "shipped"):
            assert stage.checksums(study, own | {"variant": variant}) == {}


@pytest.mark.usefixtures("database")
def test_the_record_of_a_download_has_the_checksum_of_the_files_by_hand(study):
    entry = yaml.safe_load(Path("data/catalog.yaml").read_text())
    entry["datasets"]["vifb"]["manifest"] = None
    Path("data/catalog.yaml").write_text(yaml.safe_dump(entry))
    Path("params.yaml").write_text(yaml.safe_dump(study))
    pipeline.run(DOWNLOAD, KEY, Path("params.yaml"), download.work)
    record = json.loads(Path("data/raw/vifb.run.json").read_text())
    assert record["inputs"]["data/manual/vifb"] == checksum(PLACE)


# ------------------------------------------------------------------------------------------------- dvc.yaml, clones


@pytest.mark.parametrize("removed", ["data/manual", "data/external", "data/external/u2/vifb", "data/manual/vifb/IR"])
def test_dvc_yaml_is_the_same_in_a_clone_without_these_files(study, removed):
    Path("params.yaml").write_text(yaml.safe_dump(study))
    root = Path.cwd()
    text = sync.dvc_yaml(sync.declared_jobs(root))
    stages = yaml.safe_load(text)["stages"]
    assert "data/manual" in stages["code"]["deps"]
    assert ".mmfuse/manual/vifb.txt" in stages["code"]["outs"]
    assert ".mmfuse/manual/vifb.txt" in stages["download-vifb"]["deps"]
    assert not any("manual" in name for name in stages["download-synthetic_road"]["deps"])
    assert "data/external/u2/vifb" in stages["fuse-vifb-u2-external-0"]["deps"]
    shutil.rmtree(removed)
    assert sync.dvc_yaml(sync.declared_jobs(root)) == text


def test_the_file_for_dvc_has_the_checksum_of_what_is_in_place(study):
    Path("params.yaml").write_text(yaml.safe_dump(study))
    assert manual_checksums(Path.cwd()) == {".mmfuse/manual/vifb.txt": f"{checksum(PLACE)}  {PLACE}\n"}
    shutil.rmtree(PLACE)
    assert manual_checksums(Path.cwd()) == {".mmfuse/manual/vifb.txt": ""}


@pytest.mark.parametrize("removed", [["u2"], ["u3"], ["u2", "u3"]])
@pytest.mark.parametrize("empty", [False, True])
def test_sync_names_the_folders_of_images_that_are_missing(study, removed, empty):
    study["study"]["external"] = {"u2": ["vifb"], "u3": ["vifb"]}
    folders = {name: Path("data/external") / name / "vifb" for name in ("u2", "u3")}
    shutil.copytree(folders["u2"], folders["u3"])
    assert check_external(study, Path.cwd()) == list(folders.values())
    for name in removed:
        shutil.rmtree(folders[name])
        if empty:
            folders[name].mkdir()
    with pytest.raises(UserError, match="images that were fused elsewhere and are not here") as caught:
        check_external(study, Path.cwd())
    for name, folder in folders.items():
        assert (str(folder) in str(caught.value)) == (name in removed)
    Path("params.yaml").write_text(yaml.safe_dump(study))
    with pytest.raises(UserError, match="images that were fused elsewhere"):
        sync.sync(Path.cwd())
    assert not Path("dvc.yaml").exists()


def test_removed_outputs_are_named_with_their_records(study):
    assert removed_outputs(Path.cwd(), study) == []
    written = []
    for stage, key in jobs_of(study):
        write_text(Path(stage.path("record", key)), "{}")
        written += [(path, stage.path("record", key)) for path in stage.written(key).values()]
    assert removed_outputs(Path.cwd(), study) == written
    for path, _ in written:
        write_text(Path(path) / "x" if stage_makes_folder(path) else Path(path), "x")
    assert removed_outputs(Path.cwd(), study) == []
    shutil.rmtree("data/raw/vifb")
    assert removed_outputs(Path.cwd(), study) == [("data/raw/vifb", "data/raw/vifb.run.json")]
    with pytest.raises(UserError, match=r"data/raw/vifb is missing; its record is data/raw/vifb\.run\.json") as caught:
        check_outputs(Path.cwd(), study)
    assert "delete its record, too" in str(caught.value)


def stage_makes_folder(path: str) -> bool:
    return not Path(path).suffix.removeprefix(".").isalpha()


# ------------------------------------------------------------------------------------------------------- the mirror


@pytest.mark.parametrize("name", ["/mirorr", "relative/folder", "params.yaml", "~/mirror", " ", "https://example.org"])
@pytest.mark.parametrize("place", ["variable", "parameter"])
def test_a_mistyped_mirror_is_refused_before_the_first_job(study, monkeypatch, mmfuse, name, place):
    from mmfuse.study.planned import planned_parameters

    if place == "variable":
        monkeypatch.setenv("MMFUSE_MIRROR", name)
    else:
        study["download"]["mirror"] = name
    Path("params.yaml").write_text(yaml.safe_dump(study))
    load_parameters(Path("params.yaml"))  # on a cluster, jobs that need no mirror run where it may be missing
    monkeypatch.delenv("MMFUSE_PARAMS", raising=False)
    with pytest.raises(UserError, match="The mirror of the datasets does not exist") as caught:
        planned_parameters(Path("params.yaml"))
    assert "expected: an existing folder" in str(caught.value)
    assert f"found:    {name}, from " in str(caught.value)
    assert ("MMFUSE_MIRROR" in str(caught.value)) == (place == "variable")
    assert "FAIL data: The mirror" in mmfuse("doctor")[1]
    code, _, said = mmfuse("stage", "download", "--dataset", "synthetic_road")
    assert code == 2
    assert "The mirror of the datasets does not exist" in said


def test_without_a_mirror_nothing_is_refused(monkeypatch):
    monkeypatch.setenv("MMFUSE_MIRROR", "")
    assert origins.mirror_of(None) is None
    assert origins.mirror_of(str(Path.cwd())) == Path.cwd()
