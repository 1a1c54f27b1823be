"""Files are held against the records of the jobs that wrote them."""

import hashlib
import shutil
import subprocess
from pathlib import Path
from random import Random

import pytest
import torch
import yaml

from mmfuse.cli import doctor
from mmfuse.errors import UserError
from mmfuse.files.records import read_record, write_record
from mmfuse.files.writing import checksum, write_json, write_text
from mmfuse.pipeline import jobs
from mmfuse.study import integrity
from mmfuse.study.parameters import load_parameters
from mmfuse.study.stages import EVALUATE, FUSE, REPORT, STAGES, jobs_of
from mmfuse.tracking import results
from mmfuse.training.checkpoints import save_state
from test_planned import project  # noqa: F401 - a fixture

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "workflow/configs").glob("*.yaml"))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_output_leads_to_its_job(config):
    parameters = load_parameters(config)
    for stage, key in [*jobs_of(parameters), (REPORT, {})]:
        for path in stage.written(key).values():
            made = integrity.maker_of(path)
            assert made is not None, path
            assert made[1] == {name: str(key[name]) for name in stage.key}
            assert made[0].path("record", made[1]) == stage.path("record", key), "detect and segment share their files"


@pytest.mark.parametrize(
    "path",
    [
        "src/mmfuse/errors.py",
        "data/catalog.yaml",
        "data/external/theirs/tno/1.png",
        "data/raw/../raw/tno",
        "data/raw/tno/1.png",
        "reports/scores/tno/average.base.s0.csv.bak",
        "reports/scores/tno/average.base.s0.csv\n",
        "",
    ],
)
def test_other_files_belong_to_no_job(path):
    assert integrity.maker_of(path) is None


KEYS = [{"dataset": "tno", "method": method, "variant": "base", "seed": "0"} for method in ("average", "maximum")]


@pytest.fixture
def scored(tmp_path):
    """The scores and fused images of two systems, with their records."""
    for number, key in enumerate(KEYS):
        for end in ("table", "summary"):
            write_text(tmp_path / EVALUATE.path(end, key), f"{end} {number}")
        folder = tmp_path / FUSE.path("folder", key)
        write_text(folder / "1.png", f"picture {number}")
        for stage in (EVALUATE, FUSE):
            outputs = {path: checksum(tmp_path / path) for path in stage.written(key).values()}
            write_json(tmp_path / stage.path("record", key), {"stage": stage.name, "outputs": outputs})
    return tmp_path


def found(root):
    paths = [path for stage in (EVALUATE, FUSE) for key in KEYS for path in stage.written(key).values()]
    return {path: checksum(root / path) for path in paths if (root / path).exists()}


def edit_table(root):
    write_text(root / EVALUATE.path("table", KEYS[0]), "table 9")


def swap_scores(root):
    first, second = (root / EVALUATE.path("table", key) for key in KEYS)
    shutil.move(first, root / "aside")
    shutil.move(second, first)
    shutil.move(root / "aside", second)


def swap_scores_and_records(root):
    swap_scores(root)
    first, second = (root / EVALUATE.path("record", key) for key in KEYS)
    texts = first.read_text(), second.read_text()
    first.write_text(texts[1])
    second.write_text(texts[0])


def change_a_picture(root):
    write_text(root / FUSE.path("folder", KEYS[0]) / "1.png", "picture 9")


def add_a_picture(root):
    write_text(root / FUSE.path("folder", KEYS[0]) / "2.png", "picture 0")


def remove_a_picture(root):
    (root / FUSE.path("folder", KEYS[0]) / "1.png").unlink()


def empty_the_record(root):
    write_json(root / FUSE.path("record", KEYS[0]), {})


@pytest.mark.parametrize(
    "change",
    [
        edit_table, swap_scores, swap_scores_and_records, change_a_picture, add_a_picture, remove_a_picture,
        empty_the_record,
    ],
)  # fmt: skip
def test_what_does_not_belong_to_its_record_is_named(scored, change):
    integrity.check_made(scored, found(scored))
    change(scored)
    with pytest.raises(UserError, match=r"(?i)not what the records of this study say(.|\n)*average\.base\.s0") as error:
        integrity.check_made(scored, found(scored))
    assert error.value.exit_code == 2


def test_files_without_a_record_are_not_checked(scored):
    edit_table(scored)
    (scored / EVALUATE.path("record", KEYS[0])).unlink()
    integrity.check_made(scored, found(scored))


def test_long_lists_are_shortened(scored):
    paths = {f"reports/scores/tno/average.base.s{n}.csv": "0" * 64 for n in range(30)}
    for n in range(30):
        write_json(scored / f"reports/scores/tno/average.base.s{n}.run.json", {"outputs": {}})
    with pytest.raises(UserError, match=r"30 results(.|\n)*… and 20 more"):
        integrity.check_made(scored, paths)


# ------------------------------------------------------------------------------------------------ a study's records


