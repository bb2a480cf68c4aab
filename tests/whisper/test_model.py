"""Teacher and student see the same: a student that is its teacher has a KL of exactly 0.

The reference script rebuilds the teacher's input from the labels and loses the prompt (fault 1).
"""

import copy

import pytest
import torch

from distill.data.manifest import read_manifest
from distill.data.speech.windows import load_window, pack
from distill.data.views.draws import View
from distill.losses.targets import record_scores
from distill.losses.token_losses import IGNORE
from distill.whisper.data.collate import TokenRules, pad
from distill.whisper.data.layers import inner_teacher_layers
from distill.whisper.encoder.padded import encode, log_mel
from distill.whisper.encoder.silence import silence_of, with_silence
from distill.whisper.model import DistillModule, decoder_states
from distill.whisper.recipe import LossConfig
from distill.whisper.special import SpecialTokens
from distill.whisper.student import freeze, make_student

VIEWS = [
    View("w0", timestamps=False, previous=False),
    View("w1", timestamps=True, previous=True),
    View("w1", timestamps=False, previous=True),
    View("w2", timestamps=True, previous=False),
]


@pytest.fixture
def tiny_model(tiny_model):
    """As initialised, its decoder hardly looks at what was said before; this one does."""
    with torch.no_grad():
        for layer in tiny_model.model.decoder.layers:
            for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj,
                               layer.self_attn.v_proj, layer.self_attn.out_proj):
                projection.weight.mul_(10)
    return tiny_model


def make_rows(special, texts, prompt) -> dict[str, dict]:
    t = special.timestamp_begin
    return {
        f"w{i}": {"id": f"w{i}", "language": "en", "tokens": [t, *text, t + 75], "prompt": prompt}
        for i, text in enumerate(texts)
    }


def make_batch(rules, rows, features_by_id, views) -> dict:
    tokens = [rules(rows[view.id], view) for view in views]
    inputs, labels = pad(tokens, rules.special.end)
    features = torch.stack([features_by_id[view.id] for view in views])
    return {"decoder_input_ids": inputs, "labels": labels, "input_features": features}


@pytest.fixture
def rules(tiny_processor):
    special = SpecialTokens(tiny_processor.tokenizer, None)
    return TokenRules(special, "en", "transcribe", 448, True)


@pytest.fixture
def rows(rules):
    texts = [range(30, 34), range(60, 90), range(5, 12)]
    return make_rows(rules.special, texts, [rules.special.timestamp_begin, 70, 71, 72])


@pytest.fixture
def features():
    generator = torch.Generator().manual_seed(0)
    return {f"w{i}": torch.randn(80, 3000, generator=generator) for i in range(3)}


@pytest.fixture
def batch(rules, rows, features):
    batch = make_batch(rules, rows, features, VIEWS)
    labels, inputs = batch["labels"], batch["decoder_input_ids"]
    assert (inputs[1:3, 0] == rules.special.previous).all()  # prompts
    assert (inputs > rules.special.timestamp_begin).any()  # timestamps
    assert (labels[:, -1] == IGNORE).any()  # padding
    return batch


def module(teacher, student, shared=True, output=None, **loss) -> DistillModule:
    freeze(student, encoder=True, embeddings=False, positions=True)
    count = student.config.decoder_layers
    inner = inner_teacher_layers(KEPT if count == len(KEPT) else list(range(count)))
    inner = inner if loss.get("hidden_weight") else []
    return DistillModule(student, teacher, LossConfig(**loss), shared, inner, output)


KEPT = [0, 3]


def student_of(teacher, decoder_layers=KEPT):
    return make_student(teacher, list(decoder_layers), list(range(teacher.config.encoder_layers)))


@pytest.mark.parametrize("shared", [True, False])
def test_kl_is_zero_with_all_layers(tiny_model, batch, shared):
    """But for rounding: the teacher's weights are a file's, the student's are a copy of them."""
    model = module(tiny_model, student_of(tiny_model, range(4)), shared, hidden_weight=1.0)
    total, parts = model(batch)
    assert abs(parts["kl"]) < 1e-5 and 0 <= parts["hidden"] < 1e-9
    assert parts["ce"] > 0 and total > 0


@pytest.mark.parametrize("kind", ["reverse", "total_variation"])
def test_other_divergences(tiny_model, batch, kind):
    name = {"reverse": "reverse_kl"}.get(kind, kind)
    same = module(tiny_model, student_of(tiny_model, range(4)), divergence=kind, ce_weight=0.0)
    total, parts = same(batch)
    assert parts.keys() == {"ce", name} and parts[name] == 0.0
    total.backward()
    assert not any(p.grad.any() for p in same.parameters() if p.grad is not None)
    total, parts = module(tiny_model, student_of(tiny_model), divergence=kind)(batch)
    assert parts[name] > 1e-4
    torch.testing.assert_close(total, 0.8 * parts["ce"] + 4 * parts[name])


