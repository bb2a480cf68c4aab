"""Counts of decoding with drafts, and near ties."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class NearTie:
    """A position where rounding could decide between the two best tokens.

    Attributes:
        generated: the tokens before it, without the prompt.
        tokens: the two likeliest.
        gap: between their logits.
        chosen: the token taken; by plain decoding if `resolved`.
    """

    generated: tuple[int, ...]
    tokens: tuple[int, int]
    gap: float
    chosen: int
    resolved: bool


@dataclass
class Report:
    """Counts of all calls so far.

    Attributes:
        sequences, tokens: windows, and generated tokens (ends of text included).
        passes: of the target model after the prompts.
        plain: those of the passes that had no drafts.
        tested: drafted tokens that were verified: the accepted ones and the first one of each
            draft that was not.
        accepted: drafted tokens that the target model would have generated itself.
        sequence_passes: passes, each counted once for every sequence in it.
        near_ties: see `NearTie`.
        taken_back: beginnings of phrases that did not come, and were undone.
        beside: times that a text without the phrase it had begun was read in the same pass.
        padded: short clips that went wrong and were decoded again, padded to 30 s.
    """

    sequences: int = 0
    tokens: int = 0
    passes: int = 0
    plain: int = 0
    tested: int = 0
    accepted: int = 0
    sequence_passes: int = 0
    near_ties: list[NearTie] = field(default_factory=list)
    taken_back: int = 0
    beside: int = 0
    padded: int = 0

    @property
    def acceptance(self) -> float | None:
        return self.accepted / self.tested if self.tested else None

    @property
    def tokens_per_pass(self) -> float | None:
        """Of a sequence, after the first token."""
        if not self.sequence_passes:
            return None
        return (self.tokens - self.sequences) / self.sequence_passes

    def __str__(self) -> str:
        again = f", {self.padded} short clips decoded again with padding" if self.padded else ""
        if not self.tested:
            return f"{self.tokens} tokens, one by one, none drafted{again}"
        near = sum(not tie.resolved for tie in self.near_ties)
        return (f"{self.tokens} tokens, {100 * self.acceptance:.1f} % of {self.tested} drafted "
                f"tokens accepted, {self.tokens_per_pass:.2f} tokens a pass, "
                f"{self.plain} of {self.passes} passes without drafts, {near} near ties unresolved"
                f"{again}")
