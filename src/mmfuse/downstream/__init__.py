"""What machines see in images: detectors and segmenters, trained anew on each image set under one protocol."""
