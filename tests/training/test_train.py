"""What a training may write over."""

import pytest

from distill.train import check_output


def test_a_student_of_others_is_not_replaced(tmp_path):
    check_output(tmp_path)
    (tmp_path / "student").mkdir()
    with pytest.raises(ValueError, match="output_dir: .*student is there already and was not made"):
        check_output(tmp_path)
    (tmp_path / "checkpoints").mkdir()  # a training that was killed before it could say so
    check_output(tmp_path)
