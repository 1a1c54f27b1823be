# What trained networks look like inside, by the analyses that the study asks for.


rule analyse:
    input:
        test="data/prepared/{dataset}/test.safetensors",
        weights=complete_weights,
        code=lambda wildcards: code_of("analyse", f"analyses.{wildcards.analysis}", f"methods.{wildcards.method}"),
    output:
        result="reports/analysis/{dataset}/{analysis}.{method}.{variant}.s{seed}.json",
        record="reports/analysis/{dataset}/{analysis}.{method}.{variant}.s{seed}.run.json",
    log:
        "logs/analyse/{dataset}.{analysis}.{method}.{variant}.s{seed}.log",
    conda:
        ENVIRONMENT
    threads: STUDY["fuse"]["threads"]
    params:
        watch=watch("analyse"),
    shell:
        "mmfuse --log {log} stage analyse --analysis {wildcards.analysis} --dataset {wildcards.dataset}"
        " --method {wildcards.method} --variant {wildcards.variant} --seed {wildcards.seed} --test {input.test}"
        " --weights {input.weights} --out {output.result}"
