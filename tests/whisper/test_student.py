"""A student is made of the right layers of its teacher, and owns every tensor."""

import re

import pytest
import torch
from transformers import WhisperForConditionalGeneration

from distill.whisper.data.layers import choose_layers, spaced_layers
from distill.whisper.student import (
    alignment_note,
    begin_with,
    count_parameters,
    freeze,
    make_student,
    same_encoder,
    student_generation_config,
)


@pytest.mark.parametrize(
    ("total", "keep", "layers"),
    [  # of the published students, as their scripts compute them
        (32, 2, [0, 31]), (32, 4, [0, 10, 20, 31]), (32, 3, [0, 15, 31]), (32, 1, [31]),
        (32, 8, [0, 4, 8, 13, 17, 22, 26, 31]), (24, 2, [0, 23]), (12, 4, [0, 3, 7, 11]),
        (12, 2, [0, 11]), (4, 2, [0, 3]), (32, 16, [*range(0, 30, 2), 31]), (6, 2, [0, 5]),
    ],
)
def test_published_layers(total, keep, layers):
    assert spaced_layers(total, keep) == layers


@pytest.mark.parametrize("total", [1, 2, 6, 32])
def test_keeping_all_layers(total):
    assert spaced_layers(total, total) == list(range(total))
    for keep in (0, total + 1):
        with pytest.raises(ValueError, match=f"cannot keep {keep} of {total} layers"):
            spaced_layers(total, keep)


@pytest.mark.parametrize(
    ("choice", "layers"),
    [
        (None, [0, 1, 2, 3, 4, 5]), (2, [0, 5]), ([0, -1], [0, 5]), ([-1], [5]), ([-6, 3], [0, 3]),
        ([5, 0, 2], [0, 2, 5]),
    ],
)
def test_choices(choice, layers):
    """The reference script never matches -1 and keeps another layer silently (fault 6)."""
    assert choose_layers(choice, 6, "student.decoder_layers") == layers


@pytest.mark.parametrize(
    "choice", [0, 7, -1, [6], [-7], [1, 1], [5, -1], [0, 2, -4]],
)
def test_bad_choices_name_the_key(choice):
    message = rf"student\.decoder_layers must be .*got {re.escape(str(choice))}"
    with pytest.raises(ValueError, match=message):
        choose_layers(choice, 6, "student.decoder_layers")


@pytest.fixture
def student(tiny_model):
    return make_student(tiny_model, [1, 3], [0, 1])


def origin(name: str) -> str:
    """The teacher's tensor behind one of a student with decoder layers [1, 3]."""
    return re.sub(
        r"(decoder\.layers\.)(\d)", lambda m: m[1] + str([1, 3][int(m[2])]), name
    )


def test_every_tensor_is_the_teachers(tiny_model, student):
    source, copied = tiny_model.state_dict(), student.state_dict()
    assert student.config.decoder_layers == 2 and student.config.encoder_layers == 2
    assert len(student.model.decoder.layers) == 2
    for name, value in copied.items():
        assert torch.equal(value, source[origin(name)]), name
    # the layers differ from each other, so that the comparison means something
    first, last = (copied[f"model.decoder.layers.{i}.fc1.weight"] for i in (0, 1))
    assert not torch.equal(first, last)
    left = {name for name in source if "decoder.layers.0." in name or "decoder.layers.2." in name}
    assert source.keys() - left == {origin(name) for name in copied}


def test_encoder_layers(tiny_model):
    student = make_student(tiny_model, [0, 3], [1])
    source, copied = tiny_model.model.encoder.state_dict(), student.model.encoder.state_dict()
    assert student.config.encoder_layers == student.config.num_hidden_layers == 1
    for name, value in copied.items():
        assert torch.equal(value, source[name.replace("layers.0.", "layers.1.")]), name


def test_nothing_is_shared(tiny_model, student):
    def pointers(model) -> set[int]:
        return {value.data_ptr() for value in model.state_dict().values()}

    assert not pointers(tiny_model) & pointers(student)
    before = {name: value.clone() for name, value in tiny_model.state_dict().items()}
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(before[n], v) for n, v in tiny_model.state_dict().items())


def test_embeddings_are_tied(tiny_model, student):
    assert student.proj_out.weight is student.model.decoder.embed_tokens.weight
    assert count_parameters(student) < count_parameters(tiny_model)
    names = dict(student.named_parameters())
    assert "proj_out.weight" not in names  # counted and trained once
    assert student.training and all(p.requires_grad or "encoder.embed_positions" in n
                                    for n, p in names.items())


def test_float32_student_of_a_float16_teacher(tiny_model, tmp_path):
    halves = {n: v.half() for n, v in tiny_model.state_dict().items()}
    student = make_student(tiny_model.half(), [0, 3], [0, 1])
    assert {p.dtype for p in student.parameters()} == {torch.float32}
    assert student.config.dtype == torch.float32
    name = "model.decoder.layers.1.fc1.weight"
    source = halves["model.decoder.layers.3.fc1.weight"].float()
    assert torch.equal(student.state_dict()[name], source)
    with torch.no_grad():
        student.model.decoder.layers[1].fc1.weight.add_(1e-5)  # lost in float16
    student.save_pretrained(tmp_path)
    for options in ({"dtype": torch.float32}, {}):
        loaded = WhisperForConditionalGeneration.from_pretrained(tmp_path, **options)
        assert {p.dtype for p in loaded.parameters()} == {torch.float32}
        assert torch.equal(loaded.state_dict()[name], student.state_dict()[name])
        assert loaded.proj_out.weight is loaded.model.decoder.embed_tokens.weight


