"""`mmfuse params`: edits that keep everything else, are checked first, and sweeps that become systems of the study."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from mmfuse.files.editing import with_item, with_value
from mmfuse.files.reading import read_yaml
from mmfuse.study.parameters import load_parameters
from mmfuse.study.stages import jobs_of

ROOT = Path(__file__).parents[1]
FILES = [ROOT / "params.yaml", *sorted((ROOT / "workflow/configs").glob("*.yaml"))]
TINY = ROOT / "workflow/configs/tiny.yaml"


@pytest.fixture
def tiny(project):
    """The project with the parameters of the tiny study."""
    shutil.copy(TINY, project / "params.yaml")
    return project / "params.yaml"


def leaves(values, above=()):
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*above, key))
        else:
            yield (*above, key)


def set_in(values, keys, value):
    for key in keys[:-1]:
        values = values.setdefault(key, {})
    values[keys[-1]] = value


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_each_value_of_each_study_can_be_set_and_nothing_else_changes(path):
    text = path.read_text(encoding="utf-8")
    places = list(leaves(yaml.safe_load(text)))
    assert len(places) > 60
    shared, step = 0, len(places) // 9
    for number, keys in enumerate(places[::step]):
        value = [7, "on", [1, {"x": None}], None, 0.25, "ä: #", {"k": 1e-05}][number % 7]
        found, expected = with_value(text, keys, value), json.loads(json.dumps(yaml.safe_load(text)))
        set_in(expected, keys, value)
        if yaml.safe_load(found) != expected:
            assert "&" in text, keys
            shared += 1  # an alias repeats the value elsewhere; the command refuses that
            continue
        before, after = text.splitlines(), found.splitlines()
        same = len([1 for line in before if line in after])
        assert same >= len(before) - (before != after) * max(1, len(before) - len(after) + 1), keys
        comments = [line for line in before if line.lstrip().startswith("#")]
        assert [line for line in after if line.lstrip().startswith("#")] == comments, keys
    assert shared < 9


TEXT = """\
# top
a: 1   # first
b:
  # inside
  c: [1, 2]  # list

  d: {e: 1, f: {}}  # flow
empty:
list:
- x   # one
- y

anchored: &some
  two: &inner {x: 2}
merged: {<<: *inner, one: 1}

# before last
last:
    deep:
        text: >
            folded
            words
    # the end
