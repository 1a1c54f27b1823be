# One job for each training part of each system; variants share the parts in which they do not differ.


rule train:
    input:
        train=training_packs,
        val=validation_packs,
        start=earlier_weights,
        code=lambda wildcards: code_of("train", f"methods.{wildcards.method}"),
    output:
        best="data/checkpoints/{trained_on}/{method}/{variant}/s{seed}/{part}.safetensors",
        last="data/checkpoints/{trained_on}/{method}/{variant}/s{seed}/{part}.last.safetensors",
        history="data/checkpoints/{trained_on}/{method}/{variant}/s{seed}/{part}.history.csv",
        record="data/checkpoints/{trained_on}/{method}/{variant}/s{seed}/{part}.run.json",
    log:
        "logs/train/{trained_on}.{method}.{variant}.s{seed}.{part}.log",
    conda:
        ENVIRONMENT
    threads: STUDY["train"]["threads"]
    params:
        watch=watch("train"),
        packs=lambda wildcards, input: f"{options('train', input.train)} {options('val', input.val)}",
        start=lambda wildcards, input: "".join(f" --start {file}" for file in input.start),
    shell:
        "mmfuse --log {log} stage train --trained-on {wildcards.trained_on} --method {wildcards.method}"
        " --variant {wildcards.variant} --seed {wildcards.seed} --part {wildcards.part}"
        " {params.packs}{params.start} --out {output.best}"
