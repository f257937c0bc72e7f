"""The unified backbone: rotary positions, attention, router, experts, layers and their stack.

A single-device view: sharding is declared in `ernie_jax.sharding`, kernels are in `ernie_jax.kernels`.
"""
