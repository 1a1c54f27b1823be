"""What the report shows: scores and ranks, pictures, figures and where every number comes from."""
