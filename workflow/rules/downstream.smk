# Detectors and segmenters, trained for each image set of each protocol.


rule label:
    input:
        unpack(inputs("label")),
    output:
        **outputs("label"),
    log:
        logged("label"),
    conda:
        ENVIRONMENT
    params:
        watch=watch("label"),
    message:
        "Pack the labelled pairs of {wildcards.dataset}."
    shell:
        command("label")


rule divide:
    input:
        unpack(inputs("divide")),
    output:
        **outputs("divide"),
    log:
        logged("divide"),
    conda:
        ENVIRONMENT
    params:
        watch=watch("divide"),
    message:
        "Divide the labelled pairs of {wildcards.dataset} for {wildcards.protocol}."
    shell:
        command("divide")


rule fuse_labelled:
    input:
        unpack(inputs("fuse_labelled")),
    output:
        **outputs("fuse_labelled"),
    log:
        logged("fuse_labelled"),
    conda:
        ENVIRONMENT
    threads: STUDY["fuse"]["threads"]
    params:
        watch=watch("fuse_labelled"),
    message:
        "Fuse the labelled pairs of {wildcards.dataset} with {wildcards.method}.{wildcards.variant}, seed {wildcards.seed}."
    shell:
        command("fuse_labelled")


rule detect:
    input:
        unpack(inputs("detect")),
    output:
        **outputs("detect"),
    log:
        logged("detect"),
    wildcard_constraints:
        protocol=protocols_of("detect"),
    conda:
        ENVIRONMENT
    threads: training_threads
    params:
        watch=watch("detect"),
    message:
        "Train a detector for {wildcards.protocol} on {wildcards.set}, seed {wildcards.seed}."
    shell:
        command("detect")


rule segment:
    input:
        unpack(inputs("segment")),
    output:
        **outputs("segment"),
    log:
        logged("segment"),
    wildcard_constraints:
        protocol=protocols_of("segment"),
    conda:
        ENVIRONMENT
    threads: training_threads
    params:
        watch=watch("segment"),
    message:
        "Train a segmenter for {wildcards.protocol} on {wildcards.set}, seed {wildcards.seed}."
    shell:
        command("segment")
