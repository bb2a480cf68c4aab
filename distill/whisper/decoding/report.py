"""What decoding with drafts cost, and where rounding could have decided."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class NearTie:
    """A place where rounding could have decided.

    Attributes:
        said: the tokens before it, prompt left out.
        tokens: the two likeliest.
        gap: between their logits.
        chosen: the token taken; by the plain computation if `resolved`.
    """

    said: tuple[int, ...]
    tokens: tuple[int, int]
    gap: float
    chosen: int
    resolved: bool


@dataclass
class Report:
    """What decoding cost and how drafts fared, over all batches so far.

    Attributes:
        rows, tokens: windows, and tokens said (ends of text included).
        passes: of the teacher after the prompt, of them `plain` without any draft.
        tested, accepted: drafted tokens that the teacher looked at, and those it agreed with.
        row_passes: passes counted once for each row in them.
    """

    rows: int = 0
    tokens: int = 0
    passes: int = 0
    plain: int = 0
    tested: int = 0
    accepted: int = 0
    row_passes: int = 0
    near_ties: list[NearTie] = field(default_factory=list)

    @property
    def acceptance(self) -> float | None:
        return self.accepted / self.tested if self.tested else None

    @property
    def tokens_per_pass(self) -> float | None:
        """Of a row, after the first token."""
        return (self.tokens - self.rows) / self.row_passes if self.row_passes else None

    def __str__(self) -> str:
        if not self.tested:
            return f"{self.tokens} tokens, one by one, none drafted"
        near = sum(not tie.resolved for tie in self.near_ties)
        return (f"{self.tokens} tokens, {100 * self.acceptance:.1f} % of {self.tested} drafted "
                f"tokens accepted, {self.tokens_per_pass:.2f} tokens a pass, "
                f"{self.plain} of {self.passes} passes without drafts, {near} near ties unresolved")
