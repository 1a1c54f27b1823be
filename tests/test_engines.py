"""Both engines on one small study: equal jobs, nothing left to do for the other, and nothing lost by a kill."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from random import Random

import pytest
import yaml

from mmfuse.errors import UserError
from mmfuse.files.writing import checksum, files_below, sha256
from mmfuse.study.integrity import check_outputs
from mmfuse.study.parameters import load_parameters
from mmfuse.study.stages import jobs_of

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "workflow/scripts"))
SETTINGS = ("MMFUSE_", "MLFLOW_", "SNAKEMAKE", "AWS_")  # of whoever runs the tests
ENVIRONMENT = {
    **{key: value for key, value in os.environ.items() if not key.startswith(SETTINGS)},
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    "DVC_NO_ANALYTICS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": "src",  # each study runs the code in its own folder
}
pytestmark = pytest.mark.engines


def call(folder, *command, good=(0,), environment=ENVIRONMENT):
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode in good, f"{command}: {run.returncode}\n{run.stdout[-4000:]}\n{run.stderr[-4000:]}"
    return run.stdout + run.stderr


def tiny(parameters):
    """A study of a few seconds: one task, one weight-free method, one trained one."""
    parameters["study"] |= {
        "name": "tiny",
        "tasks": {"ivif": {"train": ["synthetic_road"], "test": ["synthetic_road"]}},
        "systems": [
            {"method": "average", "variant": "base", "tasks": ["ivif"]},
            {"method": "mma_unet", "variant": "base", "tasks": ["ivif"]},
        ],
    }
    parameters["generate"]["synthetic_road"] |= {"height": 96, "width": 128, "train": 6, "val": 2, "test": 5}
    parameters["prepare"]["patches"]["square"] |= {"height": 64, "width": 64, "stride": 32}
    parameters["train"] |= {"log_every": 2, "save_every": 2, "validate_every": 4, "threads": 1}
    parameters["report"] |= {"images": 1, "patch": 16}
    parameters["analyse"] = {"cka": parameters["analyse"]["cka"]}  # others may be of methods that are left out
    parameters["analyse"]["cka"]["options"] |= {"height": 32, "width": 32, "batch": 4, "resamples": 5}
    parameters["prepare"]["subset"] = {"synthetic_road": {"test": 4}}  # as many as CKA needs
    boxes = parameters["downstream"].pop("road_boxes")
    boxes["training"] |= {"steps": 4, "batch": 2, "height": 32, "width": 32, "save_every": 2}
    parameters["downstream"] = {"road_boxes": boxes | {"sets": ["a", "average.base"], "seeds": [0]}}
    method = parameters["methods"]["mma_unet"]
    method["network"]["width"] = 4
    for part in method["parts"].values():
        part |= {"steps": 6, "batch": 2, "crop": part["crop"] | {"height": 32, "width": 32}}
    return parameters


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A repository with the working tree's files and the tiny study."""
    folder = tmp_path_factory.mktemp("template") / "project"
    listed = call(ROOT, "git", "ls-files", "--cached", "--others", "--exclude-standard").splitlines()
    for name in (n for n in listed if (ROOT / n).is_file() and not n.startswith(("tests/", "docs/"))):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    write(folder, tiny(yaml.safe_load((ROOT / "workflow/configs/demo.yaml").read_text())))
    call(folder, "git", "init", "-q", "-b", "main")
    call(folder, "git", "config", "user.email", "test@example.org")
    call(folder, "git", "config", "user.name", "test")
    call(folder, "mmfuse", "sync", "--write-dvc")
    call(folder, "dvc", "remote", "modify", "local", "url", "../../remote")
    call(folder, "git", "add", "-A")
    call(folder, "git", "commit", "-qm", "tiny study")
    return folder


@pytest.fixture(scope="module")
def by_snakemake(template):
    folder = clone(template, "snakemake")
    call(folder, "snakemake", "--cores", "2", "all")
    return folder


@pytest.fixture(scope="module")
def by_dvc(template):
    folder = clone(template, "dvc")
    call(folder, "dvc", "repro", "--quiet")
    return folder


def clone(source, name):
    target = source.parent / name
    call(source.parent, "git", "clone", "-q", str(source), str(target))
    return target


def write(folder, parameters):
    (folder / "params.yaml").write_text(yaml.safe_dump(parameters, sort_keys=False))


