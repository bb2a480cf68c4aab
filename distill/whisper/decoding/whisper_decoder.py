"""Decoding of a batch of windows, with drafts or without: always the target model's output.

    decoder = WhisperDecoder(model, tokenizer, "en")                       # plain
    decoder = WhisperDecoder(model, tokenizer, "en", student=student)      # speculative
    hypotheses = decoder(states, max_new_tokens=[200] * len(states))

Speculative decoding (arXiv:2211.17192): a **draft model** proposes tokens, and the **target model**
reads all drafted tokens of a sequence in one pass. It accepts those that it would have generated
itself, then adds one token of its own. In this project the target model is mostly a teacher, and
the draft model its student (its decoder; the encoder must be the teacher's) or an older transcript.
Each sequence accepts by itself: it has its own length, and no sequence waits for another.

What is exact: a token is the argmax of the target model's logits, after the logits processors. In
int8 the logits do not depend on the number of tokens in a pass (`whisper.linear`), so drafts
change nothing, bit for bit. In float a pass over several tokens rounds differently from a pass over
one token: in the fourth decimal, and in half types by one or two of their steps. Where the two best
logits are nearer than that (`decoding.near_ties`), the position is counted and listed, and `exact`
decides it by plain decoding, one token at a time. Sampled texts, too, are from the target model's
distribution (`decoding.sampling`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from distill.whisper.decoding.decoder import Decoder
from distill.whisper.decoding.drafting.calibration import calibrated, kept, measure
from distill.whisper.decoding.drafting.costs import bucket
from distill.whisper.decoding.drafting.drafters import StudentDrafter, TranscriptDrafter
from distill.whisper.decoding.drafting.length import DraftLength
from distill.whisper.decoding.drafting.policy import Drafting
from distill.whisper.decoding.phrases.beside import TextsBeside, rows_beside
from distill.whisper.decoding.phrases.boosts import Boosts
from distill.whisper.decoding.phrases.trie import PhraseList
from distill.whisper.decoding.prompts import AUTO, Prompts
from distill.whisper.decoding.report import Report
from distill.whisper.decoding.rules import LogitsRules
from distill.whisper.decoding.sampling import Sampling
from distill.whisper.decoding.sequences import Hypothesis, Sequences
from distill.whisper.decoding.state import DecodingState
from distill.whisper.decoding.verification import Verifier
from distill.whisper.encoder.audio import silence_behind
from distill.whisper.encoder.prompt_reader import has_reader
from distill.whisper.special import SpecialTokens
from distill.whisper.student import same_encoder


class WhisperDecoder:
    """Decoding by Whisper's rules (suppressed tokens, timestamps); greedy, or sampled.

    Args:
        model: WhisperForConditionalGeneration, the target model.
        tokenizer: its tokenizer.
        language, task: forced, as in `<|en|><|transcribe|>`; each window may have its own
            language. With the language `auto`, a multilingual model detects it.
        timestamps: let the model write timestamps, by the rules of its generation config.
        on_loop: what to do with a sequence that repeats itself: `end` it (labels: it is dropped),
            `break` the loop (forbid the token that would continue it; after three loops the
            sequence is ended), or `keep` it (plain greedy decoding).
        student: the draft model; its decoder runs in int8 on CPUs.
        int8: decode with an int8 copy of the decoder (CPUs).
        exact: decide near ties by plain decoding.
        detect_language: detect the language of each window, also where it is known.
        draft_length: tokens of every draft; None chooses the number for each round from measured
            times and acceptance.
        max_slots: most sequences in the caches. A call may have more: where one ends, another
            begins. None decodes all sequences of a call together. With a student, what passes over
            so many sequences cost is measured here, once a machine (`drafting.calibration`).
        phrases: names and terms to prefer, with drafts and without (`decoding.phrases`);
            probabilities stay those of the model without them.
        share_weights_with: another decoder of the same model, whose weights and caches are used,
            `int8` included; also its draft model's, unless `student` is given. Only one of the two
            can decode at a time.

    Attributes:
        target: the target model's decoder.
        drafter: the draft model; None without.
        length: measured times and acceptance, over all calls.
        report: counts of all calls.

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
        max_slots: int | None = None,
        phrases: PhraseList | None = None,
        share_weights_with: WhisperDecoder | None = None,
    ):
        self.model = model
        self.special = SpecialTokens(tokenizer, model.generation_config)
        self.language, self.task, self.timestamps = language, task, timestamps
        self.on_loop, self.exact, self.max_slots = on_loop, exact, max_slots
        self.rules = LogitsRules(model.generation_config, self.special, timestamps,
                                 model.config.vocab_size, model.device)
        self.detect_language, self.phrases = detect_language, phrases
        if (detect_language or language == AUTO) and not self.special.languages:
            raise ValueError("the model knows one language only: there is none to detect")
        other = share_weights_with
        silence = silence_behind(model)
        quiet = None if silence is None else silence.states
        self.target = Decoder(model, int8, silence=quiet) if other is None else other.target
        self.drafter = None if other is None else other.drafter
        if student is not None:
            _check_pair(model, student)
            self.drafter = StudentDrafter(student, model.device.type == "cpu", self.target)
        self.length, self.fixed_length = DraftLength(), draft_length
        self.report = Report()
        self._looked_up: set[int] = set()  # batch sizes without kept costs
        if self.drafter is not None and draft_length is None:
            for slots in sorted({1, bucket(max_slots or 1)}):
                self._calibrate(slots)

    def _calibrate(self, slots: int) -> None:
        found = calibrated(self.target, self.drafter.decoder, self.rules, slots)
        if found is not None:
            self.length.learn(slots, found)

    @torch.inference_mode()
    def __call__(
        self,
        states: Tensor,
        max_new_tokens: Sequence[int],
        previous: Sequence[Sequence[int]] | None = None,
        languages: Sequence[str | None] | None = None,
        drafts: Sequence[Sequence[int]] | None = None,
        sampling: Sampling | None = None,
        phrases: Sequence[PhraseList | None] | None = None,
    ) -> list[Hypothesis]:
        """Decode a batch of windows, each to a sequence.

        If there are more than `max_slots`, windows of like length should follow each other, the
        longest first.

        Args:
            states: (batch, frames, width) encoder states.
            max_new_tokens: limit for each sequence; the model's context (448) limits all.
            previous: text tokens before each window, given as a prompt; [] for none.
            languages: of each window, where it is not the decoder's.
            drafts: an older transcript (tokens without prompt and end) of each; [] for none.
            sampling: None takes the likeliest tokens.
            phrases: of each window; None: the decoder's for all.

        Raises:
            ValueError: phrases were given, and sampling is by rejection.
        """
        if not len(states):
            return []
        spoken = [language or self.language for language in languages or [None] * len(states)]
        prompts = Prompts(self.target, self.special, self.task, self.timestamps,
                          previous or [[]] * len(states), spoken, self.detect_language)
        sequences = Sequences(list(max_new_tokens), self.special.end)
        boosts = self._boosts(phrases or [self.phrases] * len(states), sampling)
        state = self._begin(states, sequences, prompts, drafts, sampling, boosts)
        state.run()
        self.report.sequences += len(states)
        self.report.tokens += sum(map(len, sequences.tokens[: len(states)]))
        found = sequences.hypotheses(state.no_speech)
        for hypothesis, (language, probability) in zip(found, prompts.detected, strict=True):
            hypothesis.language, hypothesis.language_prob = language, probability
        return found

    def _begin(
        self, states: Tensor, sequences: Sequences, prompts: Prompts,
        transcripts: Sequence[Sequence[int]] | None, sampling: Sampling | None,
        boosts: Boosts | None,
    ) -> DecodingState:
        max_slots = min(self.max_slots or len(states), len(states))
        self._calibrate_late(bucket(max_slots))
        room = 0 if boosts is None else rows_beside(max_slots)
        cache = self.target.allocate_cache(states, max_slots, room)
        beside = None
        if boosts is not None:
            beside = TextsBeside(cache, sequences, boosts, self.on_loop == "end")
        verifier = Verifier(self.target, cache, sequences, self.rules, sampling, self.on_loop,
                            self.exact, self.report, boosts, beside)
        older = None if transcripts is None else TranscriptDrafter(transcripts, self.special.end)
        drafting = Drafting(
            self.drafter, older, states, sequences, self.rules, sampling, self.length,
            self.fixed_length, max_slots, self.on_loop == "break", boosts)
        return DecodingState(self.target, cache, states, sequences, prompts, drafting, verifier,
                             self.special, self.report, max_slots)

    def _boosts(self, lists: Sequence[PhraseList | None], sampling: Sampling | None
                ) -> Boosts | None:
        """None where there are no phrases: nothing is computed otherwise then."""
        lists = [names if names else None for names in lists]
        if not any(lists):
            return None
        if sampling is not None and not sampling.is_coupled:
            raise ValueError("phrases need greedy decoding or sampling by the rule 'coupled'")
        return Boosts(lists, self.special.timestamp_begin, self.special.end)

    def _calibrate_late(self, slots: int) -> None:
        """Costs of a batch size that was not foreseen, before its sequences begin: kept ones, or
        measured once the time of its plain rounds has paid for that."""
        if self.drafter is None or self.fixed_length is not None or self.length.is_known(slots):
            return
        draft, begin = self.drafter.decoder, time.perf_counter()
        if slots not in self._looked_up:
            found = kept(self.target, draft, slots)
            self._looked_up.add(slots)
        elif self.length.can_measure(slots):
            found = (calibrated(self.target, draft, self.rules, slots)
                     or measure(self.target, draft, self.rules, slots)[0])
        else:
            return
        if found is not None:
            self.length.learn(slots, found)
        self.length.balance.spend(time.perf_counter() - begin)


def _check_pair(model, student) -> None:
    if student.config.vocab_size != model.config.vocab_size:
        raise ValueError(
            f"the student has {student.config.vocab_size} tokens, the teacher "
            f"{model.config.vocab_size}: drafts must be in the teacher's vocabulary")
    if has_reader(model):
        raise ValueError("the target model's encoder reads prompts: with one its states are not "
                         "those that a draft model knows, so nothing drafts for it")
    if not same_encoder(model, student):
        raise ValueError("the student's encoder is not the teacher's: it was trained or belongs to "
                         "another teacher, so one pass of it cannot serve both")
