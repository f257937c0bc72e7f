"""The speech oracle, fitted once."""

import pytest

from ernie_jax.evaluate.oracles.speech import SpeechOracle


@pytest.fixture(scope="session")
def oracle_dir(tmp_path_factory):
  return tmp_path_factory.mktemp("oracles")


@pytest.fixture(scope="session")
def speech_oracle(oracle_dir) -> SpeechOracle:
  return SpeechOracle.load(oracle_dir)
