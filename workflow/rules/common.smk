# What the rules share: the study's plan, and what each job depends on besides its input files.
from pathlib import Path

from mmfuse import catalog, plan
from mmfuse.code import code_of
from mmfuse.parameters import load_parameters, pick_all

# the same checks as every stage makes, before the first job
STUDY = load_parameters(Path("params.yaml"))
CATALOG = catalog.load_catalog()
ENVIRONMENT = "../../envs/mmfuse.yaml"
# every file that some job leaves and that `rule all` asks for: leaves are listed, never globbed
STUDY_FILES = ["reports/index.html", *plan.report_inputs(STUDY)]


wildcard_constraints:
    dataset="[a-z0-9_]+",
    task="ivif|mif",
    method="[a-z0-9_]+",
    variant="[a-z0-9_]+",
    seed="[0-9]+",
    part="[a-z0-9_]+",
    patches="[a-z0-9_]+",


def watch(stage, **fixed):
    """Parameters whose change reruns a job; DVC's stages list the same keys."""
    return lambda wildcards: pick_all(
        STUDY, plan.watched(STUDY, stage, **fixed, **wildcards)
    )


def options(name, files):
    """The same option once for each file."""
    return " ".join(f"--{name} {file}" for file in files)
