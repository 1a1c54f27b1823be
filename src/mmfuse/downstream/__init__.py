"""Downstream evaluation of images: detectors and segmenters, trained on each image set under one protocol."""
