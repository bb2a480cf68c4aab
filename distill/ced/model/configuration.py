"""Configuration of audio taggers, as transformers wants it; `modeling` registers it."""

from __future__ import annotations

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

SIZES = {  # published: width, heads; 12 layers each
    "tiny": (192, 3), "mini": (256, 4), "small": (384, 6), "base": (768, 12),
}
_PORT_ONLY = ("pooling", "eval_avg", "pad_last", "patch_size", "patch_stride", "center", "n_mels",
              "n_fft", "win_size", "hop_size", "f_min", "f_max")  # the same for all of its models


@strict
class CedConfig(PreTrainedConfig):
    """Shape of a CED model (arXiv:2308.11957); the default is CED-tiny.

    Attributes:
        hidden_size, num_hidden_layers, num_attention_heads, mlp_ratio, qkv_bias: of the ViT.
        target_length: frames of 10 ms that it has time positions for; longer clips go in pieces.
        hidden_dropout_prob, attention_probs_dropout_prob, drop_path_rate: 0 as published.
        patch_drop_rate: share of patches that are left out at random in training (Patchout,
            arXiv:2110.05069): half of them cost half of the time.
    """

    model_type = "ced"
    attribute_map = {  # names of the port on the Hub
        "embed_dim": "hidden_size", "depth": "num_hidden_layers",
        "num_heads": "num_attention_heads", "drop_rate": "hidden_dropout_prob",
        "attn_drop_rate": "attention_probs_dropout_prob",
    }

    hidden_size: int = 192
    num_hidden_layers: int = 12
    num_attention_heads: int = 3
    mlp_ratio: float | int = 4.0
    qkv_bias: bool = True
    target_length: int = 1012
    hidden_dropout_prob: float | int = 0.0
    attention_probs_dropout_prob: float | int = 0.0
    drop_path_rate: float | int = 0.0
    patch_drop_rate: float | int = 0.0
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        pooling = kwargs.get("pooling", "mean")
        if pooling not in ("mean", "logit"):  # the same but for the sigmoid, which users apply
            raise ValueError(f"config.json: pooling must be mean or logit, got {pooling!r}: the "
                             "outputs would not be what its weights were trained for")
        outputs, name = kwargs.pop("outputdim", None), str(kwargs.pop("name", None))
        kwargs = {key: value for key, value in kwargs.items() if key not in _PORT_ONLY}
        if outputs is not None and self.id2label is None:
            kwargs.setdefault("num_labels", outputs)
        if self.problem_type is None:
            self.problem_type = "multi_label_classification"
        super().__post_init__(**kwargs)
        if name.removeprefix("ced-") in SIZES:  # the port's: other dimensions do not count then
            self.hidden_size, self.num_attention_heads = SIZES[name.removeprefix("ced-")]
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"hidden_size {self.hidden_size} must be a multiple of "
                             f"num_attention_heads {self.num_attention_heads}")
        if self.target_length < 16:
            raise ValueError(f"target_length must be at least 16 frames, got {self.target_length}")
