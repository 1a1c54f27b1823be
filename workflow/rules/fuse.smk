# Every system applied to the test pairs of every dataset of its task; images from elsewhere take the same place.


rule fuse:
    input:
        test="data/prepared/{dataset}/test.safetensors",
        weights=complete_weights,
        external=external_images,
        code=fuse_code,
    output:
        folder=directory("data/fused/{dataset}/{method}.{variant}.s{seed}"),
        record="data/fused/{dataset}/{method}.{variant}.s{seed}.run.json",
    log:
        "logs/fuse/{dataset}.{method}.{variant}.s{seed}.log",
    conda:
        ENVIRONMENT
    threads: STUDY["fuse"]["threads"]
    params:
        watch=watch("fuse"),
        source=fuse_source,
    shell:
        "mmfuse --log {log} stage fuse --dataset {wildcards.dataset} --method {wildcards.method}"
        " --variant {wildcards.variant} --seed {wildcards.seed} --test {input.test}{params.source}"
        " --out {output.folder}"