def plans_nothing(folder):
    return "Nothing to be done" in call(folder, "snakemake", "--dry-run", "--cores", "1")


def results(folder):
    """Checksums of everything that the study is about: data, weights, histories, fused images, scores, page."""
    files = [f for room in ("prepared", "checkpoints") for f in (folder / "data" / room).rglob("*") if f.is_file()]
    files += [
        f
        for room in ("scores", "analysis", "downstream")
        for f in (folder / "reports" / room).rglob("*")
        if f.is_file()
    ]
    own = [f for f in files if not f.name.endswith(("run.json", ".snakemake_timestamp"))]
    sums = {str(f.relative_to(folder)): sha256(f) for f in own}
    fused = [*(folder / "data/fused").glob("*/*"), *(folder / "data/fused").glob("*/labelled/*")]
    fused = [f for f in fused if f.is_dir() and f.name != "labelled"]
    return sums | {str(f.relative_to(folder)): checksum(f) for f in fused}


def demo(folder):
    """Clone this repository, where `make run` has made the study of params.yaml; return what that came to."""
    assert plans_nothing(ROOT), "make run comes first"
    call(folder.parent, "git", "clone", "-q", str(ROOT), str(folder))
    assert (folder / "params.yaml").read_bytes() == (ROOT / "params.yaml").read_bytes()
    return results(ROOT)


def since(folder, moment):
    """The jobs that ran since a moment: each of them starts its log anew."""
    logs = (folder / "logs").rglob("*.log")
    return {str(log.relative_to(folder / "logs")) for log in logs if log.stat().st_mtime > moment}


def behind(folder, file):
    """The logs of the job that writes a file and of all jobs that read it, directly or through others."""
    from jobs import declared_jobs

    jobs = declared_jobs(folder)
    found = [job for job in jobs if file in job.outputs]
    for job in found:
        found += [other for other in jobs if other.inputs & job.outputs and other not in found]
    return {re.search(r"--log logs/(\S+)", job.command)[1] for job in found}


def change_loss(folder):
    parameters = yaml.safe_load((folder / "params.yaml").read_text())
    parameters["methods"]["mma_unet"]["parts"]["fusion"]["loss"]["detail"] = 3.5
    write(folder, parameters)


def test_both_engines_have_the_declared_jobs_and_a_difference_is_named():
    from dataclasses import replace

    from jobs import declared_jobs, differences, dvc_jobs, snakemake_commands
    from sync import dvc_yaml

    declared, dvc, snakemake = declared_jobs(ROOT), dvc_jobs(ROOT), snakemake_commands(ROOT)
    assert len(dvc) == len({job.name for job in dvc}) > 20
    assert differences(declared, dvc, snakemake) == []
    assert (ROOT / "dvc.yaml").read_text() == dvc_yaml(declared)
    first, *others = dvc
    assert "command differs" in differences(declared, [replace(first, command="other"), *others], snakemake)[0]
    dropped = replace(first, inputs=frozenset(sorted(first.inputs)[1:]))
    assert "inputs differ: only declared" in differences(declared, [dropped, *others], snakemake)[0]
    assert f"{first.name} is missing in dvc.yaml" in differences(declared, others, snakemake)
    more = differences(declared, [replace(first, name="more"), *dvc], snakemake)
    assert more == ["more of dvc.yaml is not a job of the study"]
    assert "Snakemake does not run" in differences(declared, dvc, snakemake[1:])[0]
    assert "only Snakemake runs: mmfuse x" in differences(declared, dvc, [*snakemake, "mmfuse x"])


def test_dvc_takes_the_file_of_a_study_without_a_training():
    from jobs import declared_jobs
    from sync import dvc_yaml

    schema = pytest.importorskip("dvc.schema").COMPILED_MULTI_STAGE_SCHEMA
    jobs = [job for job in declared_jobs(ROOT) if "average" in job.name]
    assert jobs
    assert "plots" not in schema(yaml.safe_load(dvc_yaml(jobs)))
    assert schema(yaml.safe_load(dvc_yaml(declared_jobs(ROOT))))["plots"]


def test_every_job_watches_parameters_that_exist():
    from jobs import declared_jobs

    from mmfuse.study.parameters import load_parameters, pick_all

    parameters = load_parameters(ROOT / "params.yaml")
    for job in declared_jobs(ROOT):
        assert job.parameters, job.name
        pick_all(parameters, job.parameters)


