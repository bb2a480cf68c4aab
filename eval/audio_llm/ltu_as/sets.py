"""What is asked about each set, and what counts as an answer. Prompts are LTU-AS's own.

An evaluation's `kind` is `labels` (accuracy), `gender` (macro F1), `age` (mean absolute error),
`captions` (CIDEr-D) or `text` (word error rate).
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Evaluation:
    """
    Attributes:
        prefix: before labels and answers when their embeddings are compared.
        told: what an answer may begin with, and is taken off.
        aliases: other words for a label.
        seconds: of a clip that are heard, from its beginning; LTU-AS hears 10.
    """

    name: str
    prompt: str
    kind: str
    prefix: str = ""
    told: tuple[str, ...] = ()
    aliases: dict[str, tuple[str, ...]] = field(default_factory=dict)
    seconds: float = 10.0


EVALUATIONS = {each.name: each for each in (
    Evaluation("esc50", "Close-ended question: Write an audio caption describing the sound.",
               "labels", "sound of ", ("audio caption:",)),
    Evaluation("audiocaps", "Close-ended question: Write an audio caption describing the sound in "
               "AudioCaps style.", "captions", told=("audio caption:",)),
    Evaluation("librispeech", "Closed-ended question: Can you identify the spoken text?", "text",
               told=("spoken text:",), seconds=30.0),
    Evaluation("iemocap", "How would you describe the speaker's emotions? Give the emotion "
               "classification.", "labels", "", ("emotion:",),
               {"angry": ("anger", "mad", "furious"),
                "happy": ("happiness", "excited", "excitement", "joy", "joyful"),
                "sad": ("sadness", "unhappy", "sorrow"), "neutral": ("calm",)}),
    Evaluation("voxceleb2_gender", "Is the speaker male or female? Output an answer anyways.",
               "gender", "", ("gender:",),
               {"male": ("man", "boy"), "female": ("woman", "girl", "lady")}),
    Evaluation("voxceleb2_age", "How old is the speaker?", "age"),
    Evaluation("gtzan", "Describe the music genre with a sentence?", "labels", "Music Genre: ",
               ("music genre:",),
               {"hiphop": ("hip hop", "hip-hop", "rap"), "metal": ("heavy metal",)}),
)}
