"""A build of the small corpus, shared by the tests of this room."""

import pytest

from ernie_jax.data.text_files import Build, Pieces, TextSource, prepare


@pytest.fixture(scope="session")
def source(corpus_dir) -> TextSource:
  return TextSource(path=str(corpus_dir), validation_percent=25.0, piece_chars=1000)


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
  return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="session")
def build(source, data_dir) -> Build:
  return prepare(source, data_dir)


@pytest.fixture(scope="session")
def train(build) -> Pieces:
  return Pieces(build, "train")


@pytest.fixture(scope="session")
def validation(build) -> Pieces:
  return Pieces(build, "validation")
