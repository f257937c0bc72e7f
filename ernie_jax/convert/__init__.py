"""Hugging Face checkpoints in and out: ERNIE 4.5 text models, dense and mixture of experts.

`python -m ernie_jax.convert from-hf DIR --workdir=OUT` imports, `to-hf DIR --workdir=IN` exports.
"""

from ernie_jax.convert.ernie45 import from_hf, to_hf

__all__ = ["from_hf", "to_hf"]