@pytest.mark.parametrize("kind", ["reverse", "total_variation", "forward"])
def test_kl_is_zero_with_states_of_many_lengths(tiny_model, batch, kind):
    """Short audio, as it comes from a store: silence stands behind it, the same for both."""
    tiny_model.config.short_audio = {"margin_seconds": 1.0}
    del batch["input_features"]
    generator = torch.Generator().manual_seed(0)
    batch["encoder_states"] = [torch.randn(frames, 32, generator=generator).half()
                               for frames in (75, 300, 1500, 25)]
    same = module(tiny_model, student_of(tiny_model, range(4)), divergence=kind, ce_weight=0.0)
    total, parts = same(batch)
    assert parts.popitem()[1] == 0.0 or kind == "forward"
    assert abs(total) < 1e-5
    smaller = module(tiny_model, student_of(tiny_model), divergence=kind, ce_weight=0.0)
    together = smaller(batch)[0].detach()
    assert together > 1e-4
    alone = 0.0
    for row, states in enumerate(batch["encoder_states"]):
        one = {name: batch[name][row : row + 1] for name in ("decoder_input_ids", "labels")}
        alone += smaller(one | {"encoder_states": states[None]})[0].detach()
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


# with few tokens, the states of a row are looked at as they are; not of one row alone
@pytest.mark.parametrize(("frames", "num_rows", "length", "own"), [
    (300, 4, 60, 1200), (300, 4, 8, 0), (75, 3, 30, 225), (1490, 4, 8, 0), (150, 1, 8, 150)])
def test_silence_is_projected_once_for_the_batch(
        tiny_model, batch, frames, num_rows, length, own):
    """With the values and gradients of silence that is put behind every row."""
    model = copy.deepcopy(tiny_model).double()
    silence = silence_of(model.get_encoder())
    inputs = batch["decoder_input_ids"][:num_rows, :length]
    states = torch.randn(num_rows, frames, 32, generator=torch.Generator().manual_seed(0)).double()
    attention = model.model.decoder.layers[1].encoder_attn
    counts = []
    handle = attention.k_proj.register_forward_pre_hook(
        lambda _module, arguments: counts.append(arguments[0].shape[:-1].numel()))

    def found(states, silence=None) -> list:
        model.zero_grad()
        hidden, (inner,) = decoder_states(model, inputs, states, [3], silence)
        (hidden.square().sum() + inner.square().sum()).backward()
        named = dict(model.model.decoder.named_parameters())
        return [hidden, inner, *(each.grad for name, each in named.items() if "attn" in name)]

    each, whole = found(with_silence(states, silence)), sum(counts)
    assert whole == num_rows * 1500
    once, projected = found(states, silence), sum(counts) - whole
    assert projected == 1500 - frames + own
    for one, other in zip(once, each, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-12)
    assert "forward" not in vars(attention), "the decoder would go on to put silence in"
    model.model.decoder.train()
    model.model.decoder.activation_checkpointing_enable()
    torch.testing.assert_close(found(states, silence)[-1], each[-1], rtol=1e-6, atol=1e-12)
    handle.remove()


def test_kl_is_not_zero_for_a_smaller_student_or_another_prompt(tiny_model, batch):
    model = module(tiny_model, student_of(tiny_model))
    assert model(batch)[1]["kl"] > 1e-4
    # what the reference script does: the teacher reads the prompt as end-of-text
    model = module(tiny_model, student_of(tiny_model, range(4)))
    decoder = tiny_model.model.decoder
    prompt = batch["labels"] == IGNORE

    def lose_prompt(_module, _args, kwargs):
        end = tiny_model.config.eos_token_id
        return (), kwargs | {"input_ids": kwargs["input_ids"].masked_fill(prompt, end)}

    handle = decoder.register_forward_pre_hook(lose_prompt, with_kwargs=True)
    assert model(batch)[1]["kl"] > 1e-4
    handle.remove()
    assert abs(model(batch)[1]["kl"]) < 1e-5


