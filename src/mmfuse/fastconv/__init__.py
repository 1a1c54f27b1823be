"""CPU convolution, normalisation and memory management: faster than torch, with equal results."""
