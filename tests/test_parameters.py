"""params.yaml: what is refused and how clearly, and that every reader reads the same numbers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from mmfuse.errors import UserError
from mmfuse.files.reading import read_yaml
from mmfuse.study import plan
from mmfuse.study.parameters import flatten, load_parameters, pick, pick_all, project_root
from mmfuse.study.stages import complete_weights

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "workflow/scripts"))
SCHEMA = ROOT / "workflow/schemas/params.schema.yaml"
CATALOG = yaml.safe_load((ROOT / "data/catalog.yaml").read_text(encoding="utf-8"))["datasets"]
FILES = [ROOT / "params.yaml", *sorted((ROOT / "workflow/configs").glob("*.yaml"))]


def refused(project, change):
    """Change the project's parameters, expect a refusal, return what it says."""
    path = project / "params.yaml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    change(values)
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_parameters(path)
    return str(caught.value)


def system(values, method):
    """The study's first system of a method, wherever it stands."""
    return next(entry for entry in values["study"]["systems"] if entry["method"] == method)


def fusion(values):
    return values["methods"]["mma_unet"]["parts"]["fusion"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_configuration_is_valid(path):
    assert load_parameters(path)["study"]["systems"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_both_yaml_readers_agree(path):
    load_yaml = pytest.importorskip("dvc.utils.serialize").load_yaml
    assert load_yaml(str(path)) == yaml.safe_load(path.read_text(encoding="utf-8"))


def test_params_yaml_is_one_of_the_configurations():
    content = {path.read_bytes() for path in FILES[1:]}
    assert FILES[0].read_bytes() in content


def described(node, where=""):
    """Yield every property of a JSON Schema with its place, but for those that say which of several forms it is."""
    if isinstance(node, dict):
        if isinstance(node.get("properties"), dict):
            found = ((f"{where}.{key}", value) for key, value in node["properties"].items())
            yield from (one for one in found if isinstance(one[1], dict) and "const" not in one[1])
        for key, value in node.items():
            yield from described(value, f"{where}.{key}")
    elif isinstance(node, list):
        for value in node:
            yield from described(value, where)


@pytest.mark.parametrize(
    ("name", "least", "first"), [("params", 60, r"\S"), ("catalog", 40, "[A-Z]"), ("leaderboard", 10, "[A-Z]")]
)
def test_schema_describes_each_key_in_one_sentence(name, least, first):
    schema = yaml.safe_load((SCHEMA.parent / f"{name}.schema.yaml").read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    keys = dict(described(schema))
    assert len(keys) > least
    for place, value in keys.items():
        text = value.get("description", "")
        assert re.fullmatch(rf"{first}.*\.", text), f"{place}: {text!r}"
        assert not re.search(r"[.!?] [A-Z]", text), f"{place} has more than one sentence"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda v: v["train"].update(save_evry=1), ["'save_evry'", "train", "did you mean 'save_every'"]),
        (lambda v: v.update(evaluat={}), ["'evaluat'", "did you mean 'evaluate'"]),
        (lambda v: fusion(v).update(lerning_rate=0.1), ["'lerning_rate'", "parts.fusion", "'learning_rate'"]),
        (lambda v: v["study"]["systems"][0].update(seed=1), ["'seed'", "study.systems.0"]),
        (lambda v: v["study"]["tasks"].update(medical={"train": [], "test": []}), ["'medical'", "study.tasks"]),
        (lambda v: v["prepare"]["patches"]["square"].update(strid=1), ["'strid'", "did you mean 'stride'"]),
    ],
)
def test_an_unknown_key_is_named_with_the_closest_known_one(project, change, words):
    said = refused(project, change)
    for word in ["params.yaml", "unknown key", *words]:
        assert word in said


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda v: v["train"].pop("save_every"), ["train", "'save_every' is a required property"]),
        (lambda v: v["train"].update(accelerator="tpu"), ["train.accelerator", "cuda", "tpu"]),
        (lambda v: v["prepare"].update(val_fraction=1), ["prepare.val_fraction", "1"]),
        (
            lambda v: v["prepare"].update(subset={"synthetic_road": {"train": 0}}),
            ["prepare.subset.synthetic_road", "0"],
        ),
        (lambda v: v["prepare"].update(subset={"msrs": {"train": 5}}), ["prepare.subset", "synthetic_road", "msrs"]),
        (lambda v: fusion(v).update(batch=0), ["parts.fusion.batch", "0"]),
        (lambda v: fusion(v).update(batch=True), ["parts.fusion.batch", "integer"]),
        (lambda v: fusion(v).update(epochs=3), ["parts.fusion", "oneOf"]),
        (lambda v: fusion(v).pop("steps"), ["parts.fusion", "required"]),
        (lambda v: fusion(v)["loss"].update(ssim=-1), ["fusion.loss.ssim", "-1"]),
        (lambda v: v["study"].update(seeds=[]), ["study.seeds"]),
        (lambda v: v["study"].update(seeds=[1, 1]), ["study.seeds"]),
        (lambda v: v["study"].update(name="a/b"), ["study.name", "a/b"]),
        (lambda v: v["study"].update(name="study\n"), ["study.name"]),
        (lambda v: v["study"]["tasks"]["ivif"].update(test=["synthetic_road\n"]), ["study.tasks.ivif.test"]),
        (lambda v: v["study"]["systems"][0].update(method="average\n"), ["study.systems.0.method"]),
        (lambda v: v["methods"].update({"average\n": {}}), ["methods"]),
    ],
)
def test_a_wrong_value_is_named(project, change, words):
    said = refused(project, change)
    for word in words:
        assert word in said


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda v: v["evaluate"].update(metrics=["EN", "SIM"]),
            ["'SIM'", "did you mean 'SSIM'"],
        ),
        (lambda v: v["evaluate"].update(metrics=["EN", "Qcb"]), ["evaluate: Unknown metric: 'Qcb'", "Qcb.mma_unet"]),
        (
            lambda v: v["evaluate"].update(metrics=["EN", "EN.vfb"]),
            ["'vfb'", "did you mean 'vifb'"],
        ),
        (lambda v: v["evaluate"].update(convention="lkc"), ["evaluate: Unknown convention: 'lkc'", "lkc_funet"]),
        (lambda v: v["evaluate"].update(beside=["cdfuse"]), ["evaluate: Unknown convention", "did you mean 'cddfuse'"]),
        (lambda v: v["study"]["tasks"]["ivif"].update(test=["tnoo"]), ["study.tasks.ivif.test", "did you mean 'tno'"]),
        (
            lambda v: v["study"]["tasks"]["ivif"].update(train=["msr"]),
            ["tasks.ivif.train", "did you mean 'msrs'"],
        ),
        (
            lambda v: v["study"]["tasks"]["ivif"].update(test=["harvard_ct_mri"]),
            ["study.tasks.ivif.test", "'harvard_ct_mri', which is a dataset of the task mif"],
        ),
    ],
)
def test_a_wrong_name_is_named_before_the_first_job(project, change, words):
    said = refused(project, change)
    for word in words:
        assert word in said