def test_the_loss_is_the_sum_of_its_parts_over_valid_tokens(tiny_model, batch):
    weights = {"ce_weight": 0.5, "kl_weight": 2.0, "hidden_weight": 3.0, "temperature": 1.5}
    student = student_of(tiny_model)
    total, parts = module(tiny_model, student, **weights)(batch)
    expected = 0.5 * parts["ce"] + 2.0 * 1.5**2 * parts["kl"] + 3.0 * parts["hidden"]
    torch.testing.assert_close(total, expected)
    valid = batch["labels"] != IGNORE
    inputs = {k: batch[k] for k in ("input_features", "decoder_input_ids")}
    with torch.no_grad():
        own, teacher = (m(**inputs, output_hidden_states=True) for m in (student, tiny_model))
    logits, theirs = own.logits[valid], teacher.logits[valid]
    # after the last norm, and what enters the copy of layer 3
    hidden = sum(
        (own.decoder_hidden_states[i][valid] - teacher.decoder_hidden_states[j][valid])
        .square().mean(-1).sum() for i, j in ((-1, -1), (1, 3))
    )
    torch.testing.assert_close(parts["hidden"], hidden, rtol=1e-4, atol=1e-4)
    ce = torch.nn.functional.cross_entropy(logits, batch["labels"][valid], reduction="sum")
    torch.testing.assert_close(parts["ce"], ce, rtol=1e-4, atol=1e-4)
    log_q, log_p = ((z / 1.5).log_softmax(-1) for z in (logits, theirs))
    kl = torch.nn.functional.kl_div(log_q, log_p, reduction="sum", log_target=True)
    torch.testing.assert_close(parts["kl"], kl, rtol=1e-3, atol=1e-4)


def test_a_batch_is_the_sum_of_its_rows(tiny_model, rules, rows, features, batch):
    """Padding and neighbours change nothing, so that the loop may divide by the global count."""
    model = module(tiny_model, student_of(tiny_model))
    together, _ = model(batch)
    alone = sum(model(make_batch(rules, rows, features, [view]))[0] for view in VIEWS)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-3)


def test_unequal_encoders_are_run_separately(tiny_model, batch):
    """With another encoder, a shared run would give the teacher wrong states (fault 5)."""
    student = student_of(tiny_model, range(4))
    with torch.no_grad():
        student.model.encoder.conv1.bias += 0.5
    runs = []
    tiny_model.model.encoder.register_forward_hook(lambda *_: runs.append(1))
    separate = module(tiny_model, student, shared=False)(batch)[1]["kl"]
    assert runs == [1] and separate > 1e-5
    wrong = module(tiny_model, student, shared=True)(batch)[1]["kl"]
    assert runs == [1] and wrong == 0.0  # the states of the student's encoder: why it is checked


def test_only_the_student_is_trained(tiny_model, batch):
    tiny_model.requires_grad_(False)
    student = student_of(tiny_model)
    model = module(tiny_model, student)
    assert {id(p) for p in model.parameters()} == {id(p) for p in student.parameters()}
    assert not any(name.startswith("teacher") for name in model.state_dict())
    model(batch)[0].backward()
    for name, parameter in student.named_parameters():
        frozen = "encoder." in name and "decoder" not in name or "embed_positions" in name
        assert (parameter.grad is None) == frozen, name
    assert all(p.grad is None for p in tiny_model.parameters())


def test_common_tokens_are_fewer(tiny_model, batch):
    student = student_of(tiny_model)
    whole, same, fewer = (module(tiny_model, student, common_tokens=count)(batch)[1]["kl"]
                          for count in (None, student.config.vocab_size, 20))
    torch.testing.assert_close(same, whole)
    assert fewer > 0 and not torch.isclose(fewer, whole)


def test_states_alone(tiny_model, batch):
    """No scores are asked for or brought when no loss uses them."""
    student = student_of(tiny_model)
    weights = {"ce_weight": 0.0, "kl_weight": 0.0, "hidden_weight": 2.0}
    total, parts = module(tiny_model, student, **weights)(batch)
    assert parts.keys() == {"hidden"} and parts["hidden"] > 0
    torch.testing.assert_close(total.detach(), 2.0 * parts["hidden"])
    batch = asked_before(tiny_model, batch, k=0, inner=KEPT[1:])
    assert batch["teacher"].keys() == {"hidden", "inner3"}
    brought, _ = module(None, student, **weights)(batch)
    torch.testing.assert_close(brought, total, rtol=1e-2, atol=1e-2)  # float16 encoder states
    total.backward()
    assert student.model.decoder.layers[0].fc1.weight.grad.abs().sum() > 0


def test_a_trained_encoder_gets_gradients(tiny_model, batch):
    student = student_of(tiny_model)
    student.model.encoder.requires_grad_(True)
    DistillModule(student, tiny_model, LossConfig(), False)(batch)[0].backward()
    assert student.model.encoder.conv1.weight.grad.abs().sum() > 0


def asked_before(teacher, batch, k, temperature=2.0, inner=None) -> dict:
    """The batch with what a teacher said, in the types of the store; see
    `distill.whisper.data.recorded`

    Args:
        batch: with `encoder_states`, if they are known.
        k: ids kept per token, 0: no scores.
        inner: teacher layers whose input is wanted; the last states come with it.
    """
    valid = batch["labels"] != IGNORE
    states = batch.get("encoder_states")
    states = encode(teacher, batch["input_features"]) if states is None else states
    with torch.no_grad():
        hidden, between = decoder_states(teacher, batch["decoder_input_ids"], states, inner or ())
    columns = {}
    if k:
        columns = record_scores(hidden[valid], teacher.proj_out.weight, "top_k", k, [temperature])
        columns["values"] = columns["values"].half()
        columns["log_rest"] = columns["log_rest"][:, -1]
    if inner is not None:
        columns["hidden"] = hidden[valid].half()
        columns |= {f"inner{layer}": each[valid].half()
                    for layer, each in zip(inner, between, strict=True)}
    kept = {name: batch[name] for name in ("decoder_input_ids", "labels")}
    return kept | {"encoder_states": states.half(), "teacher": columns}


