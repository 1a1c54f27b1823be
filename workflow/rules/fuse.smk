# Every system applied to the test pairs of every dataset of its task.


def complete_weights(wildcards):
    """The last part's weights hold the whole network; weight-free methods have none."""
    parts = plan.parts_of(STUDY, wildcards.method)
    if not parts:
        return []
    task = plan.task_of(STUDY, wildcards.dataset)
    system = dict(
        task=task,
        method=wildcards.method,
        variant=wildcards.variant,
        seed=wildcards.seed,
    )
    return [
        plan.checkpoint(
            STUDY, Path("data/checkpoints"), part=parts[-1], **system
        ).as_posix()
    ]


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
        weights=lambda wildcards, input: "".join(
            f" --weights {file}" for file in input.weights
        ),
    shell:
        "mmfuse --log {log} stage fuse --dataset {wildcards.dataset} --method {wildcards.method}"
        " --variant {wildcards.variant} --seed {wildcards.seed} --test {input.test}{params.weights}"
        " --out {output.folder}"