"""


@pytest.mark.parametrize(
    ("keys", "value", "old", "new"),
    [
        (["a"], 2, "a: 1   # first", "a: 2   # first"),
        (["b", "c"], [0], "c: [1, 2]  # list", "c: [0]  # list"),
        (["b", "d", "e"], None, "{e: 1,", "{e: null,"),
        (["b", "d", "g"], {"h": 1}, "f: {}}  # flow", "f: {}, g: {h: 1}}  # flow"),
        (["b", "d", "f", "x", "y"], 1, "f: {}}  # flow", "f: {x: {y: 1}}}  # flow"),
        (["b", "new"], "on", "}}  # flow\n", "}}  # flow\n  new: 'on'\n"),
        (["b", "new", "er"], 0.5, "}}  # flow\n", "}}  # flow\n  new:\n    er: 0.5\n"),
        (["empty"], 3, "empty:\n", "empty: 3\n"),
        (["list"], [1], "list:\n- x   # one\n- y\n", "list: [1]\n"),
        (["last", "deep", "text"], "t", "text: >\n            folded\n            words\n", "text: t\n"),
        (["last", "deep", "more"], 1, "            words\n", "            words\n        more: 1\n"),
        (["last", "more"], 1, "            words\n", "            words\n    more: 1\n"),
        (["anchored", "three"], 3, "{x: 2}\n", "{x: 2}\n  three: 3\n"),
        (["merged", "x"], 3, "one: 1}", "one: 1, x: 3}"),
        (["more"], 1, "            words\n", "            words\nmore: 1\n"),
    ],
)
def test_an_edit_keeps_the_rest(keys, value, old, new):
    assert TEXT.count(old) == 1
    found, expected = with_value(TEXT, keys, value), yaml.safe_load(TEXT)
    assert found == TEXT.replace(old, new)
    set_in(expected, keys, value)
    assert yaml.safe_load(found) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a:\n  - x  # one\n  # two\nb: 1\n", "a:\n  - x  # one\n  - {k: v}\n  # two\nb: 1\n"),
        ("a:\n- x", "a:\n- x\n- {k: v}"),
        ("a: &n\n  -   &m [x]\nb: [*m]\n", "a: &n\n  -   &m [x]\n  - {k: v}\nb: [*m]\n"),
        ("a: [x, [y]]  # one\n", "a: [x, [y], {k: v}]  # one\n"),
        ("a: [x,\n    y\n    ]\n", "a: [x,\n    y, {k: v}\n    ]\n"),
    ],
)
def test_an_item_is_appended(text, expected):
    assert with_item(text, ["a"], {"k": "v"}) == expected


def test_parameters_are_set(mmfuse, tiny):
    before = tiny.read_text(encoding="utf-8")
    code, out, err = mmfuse(
        "params", "set", "study.seeds=[0,1]", "train.save_every=7", "methods.mma_unet.parts.fusion.loss.detail=10.0",
    )  # fmt: skip
    assert code == 0, err
    changed = before.replace("seeds: [0]", "seeds: [0, 1]").replace("save_every: 50", "save_every: 7")
    assert tiny.read_text(encoding="utf-8") == changed.replace("detail: 3.0", "detail: 10.0")
    assert "study.seeds: [0] -> [0, 1]\n" in out
    assert "train.save_every: 50 -> 7\n" in out
    assert "mmfuse sync --write-dvc" in out, "the new seed has jobs of its own"
    assert "sync" not in mmfuse("params", "set", "train.save_every=8")[1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("study.sedes=[0]", ["unknown key 'sedes'", "did you mean 'seeds'?"]),
        ("train.precision=half", ["train.precision is not valid"]),
        ("train.save_every=1e3", ["write 1000.0"]),
        ("train.save_every=010", ["base 8"]),
        ("study.seeds", ["KEY=VALUE"]),
        ("study.seeds.first=1", ["study.seeds is not a block"]),
        ("study.name=[", ["study.name cannot be read"]),
        ("evaluate.metrics=[ENN]", ["did you mean 'EN'?"]),
        ("methods.mma_unet.network.widht=4", ["widht"]),
        ("methods.mma_unet.network.width=many", ["mma_unet"]),
        ("methods.mma_unet.network.width=2.5", ["mma_unet.base cannot be built"]),
        ("methods.mma_unet.parts.fusion.network.last_kernel=-1", ["mma_unet.base cannot be built"]),
        ("methods.mma_unet.network.width=0", ["width and channels from 1"]),
        ("study.systems=[]", ["study.systems is not valid"]),
    ],
)
def test_a_wrong_value_changes_nothing(mmfuse, tiny, change, words):
    before = tiny.read_bytes()
    code, out, err = mmfuse("params", "set", "train.log_every=6", change)
    assert code == 2
    assert out == ""
    for word in words:
        assert word in err
    assert tiny.read_bytes() == before
    assert [path.name for path in tiny.parent.glob("*params*")] + [*tiny.parent.glob(".*params*")] == ["params.yaml"]


@pytest.fixture
def overridden(mmfuse, tiny):
    """The tiny study with variants of MMA-UNet that change its options themselves, and two with given weights."""
    (tiny.parent / "given.safetensors").write_bytes(b"")
    variants = {
        "base": {},
        "wide": {"network": {"width": 4}, "parts": {"fusion": {"learning_rate": 0.5}}},
        "kernel": {"parts": {"vi_unet": {"network": {"output": "tanh"}}}},
        "given": {"weights": "given.safetensors"},
        "unused": {},
    }
    code, _, err = mmfuse(
        "params", "set", f"methods.mma_unet.variants={json.dumps(variants)}",
        "study.systems=" + json.dumps(
            [{"method": "mma_unet", "variant": name, "tasks": ["ivif"]} for name in variants if name != "unused"]
        ),
    )  # fmt: skip
    assert code == 0, err
    return tiny


@pytest.mark.parametrize(
    ("key", "value", "instead"),
    [
        # a part sets the option
        ("network.last_kernel", 1, "parts.fusion.network.last_kernel"),
        ("network.pairing", [[1, 2], [2, 3], [3, 4], [4, 5]], "parts.fusion.network.pairing"),
        ("network.guidance", False, "parts.ir_unet.network.guidance"),
        ("variants.base.network.last_kernel", 1, "parts.fusion.network.last_kernel"),
        ("variants.base.network", {"width": 2, "attention": "pooled"}, "parts.fusion.network.attention"),
        ("variants.kernel.network.output", "tanh", "variants.kernel.parts.vi_unet.network.output"),
        ("variants.fresh", {"network": {"attention": "pooled"}}, "parts.fusion.network.attention"),
        # the variant has given weights
        ("variants.given.network.width", 4, "variants.given.weights"),
        ("variants.given.parts.fusion.steps", 4, "variants.given.weights"),
        ("variants.given.trained_on", "ivif", "variants.given.weights"),
    ],
)
def test_a_value_that_another_key_sets_is_refused(mmfuse, overridden, key, value, instead):
    before = overridden.read_bytes()
    code, out, err = mmfuse("params", "set", "train.log_every=6", f"methods.mma_unet.{key}={json.dumps(value)}")
    assert code == 2
    assert out == ""
    assert f"methods.mma_unet.{key}" in err
    assert "would have no effect" in err
    assert f"expected: methods.mma_unet.{instead}\n" in err
    assert overridden.read_bytes() == before
    if not isinstance(value, dict):
        words = (f"methods.mma_unet.{instead}={json.dumps('given.safetensors' if 'weights' in instead else value)}",)
        code, _, err = mmfuse("params", "set", *words)
        assert code == 0, f"the key that the message names is not refused: {err}"


@pytest.mark.usefixtures("overridden")
def test_a_value_that_each_measured_variant_sets_itself_is_refused(mmfuse):
    systems = [{"method": "mma_unet", "variant": "wide", "tasks": ["ivif"]}]
    mmfuse("params", "set", f"study.systems={json.dumps(systems)}")
    code, _, err = mmfuse("params", "set", "methods.mma_unet.network.width=8")
    assert code == 2
    assert "expected: methods.mma_unet.variants.wide.network.width\n" in err


@pytest.mark.parametrize(
    ("key", "value", "where", "instead"),
    [
        ("network.width", 8, "wide", "variants.wide.network.width"),
        ("parts.fusion.learning_rate", 0.1, "wide", "variants.wide.parts.fusion.learning_rate"),
        ("network.output", "linear", "kernel", "variants.kernel.parts.vi_unet.network.output"),
        ("parts.fusion.steps", 5, None, None),
        ("parts.fusion.network.last_kernel", 1, None, None),
        ("variants.wide.network.width", 8, None, None),
        ("variants.unused.network.width", 8, "study.systems lacks mma_unet.unused, so its parameters", ""),
    ],
)
@pytest.mark.usefixtures("overridden")
def test_a_value_that_some_variants_set_themselves_brings_a_warning(mmfuse, key, value, where, instead):
    code, out, err = mmfuse("params", "set", f"methods.mma_unet.{key}={json.dumps(value)}")
    assert code == 0, err
    assert f"methods.mma_unet.{key}: " in out
    if where is None:
        assert err == ""
    elif not instead:
        assert err == f"warning: {where} have no effect yet\n"
    else:
        assert err == (
            f"warning: methods.mma_unet.{key} has no effect in mma_unet.{where}, where methods.mma_unet.{instead} "
            "sets it\n"
        )


@pytest.mark.parametrize(
    ("file", "change", "other"),
    [
        ("demo", "downstream.road_boxes.training.steps=3", "downstream.road_masks.training.steps"),
        ("demo", "downstream.road_masks.training.steps=3", "downstream.road_boxes.training.steps"),
        ("zoo", "methods.lkc_funet.parts.net.flip=false", "methods.mma_unet.parts.vi_unet.flip"),
    ],
)
def test_a_value_that_an_alias_repeats_is_left_alone(mmfuse, project, file, change, other):
    path = Path(shutil.copy(ROOT / f"workflow/configs/{file}.yaml", project / "params.yaml"))
    (project / "src/mmfuse").mkdir(parents=True)
    (project / "src/mmfuse/weights").symlink_to(ROOT / "src/mmfuse/weights")
    before = path.read_bytes()
    code, _, err = mmfuse("params", "set", change)
    assert code == 2
    assert "would change other values" in err
    assert other in err
    assert path.read_bytes() == before


@pytest.mark.parametrize("change", [["set", "train.log_every=6"], ["sweep", "mma_unet", "network.width=[2]"]])
def test_a_linked_file_is_changed_where_it_is(mmfuse, tiny, tmp_path, change):
    kept = tmp_path / "elsewhere/study.yaml"
    kept.parent.mkdir()
    tiny.rename(kept)
    tiny.symlink_to("../elsewhere/study.yaml")
    before = kept.read_bytes()
    assert mmfuse("params", change[0], *change[1:], "train.sedes=1")[0] == 2
    assert kept.read_bytes() == before
    code, _, err = mmfuse("params", *change)
    assert code == 0, err
    assert tiny.is_symlink()
    assert kept.read_bytes() != before
    assert load_parameters(tiny)
    assert [path.name for path in kept.parent.iterdir()] == ["study.yaml"]


def test_a_sweep_makes_the_systems_of_a_grid(mmfuse, tiny):
    before = load_parameters(tiny)
    code, out, err = mmfuse(
        "params", "sweep", "mma_unet", "parts.fusion.learning_rate=[0.001,0.01]", "network.width=[2,4]"
    )
    assert code == 0, err
    after = load_parameters(tiny)
    names = [f"learning_rate_{rate}_width_{width}" for rate in ("0p001", "0p01") for width in (2, 4)]
    assert list(after["methods"]["mma_unet"]["variants"]) == ["base", *names]
    assert after["methods"]["mma_unet"]["variants"][names[0]] == {
        "parts": {"fusion": {"learning_rate": 0.001}}, "network": {"width": 2},
    }  # fmt: skip
    new = [{"method": "mma_unet", "variant": name, "tasks": ["ivif"]} for name in names]
    assert after["study"]["systems"] == before["study"]["systems"] + new
    assert {k: v for k, v in after.items() if k not in {"study", "methods"}} == {
        k: v for k, v in before.items() if k not in {"study", "methods"}
    }
    trained = [key["variant"] for stage, key in jobs_of(after) if stage.name == "train" and key["part"] == "fusion"]
    assert trained == ["base", *names]
    shared = [key["variant"] for stage, key in jobs_of(after) if stage.name == "train" and key["part"] == "vi_unet"]
    assert shared == ["base", names[0]], "one for each width"
    comments = [line for line in TINY.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    assert comments
    assert set(comments) <= set(tiny.read_text(encoding="utf-8").splitlines())
    assert "mmfuse sync --write-dvc" in out
    again = tiny.read_bytes()
    assert (
        mmfuse("params", "sweep", "mma_unet", "parts.fusion.learning_rate=[0.001,0.01]", "network.width=[2,4]")[0] == 0
    )
    assert tiny.read_bytes() == again, "a second time adds nothing"


def test_a_sweep_of_a_method_without_variants(mmfuse, tiny):
    mmfuse("params", "set", "study.systems=[{method: laplacian, variant: base, tasks: [ivif]}]")
    code, _, err = mmfuse("params", "sweep", "laplacian", "network.levels=[2,3]")
    assert code == 0, err
    assert read_yaml(tiny)["methods"]["laplacian"]["variants"] == {
        "base": {}, "levels_2": {"network": {"levels": 2}}, "levels_3": {"network": {"levels": 3}},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mma_unet", "parts.fusion.learnig_rate=[1]"], "did you mean 'parts.fusion.learning_rate'?"),
        (["mma_unet", "network.width=4"], "has no list of values"),
        (["mma_unet", "network.width=[]"], "has no list of values"),
        (["mma_unet", "network.width=[4,4]"], "the same name"),
        (["mma_unet", "network.width=[2]", "network.width=[4]"], "given twice"),
        (["mma_unet", "network.width=[4,wide]"], "mma_unet"),
        (["mma_unet", "network.last_kernel=[1,3]"], "expected: parts.fusion.network.last_kernel"),
        (["mma_unet", "parts.fusion.learning_rate=[-1]"], "learning_rate is not valid"),
        (["mma_unet", "network.attention=[pooled,mixed]"], "expected: parts.fusion.network.attention"),
        (["mma", "network.width=[4]"], "Unknown method"),
        (["lkc_funet", "network.width=[4]"], "does not measure lkc_funet.base"),
    ],
)
def test_a_wrong_sweep_changes_nothing(mmfuse, tiny, words, message):
    code, out, err = mmfuse("params", "sweep", *words)
    assert code == 2
    assert out == ""
    assert message in err
    assert tiny.read_bytes() == TINY.read_bytes()


def test_an_existing_variant_of_the_same_name_is_kept(mmfuse, tiny):
    mmfuse("params", "set", "methods.mma_unet.variants.width_2={network: {width: 3}}")
    before = tiny.read_bytes()
    code, _, err = mmfuse("params", "sweep", "mma_unet", "network.width=[2]")
    assert code == 2
    assert "width_2 of mma_unet exists already" in err
    assert tiny.read_bytes() == before


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_what_dvc_writes_for_set_param_is_read_as_before(path, tmp_path):
    """`dvc exp run --set-param` rewrites the whole file in its own style."""
    modify_yaml = pytest.importorskip("dvc.utils.serialize").modify_yaml
    copy = Path(shutil.copy(path, tmp_path / "params.yaml"))
    with modify_yaml(copy) as values:
        values["study"]["seeds"] = [5]
    expected = read_yaml(path)
    expected["study"]["seeds"] = [5]
    assert json.dumps(read_yaml(copy)) == json.dumps(expected)