def test_after_snakemake_dvc_has_nothing_to_do(by_snakemake):
    assert (by_snakemake / "reports/index.html").is_file()
    call(by_snakemake, "mmfuse", "sync")
    assert "Running stage" not in call(by_snakemake, "dvc", "repro")
    assert plans_nothing(by_snakemake)


def test_the_report_of_snakemake_has_the_figures_with_captions(by_snakemake):
    call(by_snakemake, "snakemake", "--report", "report.zip")
    with zipfile.ZipFile(by_snakemake / "report.zip") as archive:
        held = sorted(
            hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist() if name.endswith(".svg")
        )
        page = archive.read("report/report.html").decode()
    figures = (by_snakemake / "reports/figures").rglob("*.svg")
    assert held == sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in figures)
    assert {"reports/index.html", "reports/tables/synthetic_road.csv"} <= set(re.findall(r'"(reports/[^"]+)"', page))
    assert "Average ranks over the test images of synthetic_road" in page
    (by_snakemake / "report.zip").unlink()


def test_after_a_plain_commit_dvc_has_nothing_to_do(by_snakemake):
    call(by_snakemake, "dvc", "commit", "--force", "--quiet")
    assert "Running stage" not in call(by_snakemake, "dvc", "repro")


def test_after_dvc_snakemake_has_nothing_to_do(by_dvc, by_snakemake):
    assert plans_nothing(by_dvc)
    call(by_dvc, "mmfuse", "sync")
    assert plans_nothing(by_dvc)
    assert "Running stage" not in call(by_dvc, "dvc", "repro")
    assert results(by_dvc) == results(by_snakemake)