def test_saved_student_is_complete(student, tmp_path):
    student.save_pretrained(tmp_path)
    loaded, info = WhisperForConditionalGeneration.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert loaded.config.decoder_layers == 2
    for name, value in student.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name


@pytest.mark.parametrize(
    ("layers", "heads", "note"),
    [  # the tiny teacher has heads [1, 0] and [3, 1] in four layers
        ([0, 3], [[1, 1]], "1 of 2 alignment heads kept"),
        ([1, 3], [[0, 0], [1, 1]], "2 of 2 alignment heads kept"),
        ([0, 1, 2, 3], [[1, 0], [3, 1]], "2 of 2 alignment heads kept"),
        ([0, 2], [[1, 0], [1, 1]], "none of the teacher's 2 alignment heads is in a kept layer: "
         "word timestamps come from all heads of the later half"),
    ],
)
def test_alignment_heads_are_renumbered_or_replaced(tiny_model, tmp_path, layers, heads, note):
    """Heads of removed layers crash word timestamps in every runtime (fault 7), and so does having
    none in transformers."""
    student = make_student(tiny_model, layers, [0, 1])
    assert student.generation_config.alignment_heads == heads
    assert note in alignment_note(tiny_model, layers)
    student.save_pretrained(tmp_path)
    loaded = WhisperForConditionalGeneration.from_pretrained(tmp_path).generation_config
    assert loaded.alignment_heads == heads
    assert tiny_model.generation_config.alignment_heads == [[1, 0], [3, 1]]  # not changed


def test_teacher_without_alignment_heads(tiny_model):
    del tiny_model.generation_config.alignment_heads
    student = make_student(tiny_model, [0, 3], [0, 1])
    assert student.generation_config.alignment_heads == [[1, 0], [1, 1]]
    assert "no alignment heads" in alignment_note(tiny_model, [0, 3])


def test_the_rest_of_the_generation_config_is_kept(tiny_model):
    tiny_model.generation_config.forced_decoder_ids = [[1, 50259]]
    config = student_generation_config(tiny_model, [0, 3])
    assert config.forced_decoder_ids is None
    before, after = tiny_model.generation_config.to_dict(), config.to_dict()
    changed = {k for k in before.keys() | after.keys() if before.get(k) != after.get(k)}
    assert changed == {"alignment_heads", "forced_decoder_ids"}


def test_same_encoder(tiny_model):
    """The reference script compares the width alone, then trains on a wrong encoder (fault 5)."""
    student = make_student(tiny_model, [0, 3], [0, 1])
    assert same_encoder(tiny_model, student)
    assert same_encoder(tiny_model.half(), make_student(tiny_model, [0, 3], [0, 1]))
    with torch.no_grad():
        student.model.encoder.layers[1].fc2.bias[0] += 1e-3
    tiny_model.float()
    assert not same_encoder(tiny_model, student)
    assert not same_encoder(tiny_model, make_student(tiny_model, [0, 3], [0]))


def test_freeze(tiny_model):
    student = make_student(tiny_model, [0, 3], [0, 1])
    freeze(student, encoder=True, embeddings=False, positions=True)
    trained = {name for name, p in student.named_parameters() if p.requires_grad}
    assert not any(name.startswith("model.encoder") for name in trained)
    assert "model.decoder.embed_positions.weight" not in trained
    assert {"model.decoder.embed_tokens.weight", "model.decoder.layer_norm.weight"} <= trained
    freeze(student, encoder=False, embeddings=True, positions=False)
    assert not student.proj_out.weight.requires_grad
    assert student.model.decoder.embed_positions.weight.requires_grad
    freeze(student, encoder=False, embeddings=False, positions=False, feed_forward=True)
    for name, parameter in student.model.decoder.named_parameters():
        assert parameter.requires_grad == (".fc" not in name), name


def test_a_student_that_begins_as_another(tiny_model, tmp_path):
    one, other = (make_student(tiny_model, [0, 1], [0, 1]) for _ in range(2))
    with torch.no_grad():
        one.model.decoder.layers[0].fc1.weight += 1
    one.save_pretrained(tmp_path / "student")
    begin_with(other, tmp_path / "student")
    found = other.state_dict()
    assert all(torch.equal(value, found[name]) for name, value in one.state_dict().items())
    assert other.model.decoder.embed_tokens.weight is other.proj_out.weight
    with pytest.raises(ValueError, match="no model in"):
        begin_with(other, tmp_path)
    with pytest.raises(ValueError, match="has other layers than the student"):
        begin_with(make_student(tiny_model, [1], [0, 1]), tmp_path / "student")
