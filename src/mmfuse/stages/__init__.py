"""The stages of a study, one module each: `work(job)` runs a job, `run(...)` takes explicit paths and numbers."""
