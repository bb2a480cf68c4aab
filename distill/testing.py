"""Small things for tests: a random tiny Whisper with a byte-level tokenizer, and a corpus of tones.

Random models show that code is right, never that a recipe is good.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from distill.data.audio import SAMPLE_RATE
from distill.data.manifest import Row, write_manifest

LANGUAGES = ("en", "de", "zh")
AUDIO_SCALE, POSITION_SCALE, LAST_POSITION = 6.0, 20.0, 16
WORDS = ["one", "two", "tree", "four", "five", "sea", "hill", "green", "walk", "light"]
END_BIAS = 2.0


def write_tiny_teacher(
    folder: Path, decoder_layers: int = 4, encoder_layers: int = 2, seed: int = 0,
    **shape: int | float,
) -> Path:
    """A random Whisper (width 32) in transformers format, with a tokenizer and mel features.

    Args:
        shape: of one that is not tiny: keys of WhisperConfig.
    """
    import torch
    from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = _write_processor(folder, int(shape.get("num_mel_bins", 80)))
    end, start = vocabulary["<|endoftext|>"], vocabulary["<|startoftranscript|>"]
    tiny = {"vocab_size": len(vocabulary), "num_mel_bins": 80, "d_model": 32,
            "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 64,
            "decoder_ffn_dim": 64}
    config = WhisperConfig(
        **(tiny | shape),
        encoder_layers=encoder_layers,
        decoder_layers=decoder_layers,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        decoder_start_token_id=start,
    )
    torch.manual_seed(seed)
    model = WhisperForConditionalGeneration(config)
    _teach_to_end(model, end)
    model.generation_config = GenerationConfig(
        is_multilingual=True,
        lang_to_id={f"<|{code}|>": vocabulary[f"<|{code}|>"] for code in LANGUAGES},
        task_to_id={name: vocabulary[f"<|{name}|>"] for name in ("transcribe", "translate")},
        no_timestamps_token_id=vocabulary["<|notimestamps|>"],
        prev_sot_token_id=vocabulary["<|startofprev|>"],
        max_initial_timestamp_index=50,
        suppress_tokens=[vocabulary["<|startoftranscript|>"], vocabulary["<|startofprev|>"]],
        begin_suppress_tokens=[end],
        alignment_heads=[[1, 0], [decoder_layers - 1, 1]],
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        decoder_start_token_id=start,
    )
    model.save_pretrained(folder)
    return folder


def _teach_to_end(model, end: int) -> None:
    """Make a random model say different things and stop.

    As initialised, tied embeddings make a decoder repeat what it reads for ever. Here each position
    suggests a text token of its own, the later ones the end, and the audio can change its mind.
    """
    import torch

    decoder = model.model.decoder
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ("encoder_attn" in name or "encoder." in name) and parameter.ndim > 1:
                parameter.mul_(AUDIO_SCALE)
        tokens = decoder.embed_tokens.weight
        tokens[end].normal_(std=0.02)  # it is also the padding token, which starts as zeros
        suggested = torch.randint(0, 256, (len(decoder.embed_positions.weight),))
        suggested[LAST_POSITION:] = end
        decoder.embed_positions.weight.copy_(POSITION_SCALE * tokens[suggested])


def _write_processor(folder: Path, mel_bins: int = 80) -> dict[str, int]:
    from transformers import WhisperFeatureExtractor, WhisperProcessor, WhisperTokenizerFast
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    special = ["<|endoftext|>", "<|startoftranscript|>", *(f"<|{code}|>" for code in LANGUAGES)]
    special += ["<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>"]
    special += ["<|nospeech|>", "<|notimestamps|>"]
    timestamps = [f"<|{index * 0.02:.2f}|>" for index in range(1501)]
    base = list(bytes_to_unicode().values())
    ids = {token: index for index, token in enumerate(base)}
    tokenizer_json = {
        "version": "1.0",
        "added_tokens": [
            {"id": len(base) + index, "content": content, "special": index < len(special),
             "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
            for index, content in enumerate([*special, *timestamps])
        ],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                          "use_regex": True},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True,
                    "use_regex": True},
        "model": {"type": "BPE", "vocab": ids, "merges": []},
    }
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(tokenizer_json), encoding="utf-8")
    tokenizer = WhisperTokenizerFast(
        tokenizer_file=str(path),
        **dict.fromkeys(("unk_token", "bos_token", "eos_token", "pad_token"), "<|endoftext|>"),
        additional_special_tokens=special,
    )
    extractor = WhisperFeatureExtractor(feature_size=mel_bins)
    WhisperProcessor(extractor, tokenizer).save_pretrained(folder)
    return tokenizer.get_vocab()


def write_tiny_corpus(
    folder: Path, counts: dict[str, int] | None = None, seed: int = 0
) -> dict[str, Path]:
    """Manifests of short wav files of tones with made-up words; {split: manifest}."""
    import soundfile

    generator = np.random.default_rng(seed)
    manifests = {}
    for split, count in ({"train": 12, "validation": 3, "test": 4} | (counts or {})).items():
        rows = []
        (folder / split).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            seconds = float(generator.uniform(2.0, 9.0))
            time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
            tone = 0.3 * np.sin(2 * np.pi * generator.uniform(100, 900) * time)
            noise = 0.02 * generator.standard_normal(len(time))
            path = folder / split / f"{index}.wav"
            soundfile.write(path, (tone + noise).astype(np.float32), SAMPLE_RATE)
            rows.append(
                Row(
                    id=f"{split}-{index}",
                    audio_filepath=f"{split}/{index}.wav",
                    duration=len(time) / SAMPLE_RATE,
                    text=" ".join(generator.choice(WORDS, size=4)),
                    speaker=f"speaker{2 * index // count}",
                    language="en",
                )
            )
        manifests[split] = folder / f"{split}.jsonl"
        write_manifest(manifests[split], rows)
    return manifests


TINY_RECIPE = """\
method: whisper
language: en
data: {{train: [{train}], validation: [{validation}], test: [{test}]}}
teacher: {{model: {teacher}}}
pseudo_label: {{packing: sequential, batch_size: 2, shard_size: 2, max_tokens_per_second: 4.0}}
filter: {{max_wer: null}}
student: {{decoder_layers: 2}}
views: {{timestamp_probability: 0.5, previous_text_probability: 0.5}}
train: {{max_steps: 6, batch_size: 4, micro_batch_size: 2, learning_rate: 1e-3, warmup_steps: 2,
        log_every: 1, save_every: 2, validate_every: 3}}
