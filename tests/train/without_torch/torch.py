"""Stands in the way of PyTorch in programs that tests start."""

raise ImportError("programs are tested without what only parity tests need")
