"""Datasets whose layout needs code, and the embedded scene generators."""
