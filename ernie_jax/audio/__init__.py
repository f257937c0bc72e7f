"""Sound as codes: a causal codec at 12.5 frames a second with residual vector quantization."""
