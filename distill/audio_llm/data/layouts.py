"""What stands around the audio: layouts of both papers, and a short one.

    layout = LAYOUTS["user"]
    before, after = layout.parts("Transcribe speech to text.", "")

A sequence is `before` + audio + `after` + answer + `end`. Special tokens are written as text; the
tokenizer knows them. Nothing is trimmed: spaces belong to the layout.
"""

from __future__ import annotations

from dataclasses import dataclass

SLOT = "{prompt}"


@dataclass(frozen=True)
class Layout:
    """Text around the audio.

    Attributes:
        before, after: of the audio; `after` has {prompt}, and {transcript} where one is told.
        without: `after` where there is no transcript.
        answer: what the answer stands in.
        end: the token that ends an answer; None: the tokenizer's end of sequence.
    """

    before: str
    after: str
    without: str
    answer: str = " {answer}"
    end: str | None = None

    def parts(self, prompt: str, transcript: str | None) -> tuple[str, str]:
        """Text before and after the audio."""
        after = self.after if transcript else self.without
        return self.before, after.format(prompt=prompt, transcript=transcript or "")


_TURNS = "{prompt}<|im_end|>\n<|im_start|>assistant\n"
_TOLD = "Speech content: {transcript}\n"
_SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"

LAYOUTS = {
    # the audio inside the user's turn, no system turn: the fewest tokens
    "user": Layout("<|im_start|>user\n", f"\n{_TOLD}{_TURNS}", f"\n{_TURNS}", end="<|im_end|>"),
    # MooER: the audio before the system turn, spaces on both sides of the answer
    "mooer": Layout("", f"{_SYSTEM}{_TOLD}{_TURNS}", _SYSTEM + _TURNS, " {answer} ",
                    end="<|im_end|>"),
    # LTU-AS: the audio before Alpaca's prompt, the transcript as its input
    "ltu_as": Layout(
        "", "<s>### Instruction:\n{prompt}\n\n### Input:\n{transcript}\n\n### Response:\n",
        "<s>### Instruction:\n{prompt}\n\n### Response:\n", "{answer}", end="</s>"),
}
