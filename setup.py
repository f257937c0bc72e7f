"""Packaging: a small core that trains, generates and evaluates on one machine; extras for the rest."""

from setuptools import find_namespace_packages, setup

CORE = [
  "jax>=0.10.2",  # arrays, gradients, compilation; the newest for Python 3.11
  "flax>=0.12.8",  # Linen modules and logical partitioning
  "optax>=0.2.8",  # optimizers; older releases have no weight dimension numbers for Muon
  "orbax-checkpoint>=0.12.8",  # asynchronous sharded checkpoints, v1 API
  "grain>=0.2.18",  # deterministic, resumable input pipelines
  "tensorflow-datasets>=4.9.10",  # data set builders; imports without TensorFlow
  "array_record>=0.8.1",  # the file format the builders write and Grain reads
  "sentencepiece>=0.2.1",  # the text tokenizer
  "ml-collections>=1.1.0",  # config files and their overrides
  "absl-py>=2.1.0",  # command-line flags
  "jaxtyping>=0.3.0",  # shapes in signatures
  "safetensors>=0.5.0",  # Hugging Face checkpoints in and out
  "numpy>=2.0",  # host-side arrays
  "scipy>=1.13",  # image and signal operations of the oracles; jax brings it anyway
  "tqdm>=4.66",  # the progress bar
  "tensorboardX>=2.6.2",  # TensorBoard event files without TensorFlow
  "matplotlib>=3.9",  # figures of the analysis and of the quickstart
  "pillow>=11.3",  # pictures and GIFs in and out; matplotlib brings it anyway
]

EXTRAS = {
  "test": [
    "pytest>=8.0",
    "pytest-xdist>=3.6",  # two test files at a time
    "hypothesis>=6.100",  # property tests
    "ruff>=0.14",  # lint and format
    "nbclient>=0.10",  # runs the notebook
    "ipykernel>=6.29",  # the kernel it runs in
    "playwright>=1.50",  # opens the report in a Chromium, where the machine has one; brings none itself
    # The TPU compiler, for tests that compile for TPU slices ahead of time; it needs no TPU.
    "jax[tpu]>=0.10.2; sys_platform == 'linux' and platform_machine == 'x86_64'",
  ],
  "media": [
    "av>=15.0",  # video files in and out (FFmpeg)
    "soundfile>=0.13",  # sound files in and out (libsndfile)
    "soxr>=1.0",  # sound of other rates to 16 kHz
  ],
  # The peers that parity tests and benchmarks compare with.
  "parity": ["torch==2.13.0", "transformers==5.23.*"],
  "tpu": ["jax[tpu]>=0.10.2"],
  "cuda": ["jax[cuda12]>=0.10.2"],
}

setup(
  name="ernie_jax",
  version="0.1.0",
  description="The system of the ERNIE 5.0 report in JAX",
  license="Apache-2.0",
  python_requires=">=3.11",
  packages=find_namespace_packages(include=["ernie_jax", "ernie_jax.*"]),
  install_requires=CORE,
  extras_require=EXTRAS,
)
