"""Rounds of draft, verify and accept over the rows of a batch (`whisper_decoder`)."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from distill.whisper.decoding.decoder import Cache
from distill.whisper.decoding.draft_length import TEXT_LONGEST
from distill.whisper.decoding.drafts import TextDraft
from distill.whisper.decoding.report import NearTie
from distill.whisper.decoding.sampling import Sampling
from distill.whisper.decoding.sequences import Rows, loop_size

NEAR = 2e-3  # logits; passes of one and of several tokens differ by up to 2e-4 (whisper-base)
# Half types: rounded scores lie further apart than that (float16: 0.03 from 32 on), and the gap of
# the two best moved by up to two steps, eps times their size, in whisper-base.
NEAR_STEPS = 4


class Batch:
    """The rows of one call; `slots` are those begun and not done, by their place in the caches.

    Args:
        decoder: `WhisperDecoder`.
        states: (rows, frames, width) encoder states.
        max_new_tokens: limit for each row, besides the context.
        prompt_of: `prompt_of(rows, cache)`: the prompts of some rows, whose audio is in this cache.
        drafts: an older transcript of each row.
        sampling: None takes the likeliest tokens.
        at_once: most rows in the caches; others begin where these end.
    """

    def __init__(self, decoder, states: Tensor, max_new_tokens: Sequence[int],
                 prompt_of: Callable[[Sequence[int], Cache], list[list[int]]],
                 drafts: Sequence[Sequence[int]] | None, sampling: Sampling | None, at_once: int):
        self.own, self.model = decoder, decoder.decoder
        self.states, self.prompt_of = states, prompt_of
        self.prompts: list[list[int]] = [[] for _ in states]
        self.rows = Rows(list(max_new_tokens), decoder.special.end)
        self.slots: list[int] = []
        self.waiting = deque(range(len(states)))
        self.at_once = min(at_once, len(states))
        self.cache, self.sampling = self.model.room(states, self.at_once), sampling
        self.texts = None if drafts is None else TextDraft(drafts, decoder.special.end)
        self.from_student: set[int] = set()  # slots whose drafts are the student's
        self.student_listens = False  # it has heard the audio of this batch
        self.has_drafted = False  # some pass was over several tokens
        self.is_paced = False  # the length of this round's drafts was chosen by their costs
        self.is_fresh = True  # nothing was said but the first tokens
        self.unusual = False  # this round: times were measured, or the student began to listen
        self.no_speech = [0.0] * len(states)

    def run(self) -> None:
        """Until all rows are done."""
        while self.slots or self.waiting:
            free = self.at_once - len(self.slots)
            # several at a time: reading prompts is a pass of its own, which all others wait for
            if self.waiting and (not self.slots or free >= min(self._few, len(self.waiting))):
                self._begin([self.waiting.popleft() for _ in range(min(free, len(self.waiting)))])
            else:
                self.round()

    @property
    def _few(self) -> int:
        return max(self.at_once // 4, 1)

    def _begin(self, new: list[int]) -> None:
        """Rows take free slots: their audio, their prompts, the first token of each."""
        first, states = len(self.slots), self.states[new[0] : new[-1] + 1]  # they are in order
        self.model.listen(self.cache, states)
        if self.student_listens:
            self.own.student.join(states)
        self.slots += new
        cache = self.cache.slots(first, len(new))
        prompts = self.prompt_of(new, cache)
        for row, prompt in zip(new, prompts, strict=True):
            self.prompts[row] = prompt
            self.rows.limits[row] = min(self.rows.limits[row], self.model.context - len(prompt))
        scores = self._read_prompts(new, prompts, cache)
        self._say(scores, [[] for _ in new], range(first, len(self.slots)))
        self._leave()

    def _read_prompts(self, new: list[int], prompts: list[list[int]], cache: Cache) -> Tensor:
        """Scores (rows, vocabulary) of the first tokens."""
        width = max(map(len, prompts))
        hidden = self.model(self._tokens(prompts, width), [0] * len(new), cache)
        at = torch.arange(len(new), device=hidden.device)
        special, places = self.own.special, [len(prompt) - 1 for prompt in prompts]
        starts = [prompt.index(special.start) for prompt in prompts]
        scores = self.model.scores(hidden[at, torch.tensor(starts, device=hidden.device)])
        silent = (scores[:, special.no_speech] - scores.logsumexp(-1)).exp().tolist()
        for row, probability in zip(new, silent, strict=True):
            self.no_speech[row] = probability
        if starts != places:
            scores = self.model.scores(hidden[at, torch.tensor(places, device=hidden.device)])
        return scores

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
        self._wait()
        read = time.perf_counter() - begin
        self._say(scores, drafts, range(len(self.slots)))
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

    def _wait(self) -> None:
        """A GPU's pass has only been ordered when the call returns."""
        if self.states.device.type == "cuda":
            torch.cuda.synchronize(self.states.device)

    # Drafting

    def _drafts(self) -> list[list[int]]:
        drafts, self.from_student = self._from_texts(), set()
        lacking = [slot for slot, draft in enumerate(drafts) if not draft]
        if self.own.student is not None and lacking:
            found = self._from_student()
            self.from_student = set(lacking)
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
        return own.student(texts, [len(self.prompts[row]) for row in self.slots], count, own.rules,
                           self.sampling, self.slots)

    def _let_student_listen(self) -> None:
        """Only now: where drafts do not pay, this would."""
        if not self.student_listens:
            self.own.student.begin(self.states[self.slots], self.at_once)
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

    def _best(
        self, scores: Tensor, places: Sequence[tuple[int, int]] = ()
    ) -> tuple[list[list[int]], list[float], list[list[float]]]:
        """The two best tokens of each place, the gap between them, and their log probabilities.

        Args:
            places: (row, tokens said before) of each, where sampling is coupled.
        """
        chosen = scores + self.sampling.noise(places, scores) if places else scores
        values, tokens = chosen.topk(2)
        gaps = values[:, 0] - values[:, 1]
        log_probs = scores.gather(1, tokens) - scores.logsumexp(-1, keepdim=True)
        return tokens.tolist(), gaps.tolist(), log_probs.tolist()

    def _say(self, scores: Tensor, drafts: list[list[int]], slots: range) -> None:
        """Take what the teacher says at each place, up to the first that was drafted otherwise.

        Args:
            scores: of all places, those of a row together: one more than it has drafts.
            drafts: of each of the slots.
        """
        own, rows, at = self.own, self.rows, 0
        numbers = [self.slots[slot] for slot in slots]
        said = [rows.tokens[row] + draft[:n] for row, draft in zip(numbers, drafts, strict=True)
                for n in range(len(draft) + 1)]
        own.rules(scores, said)
        if own.on_loop == "break":
            firsts = [sum(len(d) + 1 for d in drafts[:number]) for number in range(len(drafts))]
            for first, row in zip(firsts, numbers, strict=True):
                rows.break_loop(row, scores[first])
        # a pass over several tokens rounds as such for all rows, also in what they read later
        self.has_drafted = self.has_drafted or any(drafts)
        choose = self._chooser(scores, [(row, len(text)) for row, text in
                                        zip(_repeated(numbers, drafts), said, strict=True)])
        for slot, row, draft in zip(slots, numbers, drafts, strict=True):
            accepted = tested = 0
            for step, wanted in enumerate([*draft, None]):
                token, log_prob = choose(slot, at + step, step, wanted)
                rows.add(row, token, log_prob, own.on_loop == "end")
                tested += wanted is not None
                accepted += token == wanted
                if rows.done[row] or token != wanted:
                    break
            at += len(draft) + 1
            own.report.tested += tested
            own.report.accepted += accepted
            if tested and self.texts is None:
                own.length.note(accepted, tested)

    def _chooser(self, scores: Tensor, places: list[tuple[int, int]]) -> Callable:
        """`choose(slot, place, step, wanted) -> (token, log probability)`.

        Args:
            places: (row, tokens said before) of each place.
        """
        if self.sampling is not None and not self.sampling.is_coupled:
            return self._by_rejection(scores)
        tokens, gaps, log_probs = self._best(scores, places if self.sampling else ())
        near = self._near(scores, tokens)

        def choose(slot: int, place: int, step: int, wanted: int | None) -> tuple[int, float]:
            token = tokens[place][0]
            if gaps[place] < near[place] and self.has_drafted and not self.model.int8:
                token = self._near_tie(slot, tokens[place], gaps[place])
            second = token == tokens[place][1]
            return token, log_probs[place][second]

        return choose

    def _near(self, scores: Tensor, tokens: list[list[int]]) -> list[float]:
        """Of each place, the gap below which rounding could have decided."""
        step = torch.finfo(self.model.embeddings.dtype).eps
        if self.model.int8 or step <= torch.finfo(torch.float32).eps:
            return [NEAR] * len(tokens)
        best = scores.gather(1, torch.tensor(tokens, device=scores.device)[:, :1])[:, 0]
        return (NEAR_STEPS * step * best.abs()).clamp(min=NEAR).tolist()

    def _by_rejection(self, scores: Tensor) -> Callable:
        chances, log_probs = self.sampling.chances(scores), scores.log_softmax(-1)

        def choose(slot: int, place: int, step: int, wanted: int | None) -> tuple[int, float]:
            row = self.slots[slot]
            theirs = None
            if slot in self.from_student and wanted is not None:
                theirs = self.own.student.chances[step][slot]
            at = len(self.rows.tokens[row])
            token = self.sampling.decide(chances[place], theirs, wanted, row, at)
            return token, float(log_probs[place, token])

        return choose

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
        # not argmax, which may take the other one of two that are equal, as half types have them
        return self._best(scores, [(row, len(said))] if self.sampling is not None else ())[0][0][0]

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


def _repeated(rows: Sequence[int], drafts: list[list[int]]) -> list[int]:
    """Each row once for every place it has."""
    return [row for row, draft in zip(rows, drafts, strict=True) for _ in range(len(draft) + 1)]
