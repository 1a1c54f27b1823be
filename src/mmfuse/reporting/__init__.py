"""The content of the report: scores and ranks, pictures, figures, and the provenance of every number."""
