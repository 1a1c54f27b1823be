# The whole study. `snakemake --cores all` makes everything that params.yaml names, up to reports/index.html.
# workflow/rules connects the jobs; src/mmfuse/stages does their work.
from snakemake.utils import min_version

min_version("9.0")


report: "workflow/report/study.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/fuse.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/analyse.smk"
include: "workflow/rules/downstream.smk"
include: "workflow/rules/report.smk"


# on a cluster, these run on the node of Snakemake itself: downloads need network access, which compute nodes often lack
localrules:
    all,
    download,
    report,


rule all:
    default_target: True
    input:
        STUDY_FILES,
    message:
        "The study is complete."
