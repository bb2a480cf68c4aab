"""What a list costs: counted and timed with lists of several lengths."""

import pytest

from distill.testing import write_tiny_recipe
from distill.whisper.recipe import load_recipe
from eval.prompts.cost import Pass as Cost
from eval.prompts.cost import figures, main, measure, table


def test_all_lists_in_turn(tmp_path):
    recipe = load_recipe(write_tiny_recipe(tmp_path), ["evaluation.prompts.split=validation"])
    found = measure(recipe, [f"word{at}" for at in range(300)], rounds=1)
    assert found.pop("clips") > 1 and list(found) == ["1", "8"]
    for sizes in found.values():
        assert list(sizes) == ["0", "100", "300"]
        assert sizes["0"]["more"] == sizes["0"]["undone"] == sizes["0"]["changed_texts"] == 0
        assert all(each["steps"] > 0 and each["seconds"] > 0 for each in sizes.values())
    assert len(table(found).splitlines()) == 7


def test_more_is_a_share_of_the_same_round():
    turns = [{0: Cost(2.0, 10, 0, 0, [[1], [2]]), 9: Cost(seconds, 12, 3, 1, [[1], [3]])}
             for seconds in (2.2, 2.6, 2.1)]
    assert figures(turns, 9) == {
        "seconds": 2.2, "more": pytest.approx(0.1), "more_from": pytest.approx(0.05),
        "more_to": pytest.approx(0.3), "steps": 12, "beside": 3, "undone": 1, "changed_texts": 1}


def test_a_file_without_phrases(tmp_path):
    (tmp_path / "names.txt").write_text("\n")
    with pytest.raises(ValueError, match="names.txt has no phrases"):
        main(["demo-prompted", f"phrases={tmp_path / 'names.txt'}", f"output_dir={tmp_path}"])
    with pytest.raises(ValueError, match="one file of phrases is needed"):
        main(["demo-prompted", f"output_dir={tmp_path}"])
