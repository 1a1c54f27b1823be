# The scores of every system on every dataset.


rule evaluate:
    input:
        unpack(inputs("evaluate")),
    output:
        **outputs("evaluate"),
    log:
        logged("evaluate"),
    conda:
        ENVIRONMENT
    threads: STUDY["evaluate"]["workers"]
    params:
        watch=watch("evaluate"),
    message:
        "Measure {wildcards.method}.{wildcards.variant}, seed {wildcards.seed}, on {wildcards.dataset}."
    shell:
        command("evaluate")
