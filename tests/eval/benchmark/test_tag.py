"""Figures of the benchmark of taggers, from times and runs that are made up."""

import pytest

from distill.config import ConfigError
from eval.benchmark import consistency, tag
from tests.ced.conftest import tagger_folder  # noqa: F401
from tests.ced.tiny_tags import make_tags, tags, toys  # noqa: F401


def test_ratios_are_medians_of_pairs():
    one = {"store": 1.0, "live": 3.9, "members": 3.0, "student": 1.0, "read_and_decode": 0.02,
           "augment": 0.03, "features": 0.1}
    slow = {key: 10 * value for key, value in one.items()}
    outlier = {**one, "live": 100.0}
    found = tag.summarise([one, slow, outlier])
    assert found["speedup_vs_live"] == pytest.approx(3.9)
    assert found["ideal_speedup"] == pytest.approx(4.0)
    assert found["speedup_vs_ideal"] == pytest.approx(0.975)
    assert found["replay_overhead"] == pytest.approx(0.02)
    assert found["replay_overhead_with_augmentation"] == pytest.approx(0.05)
    assert found["steps_per_second"]["store"] == pytest.approx(1.0)


def test_pytorch_does_what_the_onnx_graphs_do(tagger_folder):  # noqa: F811
    import torch

    from distill.ced.model.modeling import CedForAudioClassification

    model = CedForAudioClassification.from_pretrained(tagger_folder).eval()
    features = 20 * torch.randn(2, 64, 1001) - 30
    with torch.no_grad():
        expected = model(features).logits.sigmoid().numpy()
    assert tag.probabilities(model, features) == pytest.approx(expected, abs=1e-6)


def test_both_benchmarks_on_a_small_tagger(tags, tmp_path, monkeypatch, capsys):  # noqa: F811
    """Two stores, two students, all the figures there."""
    import distill.train
    from distill.data.files import read_json
    from pseudo_label import tag_scores

    monkeypatch.setattr(tag, "NUM_ROUNDS", 1)
    monkeypatch.setattr(tag, "OUT", tmp_path)
    monkeypatch.setattr(tag, "onnx_systems", lambda folder, threads: {})
    arguments = tags.arguments("train.max_steps=2")
    tag_scores.main(arguments)
    distill.train.main(arguments)
    tag.main(tags.arguments("train.max_steps=1"))  # would go through the half of the store
    result = read_json(tmp_path / "tag.json")
    assert result["store_views"] == 2 * 13 and result["k"] == result["num_classes"] == 3
    for key in ("speedup_vs_live", "speedup_vs_ideal", "replay_overhead",
                "store_bytes_per_clip_epoch"):
        assert result[key] > 0
    assert result["inference"]["pytorch_float32"]["clips_per_second"] > 0
    assert "clips/s" in capsys.readouterr().out
    assert result["machine"]["processor"]

    modules = {"pseudo_label.tag_scores": tag_scores.main, "distill.train": distill.train.main}
    calls = []

    def call(module, *rest):
        calls.append(module)
        modules[module](list(rest))

    monkeypatch.setattr(consistency, "FOLDER", tmp_path / "consistency")
    monkeypatch.setattr(consistency, "OUT", tmp_path)
    monkeypatch.setattr(consistency, "_call", call)
    consistency.main([*arguments, "seeds=[0]"])
    found = read_json(tmp_path / "consistency.json")
    assert found["machine"]["processor"]
    assert found["seeds"] == [0] and found["difference_ci"] is None
    done = len(calls)
    consistency.main([*arguments, "seeds=[0]"])
    assert len(calls) == done == 4, "what is there is not made again"
    with pytest.raises(ConfigError, match="seeds="):
        consistency.main([*arguments, "seeds=[a]"])


def test_interval_is_of_the_differences_between_pairs(tags, tmp_path, monkeypatch):  # noqa: F811
    from distill.data.files import write_json

    monkeypatch.setattr(consistency, "FOLDER", tmp_path)
    recipe = tags.recipe()
    budget = consistency._budget(recipe)
    for seed, (good, bad) in enumerate([(0.5, 0.4), (0.9, 0.78), (0.3, None)]):
        for mode, value in (("consistent", good), ("inconsistent", bad)):
            if value is not None:
                write_json(tmp_path / "here" / f"{mode}-{seed}" / "result.json",
                           {"map": value, "budget": budget, "mode": mode, "seed": seed,
                            "num_classes": 3, "num_recordings": 6})
    write_json(tmp_path / "there" / "consistent-9" / "result.json",
               {"map": 0, "budget": {}, "mode": "consistent", "seed": 9})
    found = consistency.summarise(recipe)
    assert found["seeds"] == [0, 1]
    assert found["difference"] == pytest.approx(0.11)
    half = 12.706 * (0.02 / 2**0.5) / 2**0.5
    assert found["difference_ci"] == pytest.approx([0.11 - half, 0.11 + half])
    told = consistency.text(found)
    assert "+11.00 points" in told
    assert "split test: 6 recordings, mAP over 3 classes with positives" in told


def test_runs_of_other_settings_do_not_count(tags):  # noqa: F811
    """What only says where, or which of the runs, does not matter; all else does."""
    budget = consistency._budget(tags.recipe())
    for same in ("seed=3", "output_dir=x", "scores.dir=x", "teacher.consistent=false"):
        assert consistency._budget(tags.recipe(same, "views.seed=0")) == budget, same
    for other in ("train.learning_rate=2e-3", "loss.fill=zero", "scores.k=2", "views.shift=0.1",
                  "student.config.hidden_size=64", "views.seed=1",
                  "teacher.members=[{model: 'toy_teachers:loud'}]"):
        assert consistency._budget(tags.recipe(other)) != budget, other
