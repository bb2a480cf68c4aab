"""Fixtures, named in conftest.py: a tiny corpus of sounds, recipes of tiny taggers, and teachers
for them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile

from distill.data.manifest import Row, write_manifest

CLASSES = ("bell", "cat", "dog")
TINY = "{hidden_size: 32, num_attention_heads: 2, num_hidden_layers: 1}"
RECIPE = """\
method: ced
num_threads: 1
data: {{train: [{data}/train.jsonl], validation: [{data}/validation.jsonl],
       test: [{data}/test.jsonl], clip_seconds: 1.0}}
teacher: {{members: [{{model: "toy_teachers:loud"}}, {{model: "toy_teachers:Half"}}]}}
views: {{noise_probability: 0.5}}
scores: {{epochs: 2, batch_size: 5}}
student: {{config: {tiny}}}
train: {{max_steps: 4, batch_size: 8, micro_batch_size: 8, learning_rate: 1e-3, warmup_steps: 1,
        log_every: 1, save_every: 2, validate_every: 2}}
evaluation: {{num_bootstrap: 20, batch_size: 4}}
"""


def write_sounds(folder: Path, split: str, seconds: list[float], rates=(16_000,)) -> Path:
    """A manifest of tones: those of the three classes by turns, each at its own pitch."""
    (folder / split).mkdir(parents=True, exist_ok=True)
    rows = []
    for number, length in enumerate(seconds):
        generator = np.random.default_rng(1000 * len(split) + number)
        rate, label = rates[number % len(rates)], CLASSES[number % 3]
        time = np.arange(round(length * rate)) / rate
        tone = 0.3 * np.sin(2 * np.pi * 400 * (1 + number % 3) * time)
        tone = tone + 0.05 * generator.standard_normal(len(time))
        path = folder / split / f"{number}.wav"
        soundfile.write(path, tone.astype(np.float32), rate)
        rows.append(Row(f"{split}-{number}", f"{split}/{number}.wav", len(time) / rate,
                        labels=[label]))
    write_manifest(folder / f"{split}.jsonl", rows)
    return folder / f"{split}.jsonl"


@dataclass
class Tags:
    """A recipe and its folder; `recipe("key=value")` loads it, `arguments("key=value")` are those
    of a command."""

    folder: Path
    path: Path

    def arguments(self, *overrides: str) -> list[str]:
        return [str(self.path), f"output_dir={self.folder / 'run'}", *overrides]

    def recipe(self, *overrides: str):
        from distill.ced.recipe import load_recipe

        found = self.arguments(*overrides)
        return load_recipe(found[0], found[1:])


@pytest.fixture(scope="session")
def toys(tmp_path_factory):
    """Lets recipes name the teachers in this folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        yield str(Path(__file__).parent)


@pytest.fixture(scope="session")
def make_tags(toys) -> Callable[..., Tags]:
    """`make_tags(folder, train=[seconds, ...])`."""

    def make(folder: Path, train=(1.3, 0.5, 2.0, 1.0, 0.7, 3.1, 0.3, 1.0, 0.9), rates=(16_000,)):
        data = folder / "data"
        write_sounds(data, "train", list(train), rates)
        write_sounds(data, "validation", [1.0, 0.6, 2.2])
        write_sounds(data, "test", [0.8, 1.0, 2.5, 0.4, 1.0, 1.0])
        recipe = folder / "recipe"
        recipe.mkdir()
        (recipe / "recipe.yaml").write_text(RECIPE.format(data=data, tiny=TINY))
        return Tags(folder, recipe / "recipe.yaml")

    return make


@pytest.fixture(scope="module")
def tags(make_tags, tmp_path_factory) -> Tags:
    """A corpus of 14 training clips."""
    return make_tags(tmp_path_factory.mktemp("tags"))
