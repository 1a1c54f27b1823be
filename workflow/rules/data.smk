# From the catalog to prepared packs.


rule download:
    input:
        code=generator_code,
        manifest=manifest,
    output:
        folder=directory("data/raw/{dataset}"),
        record="data/raw/{dataset}.run.json",
    log:
        "logs/download/{dataset}.log",
    conda:
        ENVIRONMENT
    params:
        watch=watch("download"),
    shell:
        "mmfuse --log {log} stage download --dataset {wildcards.dataset} --out {output.folder}"


rule prepare:
    input:
        raw="data/raw/{dataset}",
        code=code_of("prepare"),
    output:
        train="data/prepared/{dataset}/train.safetensors",
        val="data/prepared/{dataset}/val.safetensors",
        test="data/prepared/{dataset}/test.safetensors",
        pairs="data/prepared/{dataset}/pairs.csv",
        record="data/prepared/{dataset}/run.json",
    log:
        "logs/prepare/{dataset}.log",
    conda:
        ENVIRONMENT
    params:
        watch=watch("prepare"),
    shell:
        "mmfuse --log {log} stage prepare --dataset {wildcards.dataset} --raw {input.raw}"
        " --out data/prepared/{wildcards.dataset}"


rule crop:
    input:
        pack="data/prepared/{dataset}/train.safetensors",
        code=code_of("crop"),
    output:
        pack="data/prepared/{dataset}/patches.{patches}.safetensors",
        record="data/prepared/{dataset}/patches.{patches}.run.json",
    log:
        "logs/crop/{dataset}.{patches}.log",
    conda:
        ENVIRONMENT
    params:
        watch=watch("crop"),
    shell:
        "mmfuse --log {log} stage crop --dataset {wildcards.dataset} --patches {wildcards.patches}"
        " --pack {input.pack} --out {output.pack}"
