"""Decoding of a batch of windows, alone or with drafts, always with the teacher's output.

    decoder = WhisperDecoder(model, tokenizer, "en")                       # plain
    decoder = WhisperDecoder(model, tokenizer, "en", student=student)      # speculative
    hypotheses = decoder(states, max_new_tokens=[200] * len(states))

Drafts come from a student (its decoder; the encoder must be the teacher's) or from older
transcripts. The teacher reads all drafted tokens of a row in one pass; those that it would have
said itself are kept, then one of its own (arXiv:2211.17192). Rows accept by themselves: each has
its own length, rows that end leave the batch, and no row waits for another.

What is exact: a token is the argmax of the teacher's scores, after the rules. In int8 these do not
depend on how many tokens a pass has (`distill.whisper.decoding.linear`), so drafts change nothing,
bit for bit. In float a pass over several tokens rounds differently from one over a single token, in
the fourth decimal, in half types by a step or two of those their numbers have; where the two best
scores are nearer than that may matter (`distill.whisper.decoding.state`), the place is counted and
listed, and with `exact` decided by the plain computation, one token at a time. Sampled texts are
the teacher's as well (`distill.whisper.decoding.sampling`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from distill.whisper.decoding.decoder import Cache, Decoder
from distill.whisper.decoding.draft_length import DraftLength
from distill.whisper.decoding.drafts import StudentDraft
from distill.whisper.decoding.report import Report
from distill.whisper.decoding.rules import Rules
from distill.whisper.decoding.sampling import Sampling
from distill.whisper.decoding.sequences import Hypothesis
from distill.whisper.decoding.state import Batch
from distill.whisper.special import SpecialTokens
from distill.whisper.student import same_encoder

AUTO = "auto"  # the language that the model hears


class WhisperDecoder:
    """Decoding with Whisper's own rules (suppressed tokens, timestamps); greedy, or sampled.

    Args:
        model: WhisperForConditionalGeneration.
        tokenizer: its tokenizer.
        language, task: forced, as in `<|en|><|transcribe|>`; rows may have their own language.
            With the language `auto` a multilingual model says which one it hears.
        timestamps: let the model write timestamps, by the rules of its generation config.
        on_loop: what to do with a row that repeats itself: `end` it (labels: it is dropped),
            `break` the loop (forbid the token that would go on with it; after three of them the
            row is ended), or `keep` it (plain greedy decoding).
        student: drafts for the model; its decoder runs in int8 on CPUs.
        int8: decode with an int8 copy of the decoder (CPUs).
        exact: decide near ties by the plain computation.
        detect_language: say what language each row is taken for, also where it is known.
        draft_length: K for every round; None chooses it from measured times and acceptance.
        rows_at_once: most rows in the caches. A call may have more: where one ends, another
            begins. None decodes all of a call together.

    Raises:
        ValueError: the student has another vocabulary or another encoder, int8 is not possible, or
            there are no languages to detect.
    """

    def __init__(
        self,
        model,
        tokenizer,
        language: str | None,
        task: str = "transcribe",
        timestamps: bool = False,
        on_loop: str = "end",
        *,
        student=None,
        int8: bool = False,
        exact: bool = False,
        detect_language: bool = False,
        draft_length: int | None = None,
        rows_at_once: int | None = None,
    ):
        self.model = model
        self.special = SpecialTokens(tokenizer, model.generation_config)
        self.language, self.task, self.timestamps = language, task, timestamps
        self.on_loop, self.exact, self.rows_at_once = on_loop, exact, rows_at_once
        self.decoder = Decoder(model, int8)
        self.rules = Rules(model.generation_config, self.special, timestamps,
                           model.config.vocab_size, model.device)
        self.languages = self.special.languages
        self.detect_language = detect_language
        if (detect_language or language == AUTO) and not self.languages:
            raise ValueError("the model knows one language only: there is none to detect")
        self.student = None
        if student is not None:
            _check_pair(model, student)
            self.student = StudentDraft(student, model.device.type == "cpu", self.decoder)
        self.length, self.fixed_length = DraftLength(), draft_length
        self.report = Report()

    @torch.inference_mode()
    def __call__(
        self,
        states: Tensor,
        max_new_tokens: Sequence[int],
        previous: Sequence[Sequence[int]] | None = None,
        languages: Sequence[str | None] | None = None,
        drafts: Sequence[Sequence[int]] | None = None,
        sampling: Sampling | None = None,
    ) -> list[Hypothesis]:
        """Decode a batch; rows of like length should follow each other if it is larger than
        `rows_at_once`, the longest first.

        Args:
            states: (batch, frames, width) encoder states.
            max_new_tokens: limit for each row; the model's context (448) limits all.
            previous: text tokens said before each row, given as a prompt; [] for none.
            languages: of each row, where it differs from the decoder's.
            drafts: an older transcript (tokens without prompt and end) of each row; [] for none.
            sampling: None takes the likeliest tokens.
        """
        if not len(states):
            return []
        spoken = [language or self.language for language in languages or [None] * len(states)]
        heard: list[tuple[str | None, float | None]] = [(None, None)] * len(states)
        before = previous or [[]] * len(states)

        def prompt_of(rows: Sequence[int], cache: Cache) -> list[list[int]]:
            if self.detect_language or any(spoken[row] == AUTO for row in rows):
                for row, found in zip(rows, self._hear_languages(cache, len(rows)), strict=True):
                    heard[row] = found
                    spoken[row] = found[0] if spoken[row] == AUTO else spoken[row]
            return [self._prompt(before[row], spoken[row]) for row in rows]

        batch = Batch(self, states, max_new_tokens, prompt_of, drafts, sampling,
                      self.rows_at_once or len(states))
        batch.run()
        report = self.report
        report.rows += len(states)
        report.tokens += sum(map(len, batch.rows.tokens))
        found = batch.rows.hypotheses(batch.no_speech)
        for hypothesis, (language, probability) in zip(found, heard, strict=True):
            hypothesis.language, hypothesis.language_prob = language, probability
        return found

    def _hear_languages(self, cache: Cache, rows: int) -> list[tuple[str, float]]:
        """The likeliest language of each row and its probability among the languages; nothing but
        `<|startoftranscript|>` is read (arXiv:2212.04356 sec. 2.3)."""
        start = torch.full((rows, 1), self.special.start, device=self.model.device)
        scores = self.decoder.scores(self.decoder(start, [0] * rows, cache)[:, 0])
        names = list(self.languages)
        best, index = scores[:, [self.languages[name] for name in names]].softmax(-1).max(-1)
        return [(names[i].strip("<|>"), probability)
                for i, probability in zip(index.tolist(), best.tolist(), strict=True)]

    def _prompt(self, previous: Sequence[int], language: str | None) -> list[int]:
        return [*self.special.prompt(previous, self.decoder.context),
                *self.special.prefix(language, self.task, self.timestamps)]


def _check_pair(model, student) -> None:
    if student.config.vocab_size != model.config.vocab_size:
        raise ValueError(
            f"the student has {student.config.vocab_size} tokens, the teacher "
            f"{model.config.vocab_size}: drafts must be in the teacher's vocabulary")
    if not same_encoder(model, student):
        raise ValueError("the student's encoder is not the teacher's: it was trained or belongs to "
                         "another teacher, so one pass of it cannot serve both")
