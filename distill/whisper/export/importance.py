"""How large the inputs of each linear layer are, so that few bits go where they matter.

A weight that is rounded changes the output by its error times its input. Where inputs are large,
rounding has to be exact; llama.cpp calls such weights of errors an importance matrix.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from distill.data.manifest import Row
from distill.whisper.encoder.padded import log_mel
from distill.whisper.export.heads import readable_windows, window_tokens

_OUTPUT, _EMBEDDINGS = "proj_out", "model.decoder.embed_tokens"  # one matrix


@torch.no_grad()
def mean_squares(model, processor, rows: Sequence[Row], language: str | None, task: str
                 ) -> dict[str, np.ndarray]:
    """{name of a weight: float32 (in_features,) mean square of each input}, over the windows of
    training clips that `heads` looks at; empty where no clip has a transcript.

    Args:
        model: WhisperForConditionalGeneration; windows are padded, as runtimes do it.
    """
    totals: dict[str, torch.Tensor] = {}
    counts: dict[str, int] = {}

    def look(name: str):
        def hook(_, inputs):
            squares = inputs[0].reshape(-1, inputs[0].shape[-1]).double().square()
            totals[name] = totals.get(name, 0) + squares.sum(0)
            counts[name] = counts.get(name, 0) + len(squares)
        return hook

    hooks = [module.register_forward_pre_hook(look(name)) for name, module in model.named_modules()
             if isinstance(module, torch.nn.Linear)]
    try:
        for window, audio in readable_windows(rows):
            _, tokens, _ = window_tokens(model, processor, window, language, task)
            model(log_mel(processor, [audio]), decoder_input_ids=torch.tensor([tokens]))
    finally:
        for each in hooks:
            each.remove()
    found = {name: (totals[name] / counts[name]).float().numpy() for name in totals}
    if _OUTPUT in found:
        found[_EMBEDDINGS] = found[_OUTPUT]
    return {f"{name}.weight": squares for name, squares in found.items()}
