"""Registration: bring a moving image onto a fixed image of another modality."""

from mmfuse.alignment.registration import align, align_frames
from mmfuse.alignment.transform import MODELS, Transform, read_transform, write_transform

__all__ = ["MODELS", "Transform", "align", "align_frames", "read_transform", "write_transform"]
