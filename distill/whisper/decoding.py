"""Greedy decoding of a batch of windows, alone or with drafts, always with the teacher's output.

    decoder = GreedyDecoder(model, tokenizer, "en")                       # plain
    decoder = GreedyDecoder(model, tokenizer, "en", student=student)      # speculative
    hypotheses = decoder(states, max_new_tokens=[200] * len(states))

Drafts come from a student (its decoder; the encoder must be the teacher's) or from older
transcripts. The teacher reads all drafted tokens of a row in one pass; those that it would have
said itself are kept, then one of its own (arXiv:2211.17192). Rows accept by themselves: each has
its own length, rows that end leave the batch, and no row waits for another.

What is exact: a token is the argmax of the teacher's scores, after the rules. In int8 these do not
depend on how many tokens a pass has (`distill.whisper.linear`), so drafts change nothing, bit for
bit. In float a pass over several tokens rounds differently from one over a single token, in the
fourth decimal; where the two best scores are nearer than `NEAR`, the place is counted and listed,
and with `exact` decided by the plain computation, one token at a time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from distill.whisper.decoder import Cache, Decoder
from distill.whisper.decoding_report import NearTie, Report
from distill.whisper.draft_length import TEXT_LONGEST, DraftLength
from distill.whisper.drafts import StudentDraft, TextDraft
from distill.whisper.rows import Hypothesis, Rows, loop_size
from distill.whisper.rules import Rules
from distill.whisper.special import SpecialTokens
from distill.whisper.student import same_encoder

NEAR = 2e-3  # logits; passes of one and of several tokens differ by up to 2e-4 (whisper-base)


class GreedyDecoder:
    """Greedy decoding with Whisper's own rules (suppressed tokens, timestamps).

    Args:
        model: WhisperForConditionalGeneration.
        tokenizer: its tokenizer.
        language, task: forced, as in `<|en|><|transcribe|>`; rows may have their own language.
        timestamps: let the model write timestamps, by the rules of its generation config.
        on_loop: what to do with a row that repeats itself: `end` it (labels: it is dropped),
            `break` the loop (forbid the token that would go on with it; after three of them the
            row is ended), or `keep` it (plain greedy decoding).
        student: drafts for the model; its decoder runs in int8 on CPUs.
        int8: decode with an int8 copy of the decoder (CPUs).
        exact: decide near ties by the plain computation.
        draft_length: K for every round; None chooses it from measured times and acceptance.

    Raises:
        ValueError: the student has another vocabulary or another encoder, or int8 is not possible.
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
        draft_length: int | None = None,
    ):
        self.model = model
        self.special = SpecialTokens(tokenizer, model.generation_config)
        self.language, self.task, self.timestamps = language, task, timestamps
        self.on_loop, self.exact = on_loop, exact
        self.decoder = Decoder(model, int8)
        self.rules = Rules(model.generation_config, self.special, timestamps,
                           model.config.vocab_size, model.device)
        self.student = None
        if student is not None:
            _check_pair(model, student)
            self.student = StudentDraft(student, int8=model.device.type == "cpu")
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
    ) -> list[Hypothesis]:
        """Decode a batch.

        Args:
            states: (batch, frames, width) encoder states.
            max_new_tokens: limit for each row; the model's context (448) limits all.
            previous: text tokens said before each row, given as a prompt; [] for none.
            languages: of each row, where it differs from the decoder's.
            drafts: an older transcript (tokens without prompt and end) of each row; [] for none.
        """
        if not len(states):
            return []
        before, spoken = previous or [[]] * len(states), languages or [None] * len(states)
        prompts = [self._prompt(*each) for each in zip(before, spoken, strict=True)]
        batch = _Batch(self, states, prompts, max_new_tokens, drafts)
        batch.first()
        while batch.slots:
            batch.round()
        report = self.report
        report.rows += len(states)
        report.tokens += sum(map(len, batch.rows.tokens))
        return batch.rows.hypotheses(batch.no_speech)

    def _prompt(self, previous: Sequence[int], language: str | None) -> list[int]:
        prefix = self.special.prefix(language or self.language, self.task, self.timestamps)
        if not previous:
            return prefix
        # as OpenAI: the last 223 tokens
        kept = list(previous)[-(self.decoder.context // 2 - 1) :]
        return [self.special.previous, *kept, *prefix]


class _Batch:
    """The rows of one call; `slots` are those not done, by their place in the caches."""

    def __init__(self, decoder: GreedyDecoder, states: Tensor, prompts: list[list[int]],
                 max_new_tokens: Sequence[int], drafts: Sequence[Sequence[int]] | None):
        self.own, self.model = decoder, decoder.decoder
        self.prompts, self.states = prompts, states
        room = [self.model.context - len(prompt) for prompt in prompts]
        limits = [min(pair) for pair in zip(max_new_tokens, room, strict=True)]
        self.rows = Rows(limits, decoder.special.end)
        self.slots = list(range(len(prompts)))
        self.cache = self.model.cache(states)
        self.texts = None if drafts is None else TextDraft(drafts, decoder.special.end)
        self.student_listens = False  # it has heard the audio of this batch
        self.has_drafted = False  # some pass was over several tokens
        self.is_paced = False  # the length of this round's drafts was chosen by their costs
        self.is_fresh = True  # nothing was said but the first tokens
        self.unusual = False  # this round: times were measured, or the student began to listen
        self.no_speech: list[float] = []

    def first(self) -> None:
        """Read the prompts and say the first token of each row."""
        width = max(map(len, self.prompts))
        hidden = self.model(self._tokens(self.prompts, width), [0] * len(self.slots), self.cache)
        at = torch.arange(len(self.slots), device=hidden.device)
        special, places = self.own.special, [len(prompt) - 1 for prompt in self.prompts]
        starts = [prompt.index(special.start) for prompt in self.prompts]
        scores = self.model.scores(hidden[at, torch.tensor(starts, device=hidden.device)])
        silent = scores[:, special.no_speech] - scores.logsumexp(-1)
        self.no_speech = silent.exp().tolist()
        if starts != places:
            scores = self.model.scores(hidden[at, torch.tensor(places, device=hidden.device)])
        self._say(scores, [[] for _ in self.slots])
        self._leave()

    def round(self) -> None:
        """Draft, read the drafts in one pass, keep what the teacher would have said."""
        started = time.perf_counter()
        drafts = self._drafts()
        width = 1 + max(map(len, drafts))
        texts = [self._last(row) + draft for row, draft in zip(self.slots, drafts, strict=True)]
        starts = [len(self._text(row)) - 1 for row in self.slots]
        begin = time.perf_counter()
        hidden = self.model(self._tokens(texts, width), starts, self.cache)
        wanted = hidden.flatten(0, 1) if width == 1 else torch.cat(
            [hidden[slot, : len(text)] for slot, text in enumerate(texts)])
        scores = self.model.scores(wanted)
        read = time.perf_counter() - begin
        self._say(scores, drafts)
        own = self.own
        own.report.passes += 1
        own.report.plain += width == 1
        own.report.row_passes += len(texts)
        self._leave()
        if self.is_paced and all(len(text) == width for text in texts):
            own.length.verify.add(len(texts), width, read)
            if not self.unusual:
                own.length.note_round(len(texts), width - 1, time.perf_counter() - started)
        self.unusual = self.is_fresh = self.is_paced = False

    # Drafting

    def _drafts(self) -> list[list[int]]:
        drafts = self._from_texts()
        lacking = [slot for slot, draft in enumerate(drafts) if not draft]
        if self.own.student is not None and lacking:
            found = self._from_student()
            for slot in lacking:
                drafts[slot] = found[slot]
        for slot, row in enumerate(self.slots):
            room = self.rows.limits[row] - len(self.rows.tokens[row]) - 1
            drafts[slot] = self._cut(row, drafts[slot][: max(room, 0)])
        return drafts

    def _from_texts(self) -> list[list[int]]:
        if self.texts is None:
            return [[] for _ in self.slots]
        return [self.texts(row, self.rows.tokens[row], TEXT_LONGEST) for row in self.slots]

    def _from_student(self) -> list[list[int]]:
        own = self.own
        count = own.fixed_length
        if count is None:
            self.is_paced = True
            self._measure()
            count = own.length.choose(len(self.slots), self.student_listens or self.is_fresh)
        if count == 0:
            return [[] for _ in self.slots]
        self._let_student_listen()
        texts = [self._text(row) for row in self.slots]
        return own.student(texts, [len(self.prompts[row]) for row in self.slots], count, own.rules)

    def _let_student_listen(self) -> None:
        """Only now: where drafts do not pay, this would."""
        if not self.student_listens:
            self.own.student.begin(self.states[self.slots])
            self.student_listens = self.unusual = True

    def _cut(self, row: int, draft: list[int]) -> list[int]:
        """Where loops are broken, what may come after one is known only when it is there."""
        if self.own.on_loop != "break":
            return draft
        said = self.rows.tokens[row]
        looped = (n for n in range(1, len(draft) + 1) if loop_size(said + draft[:n]))
        return draft[: next(looped, len(draft) + 1) - 1]

    def _measure(self) -> None:
        """Times of passes of as many rows, once; the caches are read beyond the rows' ends only."""
        own, starts = self.own, [len(self._text(row)) - 1 for row in self.slots]
        if own.length.is_measured(len(starts)):
            return
        self._let_student_listen()
        self.unusual = True

        def verify(tokens: int) -> float:
            ids = torch.zeros((len(starts), tokens), dtype=torch.long, device=self.states.device)
            begin = time.perf_counter()
            hidden = self.model(ids, starts, self.cache)
            scores = self.model.scores(hidden.flatten(0, 1))
            own.rules(scores, [[0]] * len(scores))
            self._best(scores)
            return time.perf_counter() - begin

        def draft(tokens: int) -> float:
            return own.student.seconds(tokens, starts, time.perf_counter)

        own.length.measure(len(starts), verify, draft)

    # Deciding

    def _best(self, scores: Tensor) -> tuple[list[list[int]], list[float], list[float]]:
        """The two best tokens of each place, the gap between them, and the best one's log
        probability."""
        values, tokens = scores.topk(2)
        log_probs = values[:, 0] - scores.logsumexp(-1)
        gaps = values[:, 0] - values[:, 1]
        return tokens.tolist(), gaps.tolist(), log_probs.tolist()

    def _say(self, scores: Tensor, drafts: list[list[int]]) -> None:
        """Take what the teacher says at each place, up to the first that was drafted otherwise.

        Args:
            scores: of all places, those of a row together: one more than it has drafts.
        """
        own, rows, at = self.own, self.rows, 0
        said = [rows.tokens[row] + draft[:n] for row, draft in zip(self.slots, drafts, strict=True)
                for n in range(len(draft) + 1)]
        own.rules(scores, said)
        if own.on_loop == "break":
            firsts = [sum(len(d) + 1 for d in drafts[:slot]) for slot in range(len(drafts))]
            for first, row in zip(firsts, self.slots, strict=True):
                rows.break_loop(row, scores[first])
        tokens, gaps, log_probs = self._best(scores)
        # a pass over several tokens rounds as such for all rows, also in what they read later
        self.has_drafted = self.has_drafted or any(drafts)
        for slot, (row, draft) in enumerate(zip(self.slots, drafts, strict=True)):
            accepted = tested = 0
            for place, wanted in enumerate([*draft, None], at):
                token = tokens[place][0]
                if gaps[place] < NEAR and self.has_drafted and not self.model.int8:
                    token = self._near_tie(slot, tokens[place], gaps[place])
                rows.add(row, token, log_probs[place], own.on_loop == "end")
                tested += wanted is not None
                accepted += token == wanted
                if rows.done[row] or token != wanted:
                    break
            at += len(draft) + 1
            own.report.tested += tested
            own.report.accepted += accepted
            if tested and self.texts is None:
                own.length.note(accepted, tested)

    def _near_tie(self, slot: int, tokens: list[int], gap: float) -> int:
        row = self.slots[slot]
        said = self.rows.tokens[row]
        chosen = self._step_by_step(slot) if self.own.exact else tokens[0]
        self.own.report.near_ties.append(
            NearTie(tuple(said), (tokens[0], tokens[1]), gap, chosen, self.own.exact))
        return chosen

    def _step_by_step(self, slot: int) -> int:
        """The next token as plain decoding of the row alone would have it."""
        row = self.slots[slot]
        prompt, said = self.prompts[row], self.rows.tokens[row]
        cache: Cache = self.cache.row(slot)
        hidden = self.model(self._tokens([prompt], len(prompt)), [0], cache)
        for place, token in enumerate(said, len(prompt)):
            hidden = self.model(self._tokens([[token]], 1), [place], cache)
        scores = self.own.rules(self.model.scores(hidden[:, -1]), [said])
        if self.own.on_loop == "break" and (size := loop_size(said)):
            scores[0, said[-size]] = -torch.inf
        return int(scores.argmax(-1))

    # Bookkeeping

    def _leave(self) -> None:
        """Rows that are done leave the batch; the last one takes their slot."""
        for slot in reversed(range(len(self.slots))):
            if self.rows.done[self.slots[slot]]:
                self.cache.remove(slot)
                if self.student_listens:
                    self.own.student.remove(slot)
                self.slots[slot] = self.slots[-1]
                self.slots.pop()

    def _text(self, row: int) -> list[int]:
        return self.prompts[row] + self.rows.tokens[row]

    def _last(self, row: int) -> list[int]:
        return self.rows.tokens[row][-1:]

    def _tokens(self, texts: list[list[int]], width: int) -> Tensor:
        """(rows, width) ids, padded on the right: what is there is never seen by what counts."""
        end = self.own.special.end
        return torch.tensor([text + [end] * (width - len(text)) for text in texts],
                            device=self.states.device)


def _check_pair(model, student) -> None:
    if student.config.vocab_size != model.config.vocab_size:
        raise ValueError(
            f"the student has {student.config.vocab_size} tokens, the teacher "
            f"{model.config.vocab_size}: drafts must be in the teacher's vocabulary")
    if not same_encoder(model, student):
        raise ValueError("the student's encoder is not the teacher's: it was trained or belongs to "
                         "another teacher, so one pass of it cannot serve both")
