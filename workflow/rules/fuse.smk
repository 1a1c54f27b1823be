# Every system applied to the test pairs of every dataset of its task.


rule fuse:
    input:
        test="data/prepared/{dataset}/test.safetensors",
        weights=complete_weights,
        code=lambda wildcards: code_of("fuse", f"methods.{wildcards.method}"),
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
        weights=lambda wildcards, input: "".join(f" --weights {file}" for file in input.weights),
    shell:
        "mmfuse --log {log} stage fuse --dataset {wildcards.dataset} --method {wildcards.method}"
        " --variant {wildcards.variant} --seed {wildcards.seed} --test {input.test}{params.weights}"
        " --out {output.folder}"
