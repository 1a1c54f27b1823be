"""The study: its parameters and systems, and the path, code and parameters of each result."""
