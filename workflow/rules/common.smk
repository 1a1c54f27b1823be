# What the rules share. Files, watched parameters, code and command of each stage stand in src/mmfuse/study/stages.py.
from pathlib import Path

from snakemake.exceptions import WorkflowError

from mmfuse.study.parameters import load_parameters, pick_all
from mmfuse.study.stage import KEYS
from mmfuse.study.stages import STAGES, report_inputs

# the same checks as every stage makes, before the first job
STUDY = load_parameters(Path("params.yaml"))
if config != STUDY:
    raise WorkflowError("The jobs read params.yaml alone: change it there, not by --config or --configfile.")
WATCHED_FILES = {}
ENVIRONMENT = "../../envs/mmfuse.yaml"
# every file that a study must leave: listed one by one, never globbed
STUDY_FILES = [STAGES["report"].path("page", {}), *report_inputs(STUDY)]


wildcard_constraints:
    **{name: pattern for name, (pattern, _) in KEYS.items()},


def inputs(name):
    """Return the files that a job reads, by name, with the code that it runs."""

    def found(wildcards):
        key = dict(wildcards.items())
        return {**STAGES[name].inputs(STUDY, key), "code": STAGES[name].code(key)}

    return found


def outputs(name, **shown):
    """Return what a job writes, by name, with its record; `shown` says what Snakemake's own report has of it."""
    found = {}
    for output, (path, is_folder) in STAGES[name].patterns().items():
        found[output] = directory(path) if is_folder else path
        if output in shown:
            found[output] = report(found[output], **shown[output])
    return found


def logged(name):
    """Return the log of a job."""
    stage = STAGES[name]
    return stage.log({key: f"{{{key}}}" for key in stage.key})


def watch(name):
    """Return the parameters whose change reruns a job; DVC's stages list the same keys."""
    return lambda wildcards: pick_all(STUDY, STAGES[name].watched(STUDY, dict(wildcards.items())), WATCHED_FILES)


def command(name):
    """Return the command of a job; DVC's stages run the same one."""
    stage = STAGES[name]
    words = stage.command({key: f"{{wildcards.{key}}}" for key in stage.key})
    return words.replace(stage.log({key: f"{{wildcards.{key}}}" for key in stage.key}), "{log}")


def protocols_of(goal):
    """Return the protocols of one goal as a pattern, which nothing fits where there is none."""
    return "|".join(name for name, block in STUDY.get("downstream", {}).items() if block["goal"] == goal) or "(?!)"


def training_threads(wildcards):
    return STUDY["downstream"][wildcards.protocol]["training"]["threads"]
