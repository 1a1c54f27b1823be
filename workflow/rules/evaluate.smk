# The scores of every system on every dataset.


rule evaluate:
    input:
        test="data/prepared/{dataset}/test.safetensors",
        fused="data/fused/{dataset}/{method}.{variant}.s{seed}",
        code=code_of("evaluate", "metrics.*"),
    output:
        table="reports/scores/{dataset}/{method}.{variant}.s{seed}.csv",
        summary="reports/scores/{dataset}/{method}.{variant}.s{seed}.json",
        record="reports/scores/{dataset}/{method}.{variant}.s{seed}.run.json",
    log:
        "logs/evaluate/{dataset}.{method}.{variant}.s{seed}.log",
    conda:
        ENVIRONMENT
    threads: STUDY["evaluate"]["workers"]
    params:
        watch=watch("evaluate"),
    shell:
        "mmfuse --log {log} stage evaluate --dataset {wildcards.dataset} --method {wildcards.method}"
        " --variant {wildcards.variant} --seed {wildcards.seed} --test {input.test} --fused {input.fused}"
        " --out {output.table}"
