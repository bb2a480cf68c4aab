"""What has to be so where parts of the loss are weighted or cut apart; no torch."""

from __future__ import annotations

from typing import Any

from distill.config import check


def check_parts(loss: Any, knows_all: bool) -> None:
    """
    Args:
        loss: LossConfig.
        knows_all: whether all of the teacher's scores are known.

    Raises:
        ConfigError: a weight of nothing, or tokens whose scores are not known.
    """
    weight, count = loss.inner_weight, loss.common_tokens
    ok = weight is None or (weight >= 0 and loss.hidden_weight > 0)
    check(ok, "loss.inner_weight", ">= 0, with loss.hidden_weight > 0 only, or null", weight)
    ok = count is None or (count > 0 and (knows_all or not loss.kl_weight))
    what = "> 0 (with loss.kl_weight: teacher.mode=live or scores.method=decoder_state), or null"
    check(ok, "loss.common_tokens", what, count)
