"""CIDEr-D of captions (Vedantam et al., CVPR 2015, arXiv:1411.5726 sec. 4 and 6).

    score, each = cider_d(["a dog barks"], [["a dog is barking", "dog barks"]])

Words in lower case; weights of n-grams are from the references of all clips. LTU-AS's other metric,
SPICE, needs a parser of scene graphs and is not measured here.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

_ORDERS = (1, 2, 3, 4)
_SIGMA = 6.0  # words by which lengths may differ


def cider_d(
    texts: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[float, list[float]]:
    """(mean over clips, of each clip), 0 to 10."""
    counted = [[_grams(each) for each in of_clip] for of_clip in references]
    seen = Counter(gram for of_clip in counted for gram in set().union(*of_clip))
    log_clips = math.log(max(len(references), 1))
    scores = []
    for text, of_clip in zip(texts, counted, strict=True):
        mine = _grams(text)
        found = [_similarity(mine, each, seen, log_clips) for each in of_clip]
        scores.append(10 * sum(found) / max(len(found), 1))
    return sum(scores) / max(len(scores), 1), scores


def _grams(text: str) -> Counter:
    words = re.findall(r"[\w']+", text.lower())
    return Counter(tuple(words[at : at + order]) for order in _ORDERS
                   for at in range(len(words) - order + 1))


def _similarity(mine: Counter, other: Counter, seen: Counter, log_clips: float) -> float:
    """Clipped cosine of TF-IDF vectors, averaged over orders, with a penalty for the length."""
    lengths = [sum(count for gram, count in each.items() if len(gram) == 1)
               for each in (mine, other)]
    penalty = math.exp(-((lengths[0] - lengths[1]) ** 2) / (2 * _SIGMA**2))
    total = 0.0
    for order in _ORDERS:
        a, b = ({gram: count * (log_clips - math.log(max(1, seen[gram])))
                 for gram, count in each.items() if len(gram) == order} for each in (mine, other))
        norm = math.sqrt(sum(v * v for v in a.values()) * sum(v * v for v in b.values()))
        if norm:
            total += sum(min(a[gram], b[gram]) * b[gram] for gram in a.keys() & b) / norm
    return penalty * total / len(_ORDERS)
