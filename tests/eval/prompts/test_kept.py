"""Passes that are kept belong to what was asked."""

from distill.testing import write_tiny_recipe
from distill.whisper.recipe import load_recipe
from eval.prompts import measure


def test_the_key_knows_the_rule_of_boosts(tmp_path, monkeypatch):
    (tmp_path / "names.txt").write_text("Ann\n")
    recipe = load_recipe(write_tiny_recipe(tmp_path),
                         [f"evaluation.prompts.words={tmp_path / 'names.txt'}"])
    asked = measure.asked_of(recipe, [])
    assert measure.asked_of(recipe, []) == asked
    monkeypatch.setattr(measure, "RULE", (*measure.RULE[:-1], 7))
    assert measure.asked_of(recipe, []) != asked
