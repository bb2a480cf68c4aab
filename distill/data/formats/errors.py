"""What may be wrong with audio, by the few reasons that stages count."""

from __future__ import annotations

# Faults of the moment, not of the file: a disk that is not mounted, a share that hangs, a package
# that is not installed. Nothing may be settled on them: the next run tries again what met one.
TRANSIENT = frozenset({"missing_file", "cannot_open", "needs_ffmpeg"})


_POINTERS = {b"version https://git-lfs.github.com/spec/": "Git LFS: `git lfs pull` brings the file",
             b"/annex/objects/": "git-annex: `git annex get` brings the file"}


def pointer(head: bytes) -> str | None:
    """What stands in the place of a file that was not fetched, by its first bytes: a sentence."""
    found = [told for begin, told in _POINTERS.items() if head.startswith(begin)]
    return f"only a pointer of {found[0]}" if found else None


class AudioError(ValueError):
    """Audio that cannot be used. `reason` is one of a few fixed words, for counting."""

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    @property
    def is_transient(self) -> bool:
        """Whether another run may well be able to read it."""
        return self.reason in TRANSIENT

    def __reduce__(self) -> tuple[type[AudioError], tuple[str, str]]:
        # the default would call AudioError(message) in a worker's parent
        return AudioError, (self.reason, self.detail)