@pytest.mark.parametrize("text", ["1e-3", "5e4"])
def test_a_number_that_yaml_reads_as_text_is_explained(project, text):
    path = project / "params.yaml"
    before = path.read_text(encoding="utf-8")
    path.write_text(before.replace("learning_rate: 0.001", f"learning_rate: {text}", 1), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_parameters(path)
    assert f"write {float(text)!r}" in str(caught.value)
    assert f"reads {text} as text" in str(caught.value)


@pytest.mark.parametrize(("text", "base"), [("010", 8), ("0_17", 8), ("-07", 8), ("1:30", 60), ("1:30.5", 60)])
@pytest.mark.parametrize("line", ["steps: {}", "- {}", "[1, {}]", "{{a: {}}}", "{}: a"])
def test_a_number_that_yaml_reads_to_another_base_is_refused(tmp_path, line, text, base):
    path = tmp_path / "x.yaml"
    path.write_text(line.format(text), encoding="utf-8")
    with pytest.raises(UserError, match=rf"{text} would be read as a number to base {base}(.|\n)*line 1"):
        read_yaml(path)
    path.write_text(line.format(f'"{text}"'), encoding="utf-8")
    read_yaml(path)


@pytest.mark.parametrize("text", ["0", "0.5", "1_000", "-3", "10", "0.01", "1.5", "a:b", "089x", "2026-11-30"])
def test_other_values_are_read_as_they_are(tmp_path, text):
    path = tmp_path / "x.yaml"
    path.write_text(f"a: {text}", encoding="utf-8")
    assert read_yaml(path) == yaml.safe_load(f"a: {text}")


@pytest.mark.parametrize("tasks", [["ivif"], ["ivif", "mif"], ["mif"]])
def test_a_system_that_is_named_twice_is_refused(project, tasks):
    again = {"method": "average", "variant": "base", "tasks": tasks}
    said = refused(project, lambda v: v["study"]["systems"].append(again))
    assert f"average.base for {tasks[0]}" in said
    assert "study.systems" in refused(project, lambda v: v["study"]["systems"][0].update(tasks=["ivif", "ivif"]))


@pytest.mark.parametrize("key", ["size", "nfiles"])
def test_names_that_dvc_overlooks_are_refused(project, key):
    said = refused(project, lambda v: v["methods"]["laplacian"]["network"].update({key: 3}))
    assert f"methods.laplacian.network.{key}" in said
    assert "DVC" in said


def test_references_to_other_blocks(project):
    path = project / "params.yaml"
    original = path.read_text(encoding="utf-8")
    cases = [
        (lambda v: fusion(v).update(patches="squar"), ["fusion.patches", "whole, square", "squar"]),
        (lambda v: v["study"]["tasks"].pop("mif"), ["'mif'"]),
        (lambda v: system(v, "average").update(variant="none"), ["'none' of average"]),
        (lambda v: system(v, "mma_unet").update(variant="e9"), ["'e9' of mma_unet", "base"]),
        (lambda v: system(v, "average").update(method="averag"), ["'averag'", "average"]),
        (lambda v: v["methods"].update(mma_unett={}), ["'mma_unett'", "mma_unet"]),
    ]
    for change, words in cases:
        path.write_text(original, encoding="utf-8")
        said = refused(project, change)
        for word in words:
            assert word in said


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"parts": {"fusion": {"lerning_rate": 1}}}, ["'lerning_rate'", "fusion"]),
        ({"parts": {"fusion": {"steps": 0}}}, ["fusion.steps"]),
        ({"part": {}}, ["'part'", "did you mean 'parts'"]),
        ({"parts": {"fusion": {"patches": "none"}}}, ["fusion", "none"]),
    ],
)
def test_a_variant_is_checked_as_the_block_it_changes(project, changes, words):
    said = refused(project, lambda v: v["methods"]["mma_unet"]["variants"].update(mine=changes))
    for word in ["mma_unet", "mine", *words]:
        assert word in said


