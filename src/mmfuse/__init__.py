"""mmfuse: a reproducible benchmark of multimodal image fusion."""

__version__ = "0.1.0"
