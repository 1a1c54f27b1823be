"""Drawn scenes: datasets that are generated from a seed and need no download."""