evaluation: {{num_bootstrap: 50}}
"""


def write_tiny_recipe(folder: Path, teacher: Path | None = None, **counts: int) -> Path:
    """Corpus, recipe and, if none is given, a teacher in `folder`; returns the recipe's folder."""
    teacher = teacher or write_tiny_teacher(folder / "teacher")
    manifests = write_tiny_corpus(folder / "corpus", counts)
    recipe = folder / "recipe"
    recipe.mkdir(exist_ok=True)
    text = TINY_RECIPE.format(
        teacher=teacher, **{split: str(path) for split, path in manifests.items()}
    )
    (recipe / "recipe.yaml").write_text(text)
    return recipe


def write_tiny_translator(folder: Path, kind: str, seed: int = 0) -> Path:
    """A random text-to-text model of the tiny corpus's words: `marian` (one direction) or `nllb`
    (es, en and de by their codes)."""
    import torch
    from transformers import (
        GenerationConfig,
        M2M100Config,
        M2M100ForConditionalGeneration,
        MarianConfig,
        MarianMTModel,
    )

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _tiny_text_tokenizer(kind)
    tokenizer.save_pretrained(folder)
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    shape = dict(
        vocab_size=len(tokenizer), d_model=32, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=64,
        decoder_ffn_dim=64, max_position_embeddings=128, pad_token_id=pad, eos_token_id=end,
    )
    torch.manual_seed(seed)
    if kind == "marian":
        model = MarianMTModel(MarianConfig(**shape, decoder_start_token_id=pad))
    else:
        model = M2M100ForConditionalGeneration(
            M2M100Config(**shape, decoder_start_token_id=end))
    with torch.no_grad():  # so that it listens, says different things and ends
        for name, parameter in model.named_parameters():
            if "encoder_attn" in name and parameter.ndim > 1:
                parameter.mul_(40)
        model.get_input_embeddings().weight.mul_(25)
        if kind == "marian":
            model.final_logits_bias[0, end] = END_BIAS
    model.generation_config = GenerationConfig(
        pad_token_id=pad, eos_token_id=end, bad_words_ids=[[pad]],
        decoder_start_token_id=model.config.decoder_start_token_id)
    model.save_pretrained(folder)
    return folder


def _tiny_text_tokenizer(kind: str):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import NllbTokenizer, PreTrainedTokenizerFast

    words = [*WORDS, ".", "Hill"]
    if kind == "marian":
        vocabulary = {word: i for i, word in enumerate(["<pad>", "</s>", "<unk>", *words])}
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer.post_processor = processors.TemplateProcessing(
            single="$A </s>", special_tokens=[("</s>", 1)])
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>",
                                       pad_token="<pad>", unk_token="<unk>")
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    letters = sorted({char for word in words for char in word} | {"▁"})
    vocabulary = {piece: i for i, piece in enumerate([*special, *letters])}
    return NllbTokenizer(vocab=vocabulary, merges=[], src_lang="spa_Latn",
                         additional_special_tokens=["spa_Latn", "eng_Latn", "deu_Latn"])
