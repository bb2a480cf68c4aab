"""Features, tokenizers and teachers are remembered by all tests of this folder."""

from pathlib import Path

import pytest

from tests.support.remembered import remembered_teachers


@pytest.fixture(scope="session", autouse=True)
def _remembered(remembered):
    from distill.whisper import teacher

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teacher, "load_teacher", remembered_teachers(teacher.load_teacher))
        yield


@pytest.fixture(scope="session")
def small_teacher(tmp_path_factory) -> Path:
    """Folder of a random Whisper of three layers, which is soon loaded; not to be changed."""
    from distill.testing import write_tiny_teacher

    folder = tmp_path_factory.mktemp("small") / "teacher"
    return write_tiny_teacher(folder, decoder_layers=2, encoder_layers=1)
