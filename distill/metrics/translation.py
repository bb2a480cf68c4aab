"""How good translations are: BLEU and chrF by sacrebleu, with the signatures that say how."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# sacrebleu's tokenisers where words are not spaced; `char` for those it has none for
_TOKENIZERS = {"zh": "zh", "yue": "zh", "ja": "char", "th": "char", "lo": "char", "my": "char",
               "km": "char", "bo": "char"}


def translation_scores(
    utterances: Sequence[Any], texts: Sequence[str], language: str
) -> dict[str, Any]:
    """`bleu` and `chrf` (0 to 100) of a corpus, each with its signature; texts as they come, with
    case and punctuation.

    Args:
        utterances: with a `reference` each.

    Raises:
        ValueError: sacrebleu is not installed.
    """
    try:
        from sacrebleu.metrics.bleu import BLEU
        from sacrebleu.metrics.chrf import CHRF
    except ImportError:
        raise ValueError("task: translate is measured by sacrebleu: "
                         "pip install 'audio-distill[translate]'") from None
    references = [[utterance.reference for utterance in utterances]]
    result: dict[str, Any] = {}
    for name, metric in (("bleu", BLEU(tokenize=_TOKENIZERS.get(language, "13a"))),
                         ("chrf", CHRF())):
        score = metric.corpus_score(list(texts), references)
        result |= {name: score.score, f"{name}_signature": str(metric.get_signature())}
    return result