@pytest.fixture
def with_sets(project):
    """A project in which MMA-UNet is trained on a set of its own for each task."""
    path = project / "params.yaml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    values["study"]["training_sets"] = {
        "road": {"task": "ivif", "train": ["msrs"], "val": ["roadscene"], "pairs": {"msrs": 9}},
        "brain": {"task": "mif", "train": ["harvard_ct_mri"], "val": ["harvard_ct_mri"]},
    }
    values["methods"]["mma_unet"]["trained_on"] = {"ivif": "road", "mif": "brain"}
    values["prepare"]["val_pairs"] = {"roadscene": 50, "msrs": 0}
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    load_parameters(path)
    return project


def road(values):
    return values["study"]["training_sets"]["road"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda v: road(v).update(trian=["msrs"]), ["'trian'", "training_sets.road", "did you mean 'train'"]),
        (lambda v: road(v).pop("val"), ["training_sets.road", "'val' is a required property"]),
        (lambda v: road(v).update(train=[]), ["training_sets.road.train"]),
        (lambda v: road(v)["pairs"].update(msrs=0), ["training_sets.road.pairs.msrs", "0"]),
        (lambda v: road(v).update(train=["msr"], pairs={}), ["training_sets.road", "catalog", "did you mean 'msrs'"]),
        (lambda v: road(v).update(val=["roadscen"]), ["training_sets.road", "catalog", "did you mean 'roadscene'"]),
        (
            lambda v: road(v).update(val=["harvard_ct_mri"]),
            ["training_sets.road", "dataset of the task mif", "datasets of the task ivif", "roadscene"],
        ),
        (lambda v: road(v).update(train=["tno"], pairs={}), ["'tno'", "only test pairs", "msrs, msrs_train30, m3fd"]),
        (lambda v: road(v).update(pairs={"msr": 3}), ["road.pairs", "'msr'", "did you mean 'msrs'"]),
        (lambda v: road(v).update(pairs={"msrs": 1084}), ["road.pairs", "at most 1083", "1084"]),
        (
            lambda v: v["methods"]["mma_unet"]["trained_on"].update(ivif="raod"),
            ["mma_unet.base", "did you mean 'road'"],
        ),
        (lambda v: v["methods"]["mma_unet"].update(trained_on="roads"), ["'roads'", "ivif, mif, road, brain"]),
        (lambda v: v["methods"]["mma_unet"].update(trained_on={"vis": "road"}), ["trained_on"]),
        (lambda v: v["study"]["training_sets"].update(ivif=road(v)), ["no training set may be called 'ivif'"]),
        (lambda v: road(v).update(val=[]), ["part vi_unet", "'road' has no validation pairs", "weights to last"]),
        (
            lambda v: v["prepare"]["val_pairs"].update(roadscene=0),
            ["part vi_unet", "'road' has no validation pairs", "roadscene (prepare.val_pairs: 0)"],
        ),
        (lambda v: v["prepare"]["val_pairs"].update(m3fd=3), ["prepare.val_pairs", "not part of the study", "m3fd"]),
        (lambda v: v["prepare"]["val_pairs"].update(roadscen=3), ["prepare.val_pairs", "did you mean 'roadscene'"]),
        (lambda v: v["prepare"]["val_pairs"].update(msrs=-1), ["prepare.val_pairs.msrs", "-1"]),
        (
            lambda v: (
                v["methods"]["mma_unet"].pop("trained_on"),
                v["study"]["tasks"]["ivif"].update(train=[]),
                v["study"].update(systems=[system(v, "mma_unet")]),
            ),
            ["mma_unet", "'ivif'", "study.tasks.ivif.train"],
        ),
    ],
)
def test_a_wrong_training_set_is_named(with_sets, change, words):
    said = refused(with_sets, change)
    for word in words:
        assert word in said


