"""Decoding text with a key-value cache; `python -m ernie_jax.generate` is the command.

`Decoder` (`decode.py`) holds the compiled functions, `SamplingConfig` (`sampling.py`) says how the next
token is drawn, and `blocks.py` builds the blocks of positions that go into a cache.
"""
