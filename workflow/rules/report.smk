# The pages that sum the study up. `snakemake --report` shows what is marked with `report` in here.


rule report:
    input:
        study=plan.report_inputs(STUDY),
        printed="data/published.csv",
        code=code_of("report", "reporting.*", "metrics.*", "analyses.*"),
    output:
        page=report("reports/index.html", caption="../report/page.rst", category="Report"),
        viewer="reports/viewer.html",
        pictures=directory("reports/viewer"),
        record="reports/index.run.json",
        means="reports/metrics.json",
        tables=report(
            directory("reports/tables"),
            patterns=["{table}.csv"],
            caption="../report/table.rst",
            category="Tables",
            labels={"table": "{table}"},
        ),
        figures=report(
            directory("reports/figures"),
            patterns=["{about}/{figure}.svg"],
            caption="../report/figure.rst",
            category="Figures",
            subcategory="{about}",
            labels={"about": "{about}", "figure": "{figure}"},
        ),
    log:
        "logs/report.log",
    conda:
        ENVIRONMENT
    params:
        watch=watch("report"),
    shell:
        "mmfuse --log {log} stage report --prepared data/prepared --checkpoints data/checkpoints --fused data/fused"
        " --scores reports/scores --downstream reports/downstream --analyses reports/analysis --out reports"
