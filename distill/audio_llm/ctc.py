"""CTC onto the language model's own token embeddings: what makes an adapter readable.

An adapter that begins at random is ignored by a language model for its first thousand steps. Here
it first learns, alone, to put out the embeddings of what is said: CTC (Graves et al., ICML 2006)
over cosines with the embedding matrix, restricted to tokens of the training texts, and a blank that
begins as the embedding of a space. No language model runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SHARPNESS = 30.0  # a cosine of 1 is a logit of so much


class TokenCtc(nn.Module):
    """Scores of tokens from an adapter's output.

    Args:
        adapter: AudioAdapter; its blank and its scale are used.
        embeddings: (vocab, llm_width) of the language model.
        tokens: ids that may be said.
    """

    def __init__(self, adapter: Any, embeddings: Tensor, tokens: Sequence[int]):
        super().__init__()
        self._adapter = (adapter,)  # not a part of this module
        self.tokens = torch.tensor(sorted(set(tokens)), dtype=torch.int64)
        self.class_of = {int(token): n for n, token in enumerate(self.tokens, 1)}  # 0: blank
        self.register_buffer("matrix", embeddings.detach()[self.tokens], persistent=False)

    def log_probabilities(self, vectors: Tensor) -> Tensor:
        """(clips, n, llm_width) of the adapter -> (clips, n, 1 + tokens); blank first."""
        adapter = self._adapter[0]
        rows = torch.cat([adapter.blank[None], self.matrix])
        wanted = F.normalize(rows - adapter.scale.mean, dim=-1)
        heard = F.normalize(vectors - adapter.scale.mean, dim=-1)
        return (SHARPNESS * heard @ wanted.T).log_softmax(-1)

    def targets(self, ids: Sequence[int]) -> list[int]:
        """Classes of token ids; ids that are not known are left out."""
        return [self.class_of[each] for each in ids if each in self.class_of]

    def loss(self, vectors: Tensor, lengths: Tensor, targets: Tensor, sizes: Tensor) -> Tensor:
        """Summed over clips.

        Args:
            vectors: (clips, n, llm_width); lengths: (clips,) of each.
            targets: (all targets in order,) classes; sizes: (clips,) of each; 0: nothing is said,
                -1: no loss.
        """
        scores = self.log_probabilities(vectors).transpose(0, 1)
        found = F.ctc_loss(scores, targets, lengths, sizes.clamp(min=0), reduction="none",
                           zero_infinity=True)
        return found[sizes >= 0].sum()

    @torch.no_grad()
    def read(self, vectors: Tensor) -> list[int]:
        """Token ids of the best path through one clip's (n, llm_width)."""
        best = self.log_probabilities(vectors[None])[0].argmax(-1).unique_consecutive()
        return [int(self.tokens[each - 1]) for each in best.tolist() if each]


def needed_frames(targets: Sequence[int]) -> int:
    """The fewest embeddings that can say these: a blank stands between two that are alike."""
    return len(targets) + sum(a == b for a, b in zip(targets, targets[1:], strict=False))
