"""Where a reader of prompts begins: with what the student's own decoder makes of encoder states.

Cross-attention that begins at random has to find out from a few hundred names which sounds a token
stands for and how to make a decoder say it. The decoder knows both. What its last layer's
cross-attention makes of a frame (values and output, W_o W_v) lies where its tokens' embeddings lie:
so that is what a frame asks for, and what answers is written in such a way that W_o W_v turns it
into the token again. A text model's states are brought there by least squares over some words.

The gate stays closed: nothing of this is heard before something has been learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from distill.data.audio import load_audio
from distill.whisper.encoder.audio import audio_features
from distill.whisper.encoder.lengths import margin_of
from distill.whisper.encoder.prompt_reader import entered_states
from distill.whisper.encoder.silence import VOICES
from distill.whisper.prompting.text_states import OwnEmbeddings

_RIDGE = 0.01  # of the largest singular value, squared: what the decoder hardly looks at stays out
_SHARPNESS = 1.5  # standard deviation of the logits of frames and tokens
_NOTHING = 5.0  # logit of no token
_LOUDNESS = 4.0  # of what is found, in norms of a frame, if the gate were open
_COMMON = 50.0  # ridge of the least squares, in words


@torch.no_grad()
def start_copying(model: Any, processor: Any, words: Sequence[str]) -> None:
    """Set the weights of a model's `prompt_reader`; the gates stay at 0.

    Args:
        words: by which a text model's states are compared with the model's own embeddings.
    """
    reader, encoder = model.prompt_reader, model.get_encoder()
    attention = model.model.decoder.layers[-1].encoder_attn
    spoken = (attention.out_proj.weight @ attention.v_proj.weight).float()
    norm = encoder.layer_norm.weight.float()
    own = OwnEmbeddings(model, lambda: processor.tokenizer)
    brought = _to_embeddings(reader.read, own, words).to(spoken)
    frames = torch.cat(_voices(model, processor)).float()
    normed = F.layer_norm(frames, norm.shape, norm)
    common = F.normalize(normed.mean(0), dim=0)  # of all frames: it says nothing of a word
    asked = spoken - torch.outer(spoken @ common, common)
    tokens = F.layer_norm(own.sample(256), norm.shape).to(spoken)
    sharp = _SHARPNESS * len(norm) ** 0.5 / (normed @ asked.T @ tokens.T).std()
    left, sizes, right = torch.linalg.svd(spoken * norm)
    inverse = right.T @ torch.diag(sizes / (sizes**2 + _RIDGE * sizes[0] ** 2)) @ left.T
    loud = _LOUDNESS * frames.norm(dim=-1).mean() / (tokens @ inverse.T).norm(dim=-1).mean()
    for layer in reader.layers:
        for weight, value in ((layer.norm, norm), (layer.q_proj, sharp * asked),
                              (layer.k_proj, brought), (layer.v_proj, brought),
                              (layer.out_proj, loud * inverse)):
            weight.weight.copy_(value)
        layer.nothing.fill_(_NOTHING)


def _voices(model: Any, processor: Any) -> list[Tensor]:
    """(frames, width) that enter the reader, of some words in five languages."""
    audios = [load_audio(path) for path in sorted(VOICES.glob("*.ogg"))]
    features = audio_features(processor, audios, margin_of(model))
    entered = entered_states(model.get_encoder(), features, model.prompt_reader)
    return [states[: len(audio) // 320] for states, audio in zip(entered, audios, strict=True)]


def _to_embeddings(read: Any, own: OwnEmbeddings, words: Sequence[str]) -> Tensor:
    """(width, text width): brings a text model's states to the model's own embeddings of the same
    letters; the identity where these are read."""
    if isinstance(read, OwnEmbeddings):
        return torch.eye(own.width)
    pairs = [pair for word in words for pair in _same_letters(read, own, word)]
    if not pairs:
        return torch.eye(own.width, read.width)
    given, wanted = (torch.stack(each) for each in zip(*pairs, strict=True))
    ridge = _COMMON * torch.eye(read.width)
    return torch.linalg.solve(given.T @ given + ridge, given.T @ wanted).T


def _same_letters(read: Any, own: OwnEmbeddings, word: str) -> list[tuple[Tensor, Tensor]]:
    """(state, mean of the own embeddings) of each token of a word, over the letters it stands
    for."""
    states, wanted = read([word]), own([word])
    if states is None or wanted is None:
        return []
    found, ends = [], own.ends(word)
    for state, begin, end in zip(states, [0, *read.ends(word)], read.ends(word), strict=False):
        shared = [at for at, (first, last) in enumerate(zip([0, *ends], ends, strict=False))
                  if first < end and last > begin]
        if shared:
            found.append((state, wanted[shared].mean(0)))
    return found
