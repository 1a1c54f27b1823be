"""Trained weights: those that come with the package, in this folder, and those that other people published."""
