"""The stages of the study, one module each: `work(job)` does a job, `run(...)` takes paths and numbers by hand."""
