# What the rules share: the study's plan, and what each job depends on besides its input files.
from functools import cache
from pathlib import Path

from mmfuse.data import catalog
from mmfuse.study import plan
from mmfuse.study.code import code_of
from mmfuse.data.images import image_files
from mmfuse.study.parameters import load_parameters, pick_all

# the same checks as every stage makes, before the first job
STUDY = load_parameters(Path("params.yaml"))
CATALOG = catalog.load_catalog()
# Snakemake asks several times for what a job depends on: what does not change while it runs is read and found once
code_of = cache(code_of)
WATCHED_FILES = {}
ENVIRONMENT = "../../envs/mmfuse.yaml"
# every file that a study must leave: listed one by one, never globbed
STUDY_FILES = ["reports/index.html", *plan.report_inputs(STUDY)]


wildcard_constraints:
    dataset="[a-z0-9_]+",
    trained_on="[a-z0-9_]+",
    method="[a-z0-9_]+",
    variant="[a-z0-9_]+",
    seed="[0-9]+",
    part="[a-z0-9_]+",
    patches="[a-z0-9_]+",
    analysis="[a-z0-9_]+",
    protocol="[a-z0-9_]+",
    set=r"a|b|[a-z0-9_]+\.[a-z0-9_]+\.s[0-9]+",


def watch(stage, **fixed):
    """Parameters whose change reruns a job; DVC's stages list the same keys."""
    return lambda wildcards: pick_all(STUDY, plan.watched(STUDY, stage, **fixed, **wildcards), WATCHED_FILES)


def options(name, files):
    """The same option once for each file."""
    return " ".join(f"--{name} {file}" for file in files)


def generator_code(wildcards):
    generator = CATALOG[wildcards.dataset].generator
    return code_of("download", *([generator.removeprefix("mmfuse.")] if generator else []))


def manifest(wildcards):
    path = CATALOG[wildcards.dataset].manifest
    return [path.as_posix()] if path else []


def training_packs(wildcards):
    packs = plan.training_packs(STUDY, Path("data/prepared"), plan.Training(**wildcards))
    return [pack.as_posix() for pack in packs]


def validation_packs(wildcards):
    packs = plan.validation_packs(STUDY, Path("data/prepared"), plan.Training(**wildcards))
    return [pack.as_posix() for pack in packs]


@cache
def weights(**part):
    return plan.weights(STUDY, Path("data/checkpoints"), **part).as_posix()


def earlier_weights(wildcards):
    parts = plan.earlier_parts(STUDY, wildcards.method, wildcards.part)
    return [weights(**{**wildcards, "part": part}) for part in parts]


def fuse_code(wildcards):
    return code_of("fuse", *([] if wildcards.variant == plan.EXTERNAL else [f"methods.{wildcards.method}"]))


def external_images(wildcards):
    """The images of a method that was run elsewhere, file by file: a folder's time does not tell of a changed file."""
    if wildcards.variant != plan.EXTERNAL:
        return []
    folder = plan.external_images(wildcards.dataset, wildcards.method)
    return [path.as_posix() for path in image_files(folder).values()] if folder.is_dir() else [folder.as_posix()]


def fuse_source(wildcards, input):
    """The option that says what makes the fused images: weights, images from elsewhere, or nothing but a formula."""
    if wildcards.variant == plan.EXTERNAL:
        return f" --external {plan.external_images(wildcards.dataset, wildcards.method).as_posix()}"
    return "".join(f" --weights {file}" for file in input.weights)


def protocols_of(goal):
    """The protocols of one goal as a pattern; one that nothing fits where there is none."""
    return "|".join(name for name, block in plan.protocols(STUDY).items() if block["goal"] == goal) or "(?!)"


def labelled_pack(wildcards):
    return f"data/prepared/{STUDY['downstream'][wildcards.protocol]['dataset']}/labelled.safetensors"


def labelled_names(wildcards):
    return labelled_pack(wildcards).replace(".safetensors", ".csv")


def folds(wildcards):
    dataset = STUDY["downstream"][wildcards.protocol]["dataset"]
    return f"data/prepared/{dataset}/folds.{wildcards.protocol}.csv"


def labelled_images(wildcards):
    """The fused images that a detector or segmenter sees: those of its own set, and of the others it is run on."""
    return plan.labelled_images(STUDY, wildcards.protocol, wildcards.set)


def complete_weights(wildcards):
    """The file with the whole network, trained here or given; weight-free methods have none."""
    system = plan.System(
        wildcards.method, wildcards.variant, plan.task_of(STUDY, wildcards.dataset), int(wildcards.seed)
    )
    file = plan.complete_weights(STUDY, Path("data/checkpoints"), system)
    return [file.as_posix()] if file else []
