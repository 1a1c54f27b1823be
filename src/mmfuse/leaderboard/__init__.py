"""`mmfuse leaderboard`: the systems of a study beside pictures that others published."""
