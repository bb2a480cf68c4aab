"""A random causal language model with a byte-level tokenizer that knows both papers' signs."""

import json
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

SPECIAL = ("<|im_start|>", "<|im_end|>", "<s>", "</s>")


def write_tiny_llm(folder: Path, seed: int = 0) -> Path:
    """Llama of width 32, two layers, in transformers format."""
    folder.mkdir(parents=True, exist_ok=True)
    base = list(bytes_to_unicode().values())
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                  "use_regex": False}
    (folder / "raw.json").write_text(json.dumps({
        "version": "1.0",
        "added_tokens": [
            {"id": len(base) + n, "content": content, "special": True, "single_word": False,
             "lstrip": False, "rstrip": False, "normalized": False}
            for n, content in enumerate(SPECIAL)],
        "pre_tokenizer": byte_level, "decoder": byte_level,
        "model": {"type": "BPE", "vocab": {token: n for n, token in enumerate(base)},
                  "merges": []},
    }), encoding="utf-8")
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "raw.json"),
                                        eos_token="<|im_end|>", pad_token="<|im_end|>")
    (folder / "raw.json").unlink()
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    end = tokenizer.eos_token_id
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=len(base) + len(SPECIAL), hidden_size=32, intermediate_size=64,
        num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        max_position_embeddings=512, tie_word_embeddings=True, bos_token_id=end,
        eos_token_id=end, pad_token_id=end, initializer_range=0.2))
    model.save_pretrained(folder)
    return folder
