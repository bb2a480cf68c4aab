import pytest

from tests.support.tiny_llm import write_tiny_llm


@pytest.fixture(scope="session")
def tiny_llm(tmp_path_factory):
    return write_tiny_llm(tmp_path_factory.mktemp("llm") / "model")
