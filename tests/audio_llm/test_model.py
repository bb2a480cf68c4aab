"""Sizes of the papers, masks, layouts, saving, and answers in batches."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from distill.audio_llm.adapters import EmbeddingScale, StackMlp, TltrProjection, stack_of
from distill.audio_llm.answers import ctc_score, ctc_text, second_opinions
from distill.audio_llm.core import set_lora
from distill.audio_llm.ctc import TokenCtc, needed_frames
from distill.audio_llm.data.examples import Example
from distill.audio_llm.data.layouts import LAYOUTS
from distill.audio_llm.data.sequences import AUDIO, answer_ids, build, encode
from distill.audio_llm.language_model import load_language_model
from distill.audio_llm.model import AudioLlm
from distill.audio_llm.module import AudioLlmModule
from distill.audio_llm.plan import SIZES, lora_parameters
from distill.audio_llm.recipe import (
    AdapterConfig,
    EvaluationConfig,
    LanguageModelConfig,
    LoraSettings,
    LossConfig,
    PromptTask,
)
from distill.data.manifest import Row
from distill.losses.token_losses import IGNORE
from tests.audio_llm.conftest import WIDTH
from tests.support.rounding import assert_same_but_rounding

PROMPT = "Transcribe speech to text. "


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("llm_width, parameters", [(3584, 9_442_816), (1536, 5_246_464)])
def test_sizes_of_mooer(llm_width, parameters):
    """Paraformer's 512 at 60 ms, two side by side: 9.44 M for Qwen2-7B, 5.25 M for 1.5B."""
    assert count(StackMlp(512, llm_width, stack=2)) == parameters


def test_size_of_mooers_lora():
    """Rank 64 on all projections of Qwen2-7B, from the shapes alone: 161.5 M."""
    sizes = SIZES["Qwen2-7B-Instruct"]
    assert lora_parameters(sizes, 64, LoraSettings().targets) == 161_480_704


def test_lora_as_planned(make):
    """What the plan counts is what is made."""
    model = make()
    made = sum(count(layer) for layer in model.lora_layers().values())
    assert lora_parameters((32, 2, 64, 16), 2, LoraSettings().targets) == made


@pytest.mark.parametrize("frame_ms, embeddings", [(120, 250), (180, 166), (240, 125)])
def test_lengths_of_30_seconds(frame_ms, embeddings):
    adapter = StackMlp(4, 6, stack_of(frame_ms, 20), hidden=3)
    assert adapter(torch.zeros(1, 1500, 4)).shape == (1, embeddings, 6)


def test_sizes_of_ltu_as():
    """Whisper large's 32 layers of 1,280: TLTR, a projection to Vicuna's 4,096, and LoRA of rank 8
    on queries and values of 32 layers: 48,793,600 in all, as its log says."""
    adapter = TltrProjection(1280, 32, 4096)
    assert count(adapter.out) == 5_246_976 and count(adapter.blocks) == 39_352_320
    lora = lora_parameters(SIZES["vicuna-7b-v1.1"], 8, ["q_proj", "v_proj"])
    assert count(adapter) + lora == 48_793_600


def test_padding_is_not_heard_by_tltr():
    adapter = TltrProjection(8, 3, 6).eval()
    states = torch.randn(2, 7, 24)
    found = adapter(states, torch.tensor([7, 4]))
    assert found.shape == (2, 7, 6)
    assert_same_but_rounding(found[1, :4], adapter(states[1:, :4])[0])
    assert adapter(states[:, :0], torch.tensor([0, 0])).shape == (2, 0, 6)


def test_frames_that_do_not_fit():
    with pytest.raises(ValueError, match=r"multiple of the encoder's 20 ms, got 50"):
        stack_of(50, 20)


def test_the_scale_is_that_of_embeddings():
    embeddings = torch.randn(500, 16) * 0.1 + 0.5
    scale = EmbeddingScale(embeddings)
    found = scale(torch.randn(400, 16) * 37)
    away = (embeddings - embeddings.mean(0)).pow(2).mean(1).sqrt().median()
    torch.testing.assert_close((found - embeddings.mean(0)).pow(2).mean(1).sqrt(),
                               away.expand(400), rtol=1e-3, atol=0)
    assert count(scale) == 0


