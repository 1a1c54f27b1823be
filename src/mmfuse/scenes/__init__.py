"""Synthetic scenes: datasets generated from a seed, without download."""
