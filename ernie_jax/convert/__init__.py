"""Hugging Face checkpoints in and out: ERNIE 4.5 text models, ViT and CLIP vision towers.

`python -m ernie_jax.convert from-hf DIR --workdir=OUT` imports, `to-hf DIR --workdir=IN` exports.
`from_hf` and `to_hf` here are those of text models; `ernie_jax.convert.vit` has those of encoders.
"""

from ernie_jax.convert.ernie45 import from_hf, to_hf

__all__ = ["from_hf", "to_hf"]
