"""The house keeps its order: data flow one way, code depends one way, and every piece is wired."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import mmfuse
from mmfuse import metrics
from mmfuse.errors import UserError
from mmfuse.pipeline import jobs
from mmfuse.study import plan
from mmfuse.study.code_lists import check_running_code, code_of, imports_of
from mmfuse.study.parameters import load_parameters
from mmfuse.study.stages import STAGES

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "workflow/configs"
PACKAGE = Path(mmfuse.__file__).parent
ROOMS = (
    "data/raw",
    "data/prepared",
    "data/checkpoints",
    "data/fused",
    "reports/scores",
    "reports/analysis",
    "reports/downstream",
    "reports",
)
# what may be imported: a module's own floor and the floors below it
FLOORS = (
    {"errors", "progress", "terminal", "words"},
    {"files", "scenes"},
    {"fastconv", "weights", "data"},
    {"nn", "metrics"},
    {"methods"},
    {"study"},
    {"training", "inference", "tracking", "video"},
    {"volumes"},
    {"alignment"},
    {"pipeline", "analyses", "api"},
    {"downstream"},
    {"reporting"},
    {"stages"},
    {"benchmarks", "comparing"},
    {"leaderboard"},
    {"cli"},
    {"__main__"},
)
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def imports(path):
    """The modules a file imports when it runs; what only type checkers read does not count."""
    tree = ast.parse((PACKAGE / path).read_text())
    typing_only = [
        node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    hidden = {id(inner) for block in typing_only for inner in ast.walk(block)}
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "mmfuse":
            yield from (f"mmfuse.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


def test_the_list_of_packages_in_contributing_is_in_the_order_of_imports():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^  \| (`\w+`(?:, `\w+`)*) \|", text, re.MULTILINE)
    listed = [name.strip("`") for row in rows for name in row.split(", ")]
    assert sorted(listed) == sorted({path.parts[0] for path in MODULES if len(path.parts) > 1})
    for path in (path for path in MODULES if len(path.parts) > 1):
        for name in imports(path):
            first, *rest = name.split(".")
            if first == "mmfuse" and rest and rest[0] in listed:
                assert listed.index(rest[0]) <= listed.index(path.parts[0]), f"{path} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_code_depends_one_way(path):
    own = path.parts[0].removesuffix(".py")
    if own == "__init__":
        return
    for name in imports(path):
        first, _, rest = name.partition(".")
        if first == "mmfuse" and rest and rest != "__version__":
            target = rest.partition(".")[0]
            assert FLOOR[target] < FLOOR[own] or target == own, f"{path} must not import {name}"
        assert first not in {"snakemake", "dvc"}, f"{path} imports {first}: the science knows no engine"
        assert first != "mlflow" or own == "tracking", f"{path} imports mlflow: only tracking does"


def test_fusing_and_scoring_start_without_what_is_slow_to_import():
    """A study has hundreds of such jobs, each of a few seconds."""
    slow = ("torchvision", "torch._dynamo", "lightning_fabric", "mlflow", "matplotlib")
    program = "import sys, mmfuse.stages.fuse, mmfuse.stages.evaluate; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {*slow} & {*run.stdout.split()}


def room_of(path):
    return next(
        (room for room in reversed(ROOMS[:-1]) if path.startswith(f"{room}/")),
        "reports" if path.startswith("reports/") else None,
    )


def test_data_flow_one_way():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    for name, stage in stages.items():
        if name == "code":
            continue
        outputs = {room_of(path) for path in [*stage["outs"], *stage.get("metrics", [])]}
        assert len(outputs) == 1, f"{name} writes to {outputs}"
        written = ROOMS.index(outputs.pop())
        read = {room_of(path) for path in stage["deps"]} - {None}
        assert all(ROOMS.index(room) <= written for room in read), f"{name} reads {read}"


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_every_stage_has_a_rule_that_is_made_of_its_declaration(stage):
    rules = "\n".join(path.read_text() for path in (ROOT / "workflow/rules").glob("*.smk"))
    block = re.search(rf"^rule {stage.name}:$(.*?)(?=^rule |\Z)", rules, re.MULTILINE | re.DOTALL)
    assert block, f"no rule {stage.name}"
    for part in (f'unpack(inputs("{stage.name}"))', f'**outputs("{stage.name}"', f'logged("{stage.name}")',
                 f'watch=watch("{stage.name}")', f'command("{stage.name}")', "message:"):  # fmt: skip
        assert part in re.sub(r"\(\s+", "(", block[1]), f"rule {stage.name}: {part}"
    assert f"src/mmfuse/stages/{stage.module or stage.name}.py" in code_of(stage.module or stage.name)
    assert stage.summary.endswith("."), "the help of its command"


def test_every_file_of_rules_is_included():
    included = re.findall(r'^include: "workflow/rules/(\w+\.smk)"$', (ROOT / "Snakefile").read_text(), re.MULTILINE)
    assert sorted(included) == sorted(path.name for path in (ROOT / "workflow/rules").iterdir())


def test_every_module_of_a_stage_is_declared():
    modules = {path.stem for path in (PACKAGE / "stages").glob("*.py") if path.stem != "__init__"}
    assert modules == {stage.module or stage.name for stage in STAGES.values()}


def test_a_stage_depends_on_the_code_that_it_runs():
    trained = code_of("train", "methods.mma_unet")
    assert {"src/mmfuse/methods/mma_unet.py", "src/mmfuse/nn/losses.py", "src/mmfuse/training/loop.py"} <= set(trained)
    assert not any("metrics" in path or "average" in path for path in trained)
    measured = code_of("evaluate", "metrics.*")
    assert {f"src/mmfuse/metrics/{path.name}" for path in (PACKAGE / "metrics").glob("*.py")} <= set(measured)
    assert "src/mmfuse/reporting/templates/report.html.jinja" in code_of("report", "reporting.*")
    assert not any("templates" in path for path in code_of("detect")), "the look of the page is no detector's business"
    assert all((ROOT / path).is_file() for path in trained + measured)


@pytest.mark.parametrize(
    "name", ["params.yaml", *sorted(f"workflow/configs/{path.name}" for path in CONFIGS.glob("*.yaml"))]
)
def test_every_study_names_what_exists(name):
    parameters = load_parameters(ROOT / name)
    block = parameters["evaluate"]
    metrics.resolve(block["convention"], block["metrics"], block["beside"])
    catalog = yaml.safe_load((ROOT / "data/catalog.yaml").read_text())["datasets"]
    assert set(plan.datasets_of(parameters)) <= set(catalog)
    for task, entry in parameters["study"]["tasks"].items():
        assert {catalog[dataset]["task"] for dataset in (*entry["train"], *entry["test"])} == {task}


def test_the_page_on_failures_names_tests_that_exist():
    page = (ROOT / "docs/failures.md").read_text()
    known = {
        name for path in (ROOT / "tests").glob("test_*.py") for name in re.findall(r"def (test_\w+)", path.read_text())
    }
    named = set(re.findall(r"`(test_\w+)`", page))
    assert len(named) > 30
    assert named - known == set()


def parsed_imports(program):
    found = set()
    for node in ast.walk(ast.parse(program)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "mmfuse":
            inner = node.module.partition(".")[2]
            found |= {inner, *(f"{inner}.{alias.name}".lstrip(".") for alias in node.names)}
    return found - {""}


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_the_search_for_imports_finds_what_parsing_finds(path):
    program = (PACKAGE / path).read_text(encoding="utf-8")
    assert set(imports_of(program)) == parsed_imports(program)


@pytest.mark.parametrize(
    "program",
    [
        "from mmfuse import methods",
        "from mmfuse.nn import (\n    blocks,  # these (all)\n    losses as others,\n)",
        "from mmfuse.nn import blocks  # noqa",
        "from mmfuse.nn import blocks, \\\n    losses",
        "from \\\n mmfuse.nn import blocks",
        "import sys; from mmfuse.nn import blocks",
        "if True: from mmfuse.nn import blocks; from mmfuse.data import packs",
        "def late():\n\tfrom  mmfuse.nn  import  blocks",
        'text = "from mmfuse.nn import blocks"',
        '"""\nfrom mmfuse.nn import blocks\n"""  # from mmfuse',
        "from . import mmfuse\nfrom mmfuser import a",
        "",
    ],
)
def test_the_search_for_imports_knows_every_form(program):
    assert set(imports_of(program)) == parsed_imports(program)


def test_a_project_is_not_served_by_the_code_of_another(tmp_path, monkeypatch):
    check_running_code(ROOT)
    check_running_code(tmp_path)  # a folder without code of its own
    (tmp_path / "src/mmfuse").mkdir(parents=True)
    with pytest.raises(UserError, match=r"is not the code of this project(.|\n)*PYTHONPATH=src"):
        check_running_code(tmp_path)
    monkeypatch.chdir(tmp_path)
    work = pytest.fail  # the job must not begin
    with pytest.raises(UserError, match="is not the code of this project"):
        jobs.run(STAGES["download"], {"dataset": "synthetic_road"}, Path("params.yaml"), work)


@pytest.mark.parametrize(
    "path", ["report.html", "report.zip", "report/report.html", "dvc_plots/index.html", "logs/report.log", "mlflow.db"]
)
def test_git_ignores_what_commands_leave(path):
    ignored = subprocess.run(["git", "check-ignore", "--quiet", "--no-index", path], cwd=ROOT, check=False)
    assert ignored.returncode == 0
