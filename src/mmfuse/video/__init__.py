"""Fusion of two films frame by frame, and measures of how steady a fused film is."""
