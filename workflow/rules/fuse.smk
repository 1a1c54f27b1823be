# Apply every system to the test pairs of every dataset of its task, or import external images.


rule fuse:
    input:
        unpack(inputs("fuse")),
    output:
        **outputs("fuse"),
    log:
        logged("fuse"),
    conda:
        ENVIRONMENT
    threads: STUDY["fuse"]["threads"]
    params:
        watch=watch("fuse"),
    message:
        "Fuse {wildcards.dataset} with {wildcards.method}.{wildcards.variant}, seed {wildcards.seed}."
    shell:
        command("fuse")
