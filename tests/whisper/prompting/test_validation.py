"""Validation of a student whose decoder reads lists: chosen by its errors with them and without."""

import pytest

from distill.config import ConfigError


def test_the_score_is_the_mean_of_both(tiny_run, tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("one\ntwo\ntree\nMoskowitz\nvan Dyck\n", encoding="utf-8")
    keys = ["views.previous_text_probability=0", "views.prompts.probability=1",
            "views.prompts.listed_probability=1", "views.prompts.min_distractors=1",
            "views.prompts.max_distractors=2", "scores.encoder_states=none", "loss.kl_weight=0"]
    lists = f"views.prompts.validation_words={words}"
    task = tiny_run.task(tiny_run.recipe(*keys, lists))
    asked = task.validation._asked(task.student, task.validation.utterances[0].windows,
                                   task.validation.contents)
    assert all(asked["previous"].values()) and "texts" not in asked
    found = task.validate()
    rates = [found["wer"], found["wer_with_lists"]]
    assert found["score"] == sum(rates) / 2 and rates[0] == tiny_run.task(
        tiny_run.recipe(*keys)).validate()["score"]
    for key, wanted in ((lists, "null with student.prompt_reader.layers"),
                        ("views.prompts.validation_words=none.txt", "a text file")):
        with pytest.raises(ConfigError, match=f"views.prompts.validation_words must be {wanted}"):
            tiny_run.recipe(*keys, key, "student.prompt_reader.layers=1",
                            "student.prompt_reader.model=null")
