# One job for each training part of each system; variants share the parts in which they do not differ.


rule train:
    input:
        unpack(inputs("train")),
    output:
        **outputs("train"),
    log:
        logged("train"),
    conda:
        ENVIRONMENT
    threads: STUDY["train"]["threads"]
    params:
        watch=watch("train"),
    message:
        "Train {wildcards.part} of {wildcards.method}.{wildcards.variant} on {wildcards.trained_on}, seed {wildcards.seed}."
    shell:
        command("train")
