# The study's analyses of trained networks.


rule analyse:
    input:
        unpack(inputs("analyse")),
    output:
        **outputs("analyse"),
    log:
        logged("analyse"),
    conda:
        ENVIRONMENT
    threads: STUDY["fuse"]["threads"]
    params:
        watch=watch("analyse"),
    message:
        "Analyse {wildcards.method}.{wildcards.variant}, seed {wildcards.seed}, on {wildcards.dataset}: {wildcards.analysis}."
    shell:
        command("analyse")
