"""The stages of the pipeline, one `run(...)` each."""