def test_a_set_for_both_tasks_takes_datasets_of_either(with_sets):
    path = with_sets / "params.yaml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    sets = values["study"]["training_sets"]
    sets["all"] = {"task": "both", "train": ["msrs", "harvard_ct_mri"], "val": ["roadscene"]}
    values["methods"]["lkc_funet"]["trained_on"] = "all"
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    study = load_parameters(path)
    own = [one for one in plan.trainings(study) if one.method == "lkc_funet" and one.variant == "base"]
    assert [one.trained_on for one in own] == ["all"], "one training serves both tasks"
    assert {plan.task_of(study, dataset) for dataset in ("msrs", "roadscene")} == {"ivif"}
    assert plan.task_of(study, "harvard_ct_mri") == "mif"
    weights = {
        complete_weights(study, system)
        for task in ("ivif", "mif")
        for system in plan.systems_of(study, task)
        if (system.method, system.variant) == ("lkc_funet", "base")
    }
    assert len(weights) == 1
    sets["all"]["train"].append("openms")
    assert "does not say which task" in refused(with_sets, lambda v: v.update(values))


def test_a_training_set_that_no_system_uses_asks_for_no_dataset(with_sets):
    path = with_sets / "params.yaml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    values["study"]["training_sets"]["spare"] = {"task": "ivif", "train": ["m3fd"], "val": []}
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    assert {"msrs", "roadscene"} <= set(plan.datasets_of(load_parameters(path))) <= set(CATALOG) - {"m3fd"}


def test_a_file_that_is_no_yaml_or_not_there(project):
    (project / "params.yaml").write_text("study: [", encoding="utf-8")
    with pytest.raises(UserError, match="not valid YAML"):
        load_parameters(project / "params.yaml")
    (project / "params.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not valid YAML"):
        load_parameters(project / "params.yaml")
    (project / "params.yaml").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="top level"):
        load_parameters(project / "params.yaml")
    with pytest.raises(UserError, match="File not found"):
        load_parameters(project / "none.yaml")


def test_the_project_is_found_from_below(project, tmp_path):
    (project / "a/b").mkdir(parents=True)
    assert project_root(project / "a/b") == project.resolve()
    with pytest.raises(UserError, match="No mmfuse project"):
        project_root(tmp_path)


