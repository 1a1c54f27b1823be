# The whole study. `snakemake --cores all` makes everything that params.yaml names, up to reports/index.html.
# How the jobs are wired stands in workflow/rules; what they do, in src/mmfuse/stages.
from snakemake.utils import min_version

min_version("9.0")


configfile: "params.yaml"


report: "workflow/report/study.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/fuse.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/analyse.smk"
include: "workflow/rules/downstream.smk"
include: "workflow/rules/report.smk"


# on a cluster these run where Snakemake does: downloads need the network, which compute nodes often lack
localrules:
    all,
    download,
    report,


rule all:
    default_target: True
    input:
        STUDY_FILES,