def test_only_the_answer_is_learned(make):
    model = make()
    sequence = model.sequence(PROMPT, 3, "yes.")
    learned = [each for each in sequence.labels if each != IGNORE]
    assert learned == [*encode(model.tokenizer, " yes."), model.end]
    assert sequence.labels[: sequence.num_prompt] == [IGNORE] * sequence.num_prompt
    assert sequence.ids[sequence.num_prompt :] == learned
    assert sequence.ids.count(AUDIO) == 3
    asked = model.sequence(PROMPT, 3)
    assert sequence.ids[: sequence.num_prompt] == asked.ids, "asked as it was learned"


def test_the_whole_text_as_in_ltu(make):
    model = make(layout="ltu_as")
    sequence = model.sequence("What is said?", 2, "yes", "Yes!", whole_text=True)
    known = [each for each in sequence.ids if each != AUDIO]
    assert [each for each in sequence.labels if each != IGNORE] == known
    assert sequence.labels[:2] == [IGNORE, IGNORE]


def test_layouts(make):
    model = make(tell_transcript=True)
    tokenizer = model.tokenizer

    def text(name: str, told: str | None = None) -> str:
        ids = build(tokenizer, LAYOUTS[name], PROMPT, told, 2, "hello").ids
        where = ids.index(AUDIO)
        return (tokenizer.decode(ids[:where]) + "[audio]"
                + tokenizer.decode([each for each in ids[where:] if each != AUDIO]))

    assert text("mooer") == (
        "[audio]<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        "Transcribe speech to text. <|im_end|>\n<|im_start|>assistant\n hello <|im_end|>")
    assert text("ltu_as", "well") == (
        "[audio]<s>### Instruction:\nTranscribe speech to text. \n\n### Input:\nwell\n\n"
        "### Response:\nhello</s>")
    assert "### Input" not in text("ltu_as")
    assert text("user") == ("<|im_start|>user\n[audio]\nTranscribe speech to text. <|im_end|>\n"
                            "<|im_start|>assistant\n hello<|im_end|>")


@pytest.mark.parametrize("trains", [["adapter"], ["lora"], ["adapter", "lora"]])
def test_what_is_trained(make, trains):
    module = AudioLlmModule(make(), trains, "answer", LossConfig())
    names = set(module.trained())
    body = {f"adapter.body.{layer}.{kind}" for layer in ("inner", "out")
            for kind in ("weight", "bias")}
    assert names & body == (body if "adapter" in trains else set())
    lora = {name for name in names if name.startswith("lora.")}
    assert len(lora) == (2 * 7 * 2 if "lora" in trains else 0), "two factors of seven, two layers"
    assert names == lora | (body if "adapter" in trains else set()), "no blank without CTC"
    last = AudioLlmModule(make(), ["projection"], "answer", LossConfig())
    assert set(last.trained()) == {"adapter.body.out.weight", "adapter.body.out.bias"}
    by_ctc = AudioLlmModule(make(), ["adapter"], "ctc", LossConfig())
    assert set(by_ctc.trained()) == body | {"adapter.blank"}


def test_dropout_is_on_while_trained(make):
    model = make(adapter=AdapterConfig(frame_ms=40, hidden_size=16, dropout=0.5),
                 lora=LoraSettings(rank=2, alpha=4, dropout=0.5))
    module = AudioLlmModule(model, ["adapter", "lora"], "answer", LossConfig())
    off = [each for each in model.modules() if isinstance(each, nn.Dropout) and each.p == 0.5]
    assert len(off) == 1 + 7 * 2 and all(each.training for each in off)
    assert not model.llm.training
    module.eval()
    assert not any(each.training for each in off)


def test_saved_is_only_what_is_trained(make, tmp_path):
    model = make()
    with torch.no_grad():
        for layer in model.lora_layers().values():
            layer.weight.normal_()
    model.save_pretrained(tmp_path)
    state = load_file(tmp_path / "audio_llm.safetensors")
    assert {name.split(".")[0] for name in state} == {"adapter", "lora"}
    assert sum(each.numel() for each in state.values()) < count(model.llm) / 4
    again = AudioLlm.from_pretrained(tmp_path)
    audio = [np.ones((4, WIDTH), np.float32)]
    assert again.generate(audio, [PROMPT], max_new_tokens=8) == model.generate(
        audio, [PROMPT], max_new_tokens=8)
    assert all(torch.equal(a, b) for a, b in zip(
        model.trained_state().values(), again.trained_state().values(), strict=True))


@pytest.mark.parametrize("change, message", [
    ("missing", r"missing \['adapter.blank'\]"), ("extra", r"unexpected \['adapter.more'\]"),
    ("shape", r"wrong shape \['adapter.blank'\]")])
def test_other_weights_are_refused(make, tmp_path, change, message):
    make().save_pretrained(tmp_path)
    path = tmp_path / "audio_llm.safetensors"
    state = load_file(path)
    blank = state["adapter.blank"]
    if change == "missing":
        del state["adapter.blank"]
    else:
        state["adapter.more" if change == "extra" else "adapter.blank"] = blank[:3].clone()
    save_file(state, path)
    with pytest.raises(ValueError, match=message):
        AudioLlm.from_pretrained(tmp_path)


def test_another_language_model_is_refused(make, tmp_path):
    make().save_pretrained(tmp_path)
    path = tmp_path / "audio_llm.json"
    path.write_text(json.dumps(json.loads(path.read_text())
                               | {"language_model_revision": "another"}))
    with pytest.raises(ValueError, match="trained with revision another of "):
        AudioLlm.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no audio language model: it has no audio_llm.json"):
        AudioLlm.from_pretrained(tmp_path.parent)


def test_a_batch_answers_as_one_by_one(make):
    model, generator = make(), np.random.default_rng(0)
    with torch.no_grad():
        for layer in model.lora_layers().values():
            layer.weight.normal_(std=0.3)
    states = [generator.standard_normal((frames, WIDTH)) for frames in (2, 9, 30, 0, 17, 4, 5, 40)]
    prompts = [PROMPT, "What?", *[PROMPT] * 6]
    together = model.generate(states, prompts, max_new_tokens=12)
    alone = [model.generate([each], [prompt], max_new_tokens=12)[0]
             for each, prompt in zip(states, prompts, strict=True)]
    assert together == alone
    assert len(set(together)) > 3, "the audio is heard"
    assert all(map(len, model.generate(states, prompts, max_new_tokens=6, num_beams=2)))


def test_an_answer_in_pieces(make):
    model = make()
    states = np.ones((9, WIDTH))
    (whole,) = model.generate([states], [PROMPT], max_new_tokens=10)
    pieces = list(model.stream(states, PROMPT, max_new_tokens=10))
    assert "".join(pieces).strip() == whole
    with pytest.raises(ValueError, match="num_beams"):
        list(model.stream(states, PROMPT, max_new_tokens=10, num_beams=2))


def test_the_ends_bias(make):
    model = make()
    audio, many = [np.zeros((4, WIDTH))], [PROMPT]
    assert model.generate(audio, many, max_new_tokens=9, end_bias=1e4) == [""]
    assert len(model.generate(audio, many, max_new_tokens=9, end_bias=-1e4)[0]) > 0


def test_lora_off_is_the_language_model(make, tiny_llm):
    model = make()
    plain = load_language_model(LanguageModelConfig(model=str(tiny_llm))).model
    ids = torch.tensor([encode(model.tokenizer, "some text")])
    with torch.no_grad():
        for layer in model.lora_layers().values():
            layer.weight.normal_()
        wanted = plain(ids).logits
        assert not torch.allclose(model.llm(ids).logits, wanted, atol=1e-3)
        set_lora(model.llm, False)
        # another model with the same weights elsewhere in memory, which may decide the kernel
        assert_same_but_rounding(model.llm(ids).logits, wanted)
        set_lora(model.llm, True)


def test_ctc_says_a_text(make):
    """A loss near 0 for vectors that are the embeddings themselves, blanks between."""
    model = make()
    table = model.llm.get_input_embeddings().weight.detach()
    ids = encode(model.tokenizer, " see")
    ctc = TokenCtc(model.adapter, table, ids)
    blank = model.adapter.blank.detach()
    said = torch.stack([table[ids[0]], table[ids[1]], table[ids[2]], blank, table[ids[3]]])
    # the blank begins as a space, which this text also has: it must not be mistaken for it
    model.adapter.blank.data = -blank
    said[3] = -blank
    assert ctc.read(said) == ids
    targets = torch.tensor(ctc.targets(ids))
    loss = ctc.loss(said[None], torch.tensor([5]), targets, torch.tensor([4]))
    assert 0 <= loss.item() < 0.01
    assert needed_frames(ctc.targets(ids)) == 5, "a blank stands between two that are alike"
    assert ctc.targets([*ids, 3]) == ctc.targets(ids)


def test_answers_end_as_the_layout_says(make):
    model = make(layout="mooer")
    ids = answer_ids(model.tokenizer, model.layout, "a")
    assert model.tokenizer.decode(ids) == " a <|im_end|>"


def test_blanks_are_not_shown(make):
    """What the language model sees is the same as if they had never been there."""
    model = make(adapter=AdapterConfig(frame_ms=40, hidden_size=16, drop_blanks=0.5),
                 tokens=[65, 66, 67])
    states = torch.randn(2, 8, WIDTH, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        audio = model.adapter(states)
        model.adapter.blank.copy_(audio[0, 1])  # so one embedding is surely a blank
        chances = model.ctc.log_probabilities(audio)[..., 0].exp()
    limit = float(chances.max() + chances.min()) / 2
    model.settings.adapter.drop_blanks = limit
    assert torch.equal(model.shown(audio), chances <= limit)
    assert not model.shown(audio)[0, 1] and model.shown(audio).any()
    lengths = torch.tensor([4, 3])
    kept = [audio[n, :length][model.shown(audio)[n, :length]] for n, length in enumerate(lengths)]
    for n, each in enumerate(kept):
        torch.testing.assert_close(model.hear([states[n, : 2 * lengths[n]]])[0], each)
    whole = [model.sequence(PROMPT, int(each), "a") for each in lengths]
    longest = max(len(each.ids) for each in whole)
    ids = torch.tensor([each.ids + [model.end] * (longest - len(each.ids)) for each in whole])
    labels = torch.tensor([each.labels + [IGNORE] * (longest - len(each.labels))
                           for each in whole])
    embedded, found = model.place(ids, labels, audio, lengths)
    for n, each in enumerate(kept):
        short = model.sequence(PROMPT, len(each), "a")
        wanted = model.embed(torch.tensor([short.ids]), each)[0]
        assert torch.equal(embedded[n, : len(short.ids)], wanted)
        assert found[n, : len(short.ids)].tolist() == short.labels
        assert (found[n, len(short.ids) :] == IGNORE).all()


def test_the_better_of_two_texts(make):
    """CTC reads what is there, and is asked only where its text is another one."""
    ids = encode(make().tokenizer, " see")
    model = make(tokens=ids)
    table = model.llm.get_input_embeddings().weight.detach()
    model.adapter.blank.data = -model.adapter.blank.data
    said = torch.stack([table[ids[0]], table[ids[1]], table[ids[2]], model.adapter.blank.detach(),
                        table[ids[3]]])
    model.hear = lambda states, blanks=False: [said for _ in states]
    states = np.zeros((10, WIDTH), np.float32)
    assert ctc_text(model, states) == "see"
    assert -0.01 < ctc_score(model, states, "See!") <= 0, "case and marks are not what is said"
    assert ctc_score(model, states, "se") < ctc_score(model, states, "see") - 10
    assert ctc_score(model, states, "see it") < -20, "tokens that CTC does not know"
    assert ctc_score(model, states, "see" * 9) == -np.inf, "too long for the clip"
    task = PromptTask(name="t", prompt="p", kind="recognition")
    example = Example(Row(id="1", audio_filepath="a", duration=1.0), task, PROMPT, "x", None)
    config = EvaluationConfig(ctc_weight=0.99)
    for answer, wanted in (("se", "see"), ("See.", "See."), ("see see see", "see")):
        assert second_opinions(model, [example], [states], [answer], config) == [wanted]
    assert second_opinions(model, [example], [states], ["se"], EvaluationConfig()) == ["se"]
    other = replace(example, task=replace(task, kind="translation"))
    assert second_opinions(model, [other], [states], ["se"], config) == ["se"]