@pytest.fixture
def study(project, monkeypatch):  # noqa: F811
    """The first job of a study, done."""
    download = STAGES["download"]
    key = {"dataset": "synthetic_road"}
    monkeypatch.setattr(integrity, "jobs_of", lambda _: [(download, key)])
    jobs.run(download, key, Path("params.yaml"), lambda job: write_text(job.outputs["folder"] / "1.png", "x"))
    integrity.check_study(project, load_parameters(Path("params.yaml")))
    return project, project / download.path("record", key)


def test_a_record_of_other_parameters_is_named(study):
    root, _ = study
    values = yaml.safe_load((root / "params.yaml").read_text())
    values["generate"]["synthetic_road"]["seed"] = 9
    (root / "params.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(UserError, match=r"synthetic_road\.run\.json: other values of generate\.synthetic_road"):
        integrity.check_study(root, load_parameters(Path("params.yaml")))


def test_a_record_of_other_code_is_named(study):
    root, record = study
    name = STAGES["download"].code({"dataset": "synthetic_road"})[0]
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    write_text(root / name, "# another version")
    with pytest.raises(UserError, match=f"another version of {name}"):
        integrity.check_study(root, load_parameters(Path("params.yaml")))
    write_record(record, read_record(record, fix="") | {"inputs": {name: checksum(root / name)}})
    integrity.check_study(root, load_parameters(Path("params.yaml")))


def test_a_missing_record_or_output_is_named(study):
    root, record = study
    shutil.rmtree(root / "data/raw/synthetic_road")
    with pytest.raises(UserError, match="data/raw/synthetic_road is missing"):
        integrity.check_study(root, load_parameters(Path("params.yaml")))
    record.unlink()
    with pytest.raises(UserError, match=r"synthetic_road\.run\.json is missing"):
        integrity.check_study(root, load_parameters(Path("params.yaml")))


def test_a_job_refuses_an_input_that_is_not_what_its_maker_wrote(study):
    root, _ = study
    prepare, key = STAGES["prepare"], {"dataset": "synthetic_road"}
    write_text(root / "data/raw/synthetic_road/1.png", "y")
    with pytest.raises(UserError, match="data/raw/synthetic_road "):
        jobs.run(prepare, key, Path("params.yaml"), pytest.fail)


# ------------------------------------------------------------------------------------------------------ flipped bits


def flipped(content, random):
    bit = random.randrange(8 * len(content))
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_every_flipped_bit_of_a_record_is_noticed_or_changes_no_entry(study):
    """Results: tests/test_engines.py, states: tests/test_bad_inputs.py."""
    root, path = study
    content, entries, parameters = path.read_bytes(), read_record(path, fix=""), load_parameters(Path("params.yaml"))
    random, harmless = Random(7), 0
    for _ in range(200):
        path.write_bytes(flipped(content, random))
        try:
            found = read_record(path, fix="")
            # the name of the digest may be hit: nothing reads an entry of another name
            assert {name: found[name] for name in entries} == entries, "an entry was misread"
            harmless += 1
        except UserError as error:
            assert "run.json" in str(error)
            with pytest.raises(UserError):
                integrity.check_study(root, parameters)
    assert harmless < 20, "white space alone"


@pytest.fixture
def cached(tmp_path):
    """A repository with DVC's cache of some files and of a folder."""
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run(["dvc", "init", "-q"], cwd=tmp_path, check=True)
    objects = []
    for number, suffix in enumerate(["", "", ".dir"]):
        content = f"results {number}".encode() * 50
        name = hashlib.md5(content, usedforsecurity=False).hexdigest()
        objects.append(tmp_path / ".dvc/cache/files/md5" / name[:2] / f"{name[2:]}{suffix}")
        objects[-1].parent.mkdir(parents=True)
        objects[-1].write_bytes(content)
    return objects


def test_every_flipped_bit_of_a_cached_file_and_of_a_state_is_named(study, cached, monkeypatch):
    root, _ = study
    monkeypatch.chdir(root)
    train = STAGES["train"]
    key = {"trained_on": "ivif", "method": "mma_unet", "variant": "base", "seed": "0", "part": "fusion"}
    monkeypatch.setattr(doctor, "jobs_of", lambda _: [(train, key)])
    cache = cached[0].parents[1]
    monkeypatch.setattr(results, "cache_folder", lambda: cache)
    state = root / train.resume.format(**key)
    save_state(state, {"fingerprint": "x", "weights": {"w": torch.ones(9)}})

    def named(what):
        (check,) = [c for c in doctor.examine(Path("params.yaml"), deep=True) if c.what == what]
        return "" if check.good else check.found

    assert named("cache") == named("states") == ""
    random = Random(5)
    for file in [*cached, state]:
        content = file.read_bytes()
        file.write_bytes(flipped(content, random))
        assert file.name in named("states" if file == state else "cache")
        file.write_bytes(content)
    for _ in range(200):
        file = random.choice(cached)
        content = file.read_bytes()
        file.write_bytes(flipped(content, random))
        assert not results.is_whole(file)
        file.write_bytes(content)
        assert results.is_whole(file)