def test_picking_by_dotted_key(parameters, project):
    assert pick(parameters, "prepare.patches.square.stride") == 32
    catalog = yaml.safe_load((project / "data/catalog.yaml").read_text(encoding="utf-8"))
    files = {}
    key = "data/catalog.yaml:datasets.msrs"
    assert pick(parameters, key, files) == catalog["datasets"]["msrs"]
    assert list(files) == ["data/catalog.yaml"]
    assert pick_all(parameters, [key, "train.threads"]) == {key: catalog["datasets"]["msrs"], "train.threads": 1}
    for missing in ("prepare.patches.none", "train.threads.deeper", "data/catalog.yaml:datasets.none"):
        with pytest.raises(UserError, match=re.escape(missing)):
            pick(parameters, missing)


def test_flattening():
    nested = {"a": {"b": {"c": 1}, "d": [1, {"e": 2}]}, "f": {}, "g": None}
    assert flatten(nested) == {"a.b.c": 1, "a.d": [1, {"e": 2}], "f": {}, "g": None}


def test_every_mistake_is_named_at_once_with_its_line(project):
    """Any number of mistakes of any kind, each once and in the order of the file."""
    path = project / "params.yaml"
    lines = path.read_text(encoding="utf-8").splitlines()
    wrong = {"  save_every: ": "  save_evry: 1", "  threads: ": "  threads: many", "  images: ": "  images: 1e3"}
    changed = []
    for number, line in enumerate(lines):
        start = next((start for start in wrong if line.startswith(start)), None)
        if start is not None:
            lines[number] = wrong[start]
            changed.append(number + 1)
    assert len(changed) >= 3
    path.write_text("\n".join([*lines, "evil: 1"]), encoding="utf-8")
    changed.append(len(lines) + 1)
    with pytest.raises(UserError) as caught:
        load_parameters(path)
    named = [int(number) for number in re.findall(r"^\S+params\.yaml, line (\d+): ", str(caught.value), re.MULTILINE)]
    assert named == sorted(named)
    assert set(changed) <= set(named)
    assert str(caught.value).startswith(f"{path}: {len(named)} mistakes.")
    assert str(caught.value).count("unknown key 'save_evry'") == 1


def test_the_line_of_a_mistake_inside_a_list(project, parameters):
    parameters["study"]["systems"][1]["variant"] = 5
    path = project / "params.yaml"
    path.write_text(yaml.safe_dump(parameters, sort_keys=False), encoding="utf-8")
    line = path.read_text(encoding="utf-8").splitlines().index("    variant: 5") + 1
    with pytest.raises(UserError, match=rf"params\.yaml, line {line}: study\.systems\.1\.variant is not valid"):
        load_parameters(path)


def test_the_types_of_the_parameters_are_those_of_the_schema():
    script = [sys.executable, "workflow/scripts/schema_types.py", "--check"]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    run = subprocess.run(script, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr + "run python workflow/scripts/schema_types.py"


TEXT, ANY = {"type": "string"}, {"type": "object"}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "integer"}, "int"),
        ({"enum": ["a", "b"]}, "Literal['a', 'b']"),
        ({"type": ["number", "null"]}, "float | None"),
        ({"oneOf": [{"type": "null"}, TEXT]}, "str | None"),
        ({"type": "array", "items": {"$ref": "#/$defs/n"}}, "list[int]"),
        (ANY | {"additionalProperties": {"type": "boolean"}}, "dict[str, bool]"),
        (ANY | {"additionalProperties": False, "patternProperties": {"x": TEXT}}, "dict[str, str]"),
        (ANY, "dict[str, Any]"),
        (ANY | {"properties": {"k": TEXT}}, "K"),
        ({}, "Any"),
    ],
)
def test_each_kind_of_schema_has_its_type(schema, expected):
    from schema_types import Types

    top = {"type": "object", "properties": {}, "$defs": {"n": {"type": "integer"}}}
    assert Types(top).of(schema, "K") == expected


def test_a_block_says_which_keys_may_be_left_out():
    from schema_types import Types

    schema = ANY | {"title": "A block", "required": ["a"], "properties": {"a": TEXT, "b": {}}}
    text = Types(schema).classes["Parameters"]
    assert "    a: str\n    b: NotRequired[Any]" in text
    assert '"""A block."""' in text