def rounded(teacher):
    """The teacher with an encoder whose states survive float16: recorded states are halves."""
    teacher.model.encoder.layer_norm.register_forward_hook(lambda m, i, out: out.half().float())
    return teacher


def values_and_gradient(model, batch) -> tuple:
    model.student.zero_grad()
    total, parts = model(batch)
    total.backward()
    gradients = [p.grad.flatten() for p in model.student.parameters() if p.grad is not None]
    return total.detach(), parts, torch.cat(gradients)


@pytest.mark.parametrize("k", [10**6, 0], ids=["all scores", "decoder states"])
def test_a_teacher_asked_before_gives_the_live_loss(tiny_model, batch, k):
    teacher = rounded(tiny_model)
    student = rounded(student_of(teacher))
    live = module(teacher, student, hidden_weight=0.5)
    asked = module(None, student, output=teacher.proj_out.weight, hidden_weight=0.5)
    total, parts, gradient = values_and_gradient(live, batch)
    other, other_parts, other_gradient = values_and_gradient(
        asked, asked_before(teacher, batch, k, inner=KEPT[1:])
    )
    torch.testing.assert_close(other, total, rtol=1e-5, atol=1e-5)
    for name in ("ce", "kl", "hidden"):
        torch.testing.assert_close(other_parts[name], parts[name], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(other_gradient, gradient, rtol=1e-3, atol=1e-3)


def test_columns_of_other_tokens_are_noticed(tiny_model, batch):
    """That the comparison above can fail: one token's scores moved to the next one."""
    student = student_of(tiny_model)
    model = module(None, student)
    right = asked_before(tiny_model, batch, 10**6)
    columns = {name: value.roll(1, 0) for name, value in right["teacher"].items()}
    kl, wrong = (model(each)[1]["kl"] for each in (right, right | {"teacher": columns}))
    assert wrong > 1.05 * kl


@pytest.mark.slow
def test_real_teacher(demo_teacher, demo_data):
    """whisper-base and itself: two windows of speech, prompt, timestamps and padding."""
    teacher, processor = demo_teacher.model, demo_teacher.processor
    special = SpecialTokens(processor.tokenizer, teacher.generation_config)
    rules = TokenRules(special, "en", "transcribe", 448, True)
    clips = read_manifest(demo_data / "test.jsonl")[0][:6]
    windows = pack(clips, "w", "sequential", window_seconds=12.0)[:2]
    assert len(windows) == 2
    texts = [processor.tokenizer.encode(w.text, add_special_tokens=False) for w in windows]
    rows = make_rows(special, texts, [special.timestamp_begin, *texts[0][:9]])
    mels = log_mel(processor, [load_window(w) for w in windows])
    features = {f"w{i}": mel for i, mel in enumerate(mels)}
    student = copy.deepcopy(teacher)  # decoder and encoder as they are
    batch = make_batch(rules, rows, features, VIEWS[:2])
    assert (batch["labels"][:, -1] == IGNORE).any()
    assert batch["decoder_input_ids"][1, 0] == special.previous
    heard = []
    student.model.encoder.register_forward_hook(lambda m, i, o: heard.append(o.last_hidden_state))
    _, parts = module(teacher, student)(batch)
    num_valid = (batch["labels"] != IGNORE).sum()
    assert abs(parts["kl"]) / num_valid < 1e-6
    assert parts["ce"] / num_valid < 2.0  # nats: these are the right words for this audio
    brought = asked_before(teacher, batch | {"encoder_states": heard[0]}, 64)
    _, again_parts = module(None, student)(brought)
    assert abs(again_parts["kl"]) / num_valid < 1e-4
    torch.testing.assert_close(again_parts["ce"], parts["ce"], rtol=1e-3, atol=1e-3)


def test_a_frozen_encoder_has_no_dropout(tiny_model, batch):
    """The teacher heard no dropout, and stored states have none."""
    student = student_of(tiny_model)
    student.model.encoder.dropout = 0.5
    model = module(tiny_model, student).train()
    torch.testing.assert_close(model(batch)[0], model(batch)[0])
    student.model.encoder.requires_grad_(True)
    model = DistillModule(student, tiny_model, LossConfig(), False).train()
    assert model(batch)[0] != model(batch)[0]
