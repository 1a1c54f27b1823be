# Helpers that the rules share. src/mmfuse/study/stages.py declares each stage's files, watched parameters, code and
# command.
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

from mmfuse.study.code_lists import check_running_code
from mmfuse.study.integrity import removed_outputs
from mmfuse.study.parameters import pick_all
from mmfuse.study.planned import planned_parameters
from mmfuse.study.stage import KEYS
from mmfuse.study.stages import STAGES, report_inputs

# every stage makes these checks, too; here they are made before the first job
check_running_code(Path.cwd())
STUDY = planned_parameters(Path("params.yaml"))
for path, record in removed_outputs(Path.cwd(), STUDY):
    advice = f"to remake it and all that depends on it, delete {record}, too"
    print(f"{path} was removed. Snakemake remakes it only if a job needs it; {advice}.", file=sys.stderr)
if config:
    raise WorkflowError("The jobs read only params.yaml: change this file, do not use --config or --configfile.")
config.update(STUDY)  # for the captions of Snakemake's own report
WATCHED_FILES = {}
ENVIRONMENT = "../../envs/mmfuse.yaml"
# every final output of a study, listed explicitly, never globbed
STUDY_FILES = [STAGES["report"].path("page", {}), *report_inputs(STUDY)]


wildcard_constraints:
    **{name: pattern for name, (pattern, _) in KEYS.items()},


def inputs(name):
    """Return the input files of a job by name, including its code."""

    def found(wildcards):
        key = dict(wildcards.items())
        return {**STAGES[name].files(STUDY, key), "code": STAGES[name].code(key)}

    return found


def outputs(name, **shown):
    """Return the output files of a job by name, including its record; Snakemake's report includes those in `shown`."""
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
    """Return the parameters and checksums whose change reruns a job; DVC's stages list the same keys and files."""

    def found(wildcards):
        stage, key = STAGES[name], dict(wildcards.items())
        return {**pick_all(STUDY, stage.watched(STUDY, key), WATCHED_FILES), **stage.checksums(STUDY, key)}

    return found


def command(name):
    """Return the command of a job; DVC's stages run the same one."""
    stage = STAGES[name]
    words = stage.command({key: f"{{wildcards.{key}}}" for key in stage.key})
    return words.replace(stage.log({key: f"{{wildcards.{key}}}" for key in stage.key}), "{log}")


def protocols_of(goal):
    """Return a pattern for the protocols of one goal; if there are none, it matches nothing."""
    return "|".join(name for name, block in STUDY.get("downstream", {}).items() if block["goal"] == goal) or "(?!)"


def training_threads(wildcards):
    return STUDY["downstream"][wildcards.protocol]["training"]["threads"]