def test_every_flipped_bit_of_a_result_is_noticed(by_snakemake, tmp_path, monkeypatch):
    folder = tmp_path / "study"
    shutil.copytree(by_snakemake, folder, symlinks=True)
    monkeypatch.chdir(folder)
    parameters = load_parameters(Path("params.yaml"))
    assert "results:" in call(folder, "mmfuse", "doctor", "--deep", good=(0, 2))
    written = [folder / path for stage, key in jobs_of(parameters) for path in stage.written(key).values()]
    files = [file for path in written for file in (files_below(path) if path.is_dir() else [path])]
    files = [file for file in files if file.stat().st_size]
    random = Random(23)
    for _ in range(200):
        file = random.choice(files)
        content, bit = bytearray(file.read_bytes()), random.randrange(8 * file.stat().st_size)
        times = (file.stat().st_atime_ns, file.stat().st_mtime_ns)
        for expected in (1, 0):
            content[bit // 8] ^= 1 << bit % 8
            file.write_bytes(content)
            os.utime(file, ns=times)
            if expected:
                with pytest.raises(UserError, match="Not what the records of this study say: 1 result"):
                    check_outputs(folder, parameters)
    check_outputs(folder, parameters)
    pack = folder / "data/prepared/synthetic_road/train.safetensors"
    content, times = bytearray(pack.read_bytes()), (pack.stat().st_atime_ns, pack.stat().st_mtime_ns)
    content[-1] ^= 1
    pack.write_bytes(content)
    os.utime(pack, ns=times)
    for command in (["mmfuse", "sync"], ["mmfuse", "stage", "report"], ["mmfuse", "doctor", "--deep"]):
        said = call(folder, *command, good=(2,))
        assert "data/prepared/synthetic_road/train.safetensors" in said, command


def test_parameters_edited_during_a_run_count_from_the_next_start(template):
    folder, scores = clone(template, "edited"), "reports/scores/synthetic_road/average.base.s0.csv"
    with subprocess.Popen(
        ["snakemake", "--cores", "1", "--quiet", "all", "--", scores], cwd=folder, env=ENVIRONMENT
    ) as run:
        while not (folder / "logs/download/synthetic_road.log").exists():
            assert run.poll() is None
            time.sleep(0.05)
        parameters = yaml.safe_load((folder / "params.yaml").read_text())
        parameters["prepare"]["subset"]["synthetic_road"]["test"] = 3
        write(folder, parameters)
        assert run.wait() == 0
    assert len((folder / scores).read_text().splitlines()) == 1 + 4
    record = json.loads((folder / "data/prepared/synthetic_road/run.json").read_text())
    assert record["parameters"]["prepare.subset.synthetic_road"] == {"test": 4}
    planned = call(folder, "snakemake", "--dry-run", "--cores", "1", "--", scores)
    assert re.search(r"Params have changed.*'prepare.subset.synthetic_road': {'test': 3}", planned)


def test_dvc_refuses_a_study_that_its_file_was_not_written_for(by_dvc):
    """Else it would run jobs with the files of another study, and record these as their inputs."""
    folder = clone(by_dvc, "stale")
    parameters = yaml.safe_load((folder / "params.yaml").read_text())
    parameters["study"]["systems"].append({"method": "maximum", "variant": "base", "tasks": ["ivif"]})
    write(folder, parameters)
    said = call(folder, "dvc", "repro", "evaluate-synthetic_road-average-base-0", good=(1, 255))
    assert "dvc.yaml belongs to another study" in said
    assert "mmfuse sync --write-dvc" in said
    assert not (folder / "data/raw").exists()


def test_changed_code_reruns_the_jobs_that_it_is_behind_and_no_other(by_dvc):
    def out_of_date():
        call(by_dvc, "dvc", "repro", "--quiet", "code")
        return set(re.findall(r"^([a-z_]+)[-:]", call(by_dvc, "dvc", "status"), re.MULTILINE))

    module = by_dvc / "src/mmfuse/metrics/contrast.py"
    before = module.read_text()
    assert out_of_date() == set()
    module.write_text(before + "\n# a comment\n")
    assert out_of_date() == {"evaluate", "report"}
    module.write_text(before)
    assert out_of_date() == set()


def test_push_and_pull_restore_a_second_clone(by_snakemake):
    call(by_snakemake, "git", "add", "dvc.lock")
    call(by_snakemake, "git", "commit", "-qm", "results")
    call(by_snakemake, "dvc", "push", "--quiet")
    other = clone(by_snakemake, "pulled")
    call(other, "dvc", "pull", "--quiet")
    assert results(other) == results(by_snakemake)
    assert checksum(other / "data/raw/synthetic_road") == checksum(by_snakemake / "data/raw/synthetic_road")
    call(other, "mmfuse", "sync")
    assert plans_nothing(other)


def test_a_changed_loss_weight_reruns_the_same_jobs_in_both(by_snakemake, by_dvc):
    call(by_dvc, "mmfuse", "sync")
    ran = {}
    for folder, command in ((by_snakemake, ("snakemake", "--cores", "2", "all")), (by_dvc, ("dvc", "repro", "-q"))):
        change_loss(folder)
        moment = time.time()
        refused = call(folder, "mmfuse", "sync", good=(2,))
        assert "Neither engine is up to date" in refused
        call(folder, *command)
        ran[command[0]] = since(folder, moment)
    label = "synthetic_road.mma_unet.base.s0.log"
    analysed = "analyse/synthetic_road.cka.mma_unet.base.s0.log"
    expected = {"train/ivif.mma_unet.base.s0.fusion.log", f"fuse/{label}", f"evaluate/{label}", analysed, "report.log"}
    reached = behind(by_dvc, "data/checkpoints/ivif/mma_unet/base/s0/fusion.safetensors")
    assert expected <= reached, "more only where a further stage reads these files"
    assert ran == {"snakemake": reached, "dvc": reached}
    assert results(by_dvc) == results(by_snakemake)


def test_dvc_mlflow_and_our_own_command_tell_the_same_story(by_snakemake):
    """Goes on from the tests before: one commit has the results, and a loss weight has been changed since."""
    from mlflow import MlflowClient

    def said(*command):
        run = subprocess.run(command, cwd=by_snakemake, env=ENVIRONMENT, capture_output=True, text=True, check=True)
        return json.loads(run.stdout)

    call(by_snakemake, "mmfuse", "sync")
    call(by_snakemake, "git", "commit", "-qam", "changed loss weight")
    key, changed = "methods.mma_unet.parts.fusion.loss.detail", {}
    assert said("dvc", "params", "diff", "--json", "HEAD~1")["params.yaml"] == {
        key: {"old": 3.0, "new": 3.5, "diff": 0.5}
    }
    assert "failed to load" not in call(by_snakemake, "dvc", "params", "diff", "HEAD~1"), "nor a complaint beside it"
    for metric, values in said("dvc", "metrics", "diff", "--json", "HEAD~1")["reports/metrics.json"].items():
        changed[metric] = values["new"] - values["old"]
    assert {metric.rpartition(".")[0] for metric in changed} == {"synthetic_road.mma_unet.base"}
    plots = by_snakemake / "dvc_plots"
    call(by_snakemake, "dvc", "plots", "diff", "HEAD~1", "--out", str(plots))
    assert "train-ivif-mma_unet-base-0-fusion" in (plots / "index.html").read_text()

    ours = said("mmfuse", "compare", "HEAD~1", "HEAD", "--json")
    assert ours["parameters"] == {key: [3.0, 3.5]}
    assert ours["code"] == ours["data"] == {}
    moved = {
        f"{row['dataset']}.{row['system']}.{row['metric']}": row["difference"]
        for row in ours["scores"]
        if row["verdict"] != "equal" and "." not in row["metric"]
    }
    assert moved == pytest.approx(changed, abs=1e-9)

    client = MlflowClient(f"sqlite:///{by_snakemake}/mlflow.db")
    tracked = client.search_runs(
        [client.get_experiment_by_name("tiny").experiment_id],
        "tags.level = 'study'",
        order_by=["attributes.start_time"],
    )
    assert [run.info.run_name for run in tracked] == ["tiny-1", "tiny-2"]
    assert tracked[1].data.tags["changed"] == f"{key}: 3.0 -> 3.5"
    before, after = (run.data.metrics for run in tracked)
    differences = {name.replace("/", "."): after[name] - before[name] for name in before if after[name] != before[name]}
    assert differences == pytest.approx(changed, abs=1e-9)
    kept = said("mmfuse", "compare", "tiny-1", "tiny-2", "--json")
    named = [{**row, "run": "HEAD"} for row in kept["scores"]]
    assert (kept["parameters"], named) == (ours["parameters"], ours["scores"])


def test_the_best_model_is_registered_and_loads(by_snakemake):
    said = call(
        by_snakemake, "mmfuse", "register", "--study", "tiny", "--dataset", "synthetic_road", "--metric", "SSIM"
    )
    assert "registered tiny-ivif, version 1: mma_unet.base.s0" in said
    code = """
import mlflow, torch
from pathlib import Path
from mmfuse.training.checkpoints import load_method
mlflow.set_tracking_uri("sqlite:///mlflow.db")
model = mlflow.pytorch.load_model("models:/tiny-ivif@best")
info = mlflow.models.get_model_info("models:/tiny-ivif@best")
assert info.signature.inputs.inputs[0].shape == (-1, 2, -1, -1), info.signature
assert info.saved_input_example_info
method, _ = load_method(Path("data/checkpoints/ivif/mma_unet/base/s0/fusion.safetensors"))
pair = torch.rand(2, 2, 45, 70)
with torch.inference_mode():
    assert torch.equal(model(pair), method(pair[:, :1], pair[:, 1:]))
"""
    call(by_snakemake, sys.executable, "-c", code)
    page = (ROOT / "docs/how-to/compare-runs.md").read_text()
    [example] = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    call(by_snakemake, sys.executable, "-c", f"{example}\nassert fused.shape == (1, 1, 120, 160)")
    refused = call(
        by_snakemake, "mmfuse", "register", "--study", "x", "--dataset", "synthetic_road", "--metric", "SSIM", good=(2,)
    )
    assert "is not the study x" in refused


def test_images_fused_elsewhere_join_the_study(by_snakemake):
    folder = by_snakemake.parent / "elsewhere"
    shutil.copytree(by_snakemake, folder)
    ours, theirs = folder / "data/fused/synthetic_road/average.base.s0", folder / "data/external/u2/synthetic_road"
    parameters = yaml.safe_load((folder / "params.yaml").read_text())
    parameters["study"]["external"] = {"u2": ["synthetic_road"]}
    write(folder, parameters)
    assert "data/external/u2/synthetic_road" in call(
        folder, "snakemake", "--dry-run", good=(1,)
    )  # names what is missing
    shutil.copytree(ours, theirs, ignore=shutil.ignore_patterns(".*"))
    moment = time.time()
    call(folder, "snakemake", "--cores", "2", "all")
    system = "synthetic_road.u2.external.s0.log"
    assert since(folder, moment) == {f"fuse/{system}", f"evaluate/{system}", "report.log"}
    scores = folder / "reports/scores/synthetic_road"
    assert (scores / "u2.external.s0.csv").read_bytes() == (scores / "average.base.s0.csv").read_bytes()
    assert "u2,external" in (folder / "reports/tables/synthetic_road.csv").read_text()
    call(folder, "mmfuse", "sync")
    assert "up to date" in call(folder, "dvc", "status")

    path = min(theirs.glob("*.png"))
    shutil.copyfile(folder / "data/fused/synthetic_road/mma_unet.base.s0" / path.name, path)  # in place
    moment = time.time()
    call(folder, "dvc", "repro", "--quiet")
    assert since(folder, moment) == {f"fuse/{system}", f"evaluate/{system}", "report.log"}
    assert (scores / "u2.external.s0.csv").read_bytes() != (scores / "average.base.s0.csv").read_bytes()


def test_weights_from_elsewhere_join_the_study(by_snakemake):
    folder = by_snakemake.parent / "given"
    shutil.copytree(by_snakemake, folder)
    file = folder / "data/external/weights/theirs.safetensors"
    parameters = yaml.safe_load((folder / "params.yaml").read_text())
    parameters["methods"]["mma_unet"]["variants"]["given"] = {"weights": file.relative_to(folder).as_posix()}
    parameters["study"]["systems"].append({"method": "mma_unet", "variant": "given", "tasks": ["ivif"]})
    write(folder, parameters)
    for engine in ("snakemake --dry-run --cores 1", "mmfuse sync --write-dvc"):
        assert "names a missing file" in call(folder, *engine.split(), good=(1, 2)), engine
    file.parent.mkdir(parents=True)
    shutil.copyfile(folder / "data/checkpoints/ivif/mma_unet/base/s0/fusion.safetensors", file)
    moment = time.time()
    call(folder, "snakemake", "--cores", "2", "all")
    own = {f"{stage}/synthetic_road.mma_unet.given.s0.log" for stage in ("fuse", "evaluate")} | {"report.log"}
    assert since(folder, moment) == own
    scores = folder / "reports/scores/synthetic_road"
    assert (scores / "mma_unet.given.s0.csv").read_bytes() == (scores / "mma_unet.base.s0.csv").read_bytes()
    assert "mma_unet,given" in (folder / "reports/tables/synthetic_road.csv").read_text()
    page = (folder / "reports/index.html").read_text()
    assert "<caption>Given weights</caption>" in page
    assert sha256(file) in page
    call(folder, "mmfuse", "sync")
    assert "up to date" in call(folder, "dvc", "status")

    other = "from pathlib import Path; from sys import argv; from mmfuse.training.checkpoints import *; "
    other += "path = Path(argv[1]); "
    other += "weights, card = read_weights(path); save_weights(path, {k: v * 1.01 for k, v in weights.items()}, card)"
    call(folder, sys.executable, "-c", other, str(file))
    moment = time.time()
    call(folder, "dvc", "repro", "--quiet")
    assert since(folder, moment) == own
    assert (scores / "mma_unet.given.s0.csv").read_bytes() != (scores / "mma_unet.base.s0.csv").read_bytes()


def test_a_kill_in_stage_two_changes_nothing(template):
    """Kill -9 while the fusion part trains; the next run goes on from the saved state and ends with the same bytes."""
    undisturbed, killed = clone(template, "undisturbed"), clone(template, "killed")
    for folder in (undisturbed, killed):
        parameters = yaml.safe_load((folder / "params.yaml").read_text())
        parameters["methods"]["mma_unet"]["parts"]["fusion"]["steps"] = 60
        write(folder, parameters)
    target = "data/checkpoints/ivif/mma_unet/base/s0/fusion.safetensors"
    call(undisturbed, "snakemake", "--cores", "2", target)
    state = killed / "data/resume/ivif/mma_unet/base/s0/fusion.pt"
    command = ["snakemake", "--cores", "2", "--rerun-incomplete", target]
    with subprocess.Popen(
        command,
        cwd=killed,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as run:
        deadline = time.monotonic() + 600
        while not state.is_file() and time.monotonic() < deadline:
            time.sleep(0.05)
        os.killpg(run.pid, signal.SIGKILL)
    assert state.is_file(), "the training was not under way"
    assert not (killed / target).exists()
    call(killed, "snakemake", "--unlock")
    call(killed, *command)
    assert "resuming after step" in (killed / "logs/train/ivif.mma_unet.base.s0.fusion.log").read_text()
    assert not state.exists()
    assert sha256(killed / target) == sha256(undisturbed / target)
    for end in (".last.safetensors", ".history.csv"):
        one, other = ((folder / target).with_suffix("").with_suffix(end) for folder in (killed, undisturbed))
        assert sha256(one) == sha256(other)
