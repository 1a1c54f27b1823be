"""Fusing images with a trained network: colour, speed, and which task a pair belongs to."""
