"""Fusion of images with a trained network: colour, speed, and the task of a pair."""
