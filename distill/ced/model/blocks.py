"""Layers of the tagger: a plain pre-norm ViT (arXiv:2010.11929), named as CED's weights are."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from distill.ced.model.configuration import CedConfig
from distill.ced.model.frontend import PATCH


class Attention(nn.Module):
    def __init__(self, config: CedConfig):
        super().__init__()
        width = config.hidden_size
        self.heads, self.dropout = config.num_attention_heads, config.attention_probs_dropout_prob
        self.qkv = nn.Linear(width, 3 * width, bias=config.qkv_bias)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x (pieces, tokens, width); mask (pieces, 1, 1, tokens) bool, False: not to be seen."""
        batch, tokens, width = x.shape
        qkv = self.qkv(x).view(batch, tokens, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        x = F.scaled_dot_product_attention(query, key, value, mask, dropout)
        return self.proj(x.transpose(1, 2).reshape(batch, tokens, width))


class MLP(nn.Module):
    def __init__(self, config: CedConfig):
        super().__init__()
        inner = int(config.hidden_size * config.mlp_ratio)
        self.fc1 = nn.Linear(config.hidden_size, inner)
        self.fc2 = nn.Linear(inner, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(GradientCheckpointingLayer):
    def __init__(self, config: CedConfig, drop_path: float):
        super().__init__()
        self.dropout, self.drop_path = config.hidden_dropout_prob, drop_path
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=1e-6)
        self.attn = Attention(config)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=1e-6)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = x + self._dropped(self.attn(self.norm1(x), mask))
        return x + self._dropped(self.mlp(self.norm2(x)))

    def _dropped(self, x: Tensor) -> Tensor:
        """Dropout, and whole branches of some clips (arXiv:1603.09382)."""
        x = F.dropout(x, self.dropout, self.training)
        if not self.training or self.drop_path == 0:
            return x
        keep = 1 - self.drop_path
        return x * x.new_empty(len(x), 1, 1).bernoulli_(keep) / keep


class PatchEmbedding(nn.Module):
    def __init__(self, config: CedConfig):
        super().__init__()
        self.proj = nn.Conv2d(1, config.hidden_size, PATCH, PATCH)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)
