# The pages that summarise the study. `snakemake --report` includes the outputs that have a caption here.


rule report:
    input:
        unpack(inputs("report")),
    output:
        **outputs(
            "report",
            page=dict(caption="../report/page.rst", category="Report"),
            tables=dict(
                patterns=["{table}.csv"],
                caption="../report/table.rst",
                category="Tables",
                labels={"table": "{table}"},
            ),
            figures=dict(
                patterns=["{about}/{figure}.svg"],
                caption="../report/figure.rst",
                category="Figures",
                subcategory="{about}",
                labels={"about": "{about}", "figure": "{figure}"},
            ),
        ),
    log:
        logged("report"),
    conda:
        ENVIRONMENT
    params:
        watch=watch("report"),
    message:
        "Write the report."
    shell:
        command("report")
