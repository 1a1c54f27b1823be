# What trained networks look like inside, by the analyses that the study asks for.


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
        "Look into {wildcards.method}.{wildcards.variant}, seed {wildcards.seed}, on {wildcards.dataset}: {wildcards.analysis}."
    shell:
        command("analyse")
