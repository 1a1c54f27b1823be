# One job for each training part of each system; variants share the parts in which they do not differ.


rule train:
    input:
        train=training_packs,
        val=validation_packs,
        start=earlier_weights,
        code=lambda wildcards: code_of("train", f"methods.{wildcards.method}"),
    output:
        best="data/checkpoints/{task}/{method}/{variant}/s{seed}/{part}.safetensors",
        last="data/checkpoints/{task}/{method}/{variant}/s{seed}/{part}.last.safetensors",
        history="data/checkpoints/{task}/{method}/{variant}/s{seed}/{part}.history.csv",
        record="data/checkpoints/{task}/{method}/{variant}/s{seed}/{part}.run.json",
    log:
        "logs/train/{task}.{method}.{variant}.s{seed}.{part}.log",
    conda:
        ENVIRONMENT
    threads: STUDY["train"]["threads"]
    params:
        watch=watch("train"),
        packs=lambda wildcards, input: f"{options('train', input.train)} {options('val', input.val)}",
        start=lambda wildcards, input: "".join(f" --start {file}" for file in input.start),
    shell:
        "mmfuse --log {log} stage train --task {wildcards.task} --method {wildcards.method}"
        " --variant {wildcards.variant} --seed {wildcards.seed} --part {wildcards.part}"
        " {params.packs}{params.start} --out {output.best}"
