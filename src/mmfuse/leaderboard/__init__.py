"""`mmfuse leaderboard`: compare the systems of a study with fused images that others published."""
