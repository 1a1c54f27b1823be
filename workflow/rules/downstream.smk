# Detectors and segmenters, trained anew on each image set of each protocol.


rule label:
    input:
        raw="data/raw/{dataset}",
        code=code_of("label"),
    output:
        pack="data/prepared/{dataset}/labelled.safetensors",
        names="data/prepared/{dataset}/labelled.csv",
        record="data/prepared/{dataset}/labelled.run.json",
    log:
        "logs/label/{dataset}.log",
    conda:
        ENVIRONMENT
    params:
        watch=watch("label"),
    shell:
        "mmfuse --log {log} stage label --dataset {wildcards.dataset} --raw {input.raw} --out {output.pack}"


rule divide:
    input:
        pack=labelled_pack,
        names=labelled_names,
        code=code_of("divide"),
    output:
        folds="data/prepared/{dataset}/folds.{protocol}.csv",
        record="data/prepared/{dataset}/folds.{protocol}.run.json",
    log:
        "logs/divide/{dataset}.{protocol}.log",
    conda:
        ENVIRONMENT
    params:
        watch=watch("divide"),
    shell:
        "mmfuse --log {log} stage divide --protocol {wildcards.protocol} --labelled {input.pack} --out {output.folds}"


# the stage `fuse` once more, on the labelled pairs
use rule fuse as fuse_labelled with:
    input:
        test="data/prepared/{dataset}/labelled.safetensors",
        weights=complete_weights,
        external=external_images,
        code=fuse_code,
    output:
        folder=directory("data/fused/{dataset}/labelled/{method}.{variant}.s{seed}"),
        record="data/fused/{dataset}/labelled/{method}.{variant}.s{seed}.run.json",
    log:
        "logs/fuse/{dataset}.labelled.{method}.{variant}.s{seed}.log",
    params:
        watch=watch("fuse"),
        source=lambda wildcards, input: f"{fuse_source(wildcards, input)} --pairs labelled",


rule detect:
    input:
        pack=labelled_pack,
        folds=folds,
        fused=labelled_images,
        code=code_of("detect"),
    output:
        summary="reports/downstream/{protocol}/{set}.seed{seed}.json",
        predictions="reports/downstream/{protocol}/{set}.seed{seed}.csv",
        pictures=directory("reports/downstream/{protocol}/{set}.seed{seed}.pictures"),
        record="reports/downstream/{protocol}/{set}.seed{seed}.run.json",
    log:
        "logs/detect/{protocol}.{set}.seed{seed}.log",
    wildcard_constraints:
        protocol=protocols_of("detect"),
    conda:
        ENVIRONMENT
    threads: lambda wildcards: STUDY["downstream"][wildcards.protocol]["training"]["threads"]
    params:
        watch=watch("detect"),
        fused=lambda wildcards, input: "".join(f" --fused {folder}" for folder in input.fused),
    shell:
        "mmfuse --log {log} stage detect --protocol {wildcards.protocol} --set {wildcards.set}"
        " --seed {wildcards.seed} --labelled {input.pack} --folds {input.folds}{params.fused} --out {output.summary}"


rule segment:
    input:
        pack=labelled_pack,
        folds=folds,
        fused=labelled_images,
        code=code_of("segment"),
    output:
        summary="reports/downstream/{protocol}/{set}.seed{seed}.json",
        predictions="reports/downstream/{protocol}/{set}.seed{seed}.csv",
        pictures=directory("reports/downstream/{protocol}/{set}.seed{seed}.pictures"),
        record="reports/downstream/{protocol}/{set}.seed{seed}.run.json",
    log:
        "logs/segment/{protocol}.{set}.seed{seed}.log",
    wildcard_constraints:
        protocol=protocols_of("segment"),
    conda:
        ENVIRONMENT
    threads: lambda wildcards: STUDY["downstream"][wildcards.protocol]["training"]["threads"]
    params:
        watch=watch("segment"),
        fused=lambda wildcards, input: "".join(f" --fused {folder}" for folder in input.fused),
    shell:
        "mmfuse --log {log} stage segment --protocol {wildcards.protocol} --set {wildcards.set}"
        " --seed {wildcards.seed} --labelled {input.pack} --folds {input.folds}{params.fused} --out {output.summary}"
