# From the catalog to prepared packs.


rule download:
    input:
        unpack(inputs("download")),
    output:
        **outputs("download"),
    log:
        logged("download"),
    conda:
        ENVIRONMENT
    params:
        watch=watch("download"),
    message:
        "Fetch or generate {wildcards.dataset}."
    shell:
        command("download")


rule prepare:
    input:
        unpack(inputs("prepare")),
    output:
        **outputs("prepare"),
    log:
        logged("prepare"),
    conda:
        ENVIRONMENT
    params:
        watch=watch("prepare"),
    message:
        "Pair and pack the images of {wildcards.dataset}."
    shell:
        command("prepare")


rule crop:
    input:
        unpack(inputs("crop")),
    output:
        **outputs("crop"),
    log:
        logged("crop"),
    conda:
        ENVIRONMENT
    params:
        watch=watch("crop"),
    message:
        "Cut the training pairs of {wildcards.dataset} into patches: {wildcards.patches}."
    shell:
        command("crop")
