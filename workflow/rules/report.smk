# The page that sums the study up.

REPORT_TABLES = [
    f"reports/tables/{name}{end}"
    for task in STUDY["study"]["tasks"].values()
    for name in task["test"]
    for end in (".csv", ".pairs.csv")
] + [f"reports/tables/downstream.{name}.csv" for name in plan.protocols(STUDY)]
REPORT_TABLES.append("reports/tables/published.csv")


rule report:
    input:
        study=plan.report_inputs(STUDY),
        printed="data/published.csv",
        code=code_of("report", "reporting.*", "metrics.*", "analyses.*"),
    output:
        page="reports/index.html",
        viewer="reports/viewer.html",
        pictures=directory("reports/viewer"),
        record="reports/index.run.json",
        means="reports/metrics.json",
        tables=REPORT_TABLES,
    log:
        "logs/report.log",
    conda:
        ENVIRONMENT
    params:
        watch=watch("report"),
    shell:
        "mmfuse --log {log} stage report --prepared data/prepared --checkpoints data/checkpoints --fused data/fused"
        " --scores reports/scores --downstream reports/downstream --analyses reports/analysis --out reports"
