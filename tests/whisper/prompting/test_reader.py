"""Students whose encoder reads prompts: trained, saved, used, and where they are refused."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import WhisperForConditionalGeneration

from distill.config import ConfigError
from distill.data.manifest import read_manifest
from distill.data.views.draws import Prompt, View
from distill.whisper.data.corpus import evaluation_utterances
from distill.whisper.decoding.whisper_decoder import WhisperDecoder
from distill.whisper.encoder.audio import audio_features, encode_features
from distill.whisper.encoder.prompt_reader import encode_about
from distill.whisper.export.run import export_student
from distill.whisper.prompting.reader_config import PromptReaderConfig
from distill.whisper.prompting.reader_files import (
    SETTINGS,
    WEIGHTS,
    add_reader,
    attach,
    save_student,
    texts_of,
)
from distill.whisper.prompting.reader_start import start_copying
from distill.whisper.prompting.text_states import OwnEmbeddings, TextStates, pieces_of
from distill.whisper.recognition import sequential
from distill.whisper.recognition.fallback import GREEDY
from distill.whisper.recognition.loading import load
from eval.prompts.passes import KeptPasses, Speaker
from eval.speech.measure import load_folder
from eval.transcribe import _parser, main, text_of
from tests.support.tiny_llm import write_tiny_llm

LIST = "Moskowitz, van Dyck."


@pytest.fixture(scope="module")
def tiny_llm(tmp_path_factory):
    return write_tiny_llm(tmp_path_factory.mktemp("llm") / "model")


@pytest.fixture(scope="module")
def reads(tiny_llm, tmp_path_factory) -> list[str]:
    """A recipe's settings."""
    words = tmp_path_factory.mktemp("words") / "words.txt"
    words.write_text("one\ntwo\ntree\nMoskowitz\nvan Dyck\n", encoding="utf-8")
    return ["student.prompt_reader.layers=1", f"student.prompt_reader.model={tiny_llm}",
            "student.prompt_reader.fallback_wheel=null", "views.previous_text_probability=0",
            f"student.prompt_reader.validation_words={words}", f"views.prompts.words={words}",
            "views.prompts.probability=1", "views.prompts.contents={words: 1}",
            "views.prompts.styles={none: 1, upper: 1}", "views.prompts.min_distractors=1",
            "views.prompts.max_distractors=2", "scores.encoder_states=none", "loss.kl_weight=0"]


def with_reader(model, tiny_llm, layers: int = 1, gate: float = 2.0):
    torch.manual_seed(3)
    add_reader(model, PromptReaderConfig(layers=layers, model=str(tiny_llm)), None)
    for layer in model.prompt_reader.layers:
        layer.gate.data.fill_(gate)
    return model.eval()


def test_pieces():
    assert pieces_of(None, "Moskowitz, van Dyck.") == ["Moskowitz", "van Dyck"]
    assert pieces_of("lower", "It rained. Then? Go;") == [
        "mr smith wrote it like this in 21 lines and thirty words", "It rained", "Then?", "Go"]
    assert pieces_of(None, "") == []


def test_the_students_own_embeddings(tiny_model, tiny_processor):
    read = OwnEmbeddings(tiny_model, lambda: tiny_processor.tokenizer)
    both, one, other = (read(pieces_of(None, text)) for text in (LIST, "Moskowitz", "van Dyck"))
    torch.testing.assert_close(both, torch.cat([one, other]))  # normed in other memory: rounding
    assert both.shape[1] == read.width == 32
    assert read([]) is None and read.ends("van Dyck")[-1] == 9


@pytest.mark.parametrize("own", [True, False])
def test_a_reader_begins_with_what_the_decoder_makes_of_frames(tiny_model, tiny_processor,
                                                               tiny_llm, own):
    config = PromptReaderConfig(layers=2, model=None if own else str(tiny_llm))
    add_reader(tiny_model, config, lambda: tiny_processor.tokenizer)
    start_copying(tiny_model, tiny_processor, ["Moskowitz", "van Dyck", "one", "two"])
    attention = tiny_model.model.decoder.layers[-1].encoder_attn
    text = tiny_model.prompt_reader.read(["Moskowitz"])
    for layer in tiny_model.prompt_reader.layers:
        assert not layer.gate and layer.nothing > 0
        written = layer.out_proj(layer.v_proj(text)) * tiny_model.get_encoder().layer_norm.weight
        said = attention.out_proj.weight @ attention.v_proj.weight @ written.T
        wanted = OwnEmbeddings(tiny_model, lambda: tiny_processor.tokenizer)(["Moskowitz"])
        assert torch.cosine_similarity(said.T, wanted).mean() > (0.5 if own else 0.2)


@pytest.mark.parametrize("states", ["last", "embeddings"])
def test_a_name_has_the_same_states_in_every_list(tiny_llm, states):
    config = PromptReaderConfig(layers=1, model=str(tiny_llm), states=states)
    read = TextStates(config, states)
    both, one, other = (read(pieces_of(None, text)) for text in (
        "Moskowitz, van Dyck.", "Moskowitz.", "van Dyck."))
    assert torch.equal(both, torch.cat([one, other])) and both.shape == (10 + 9, read.width)
    assert read([]) is None and read(pieces_of(None, " ")) is None
    torch.testing.assert_close(both.mean(-1), torch.zeros(19), rtol=0, atol=1e-3)
    with pytest.raises(ValueError, match="learned to read .* at other, and what was found"):
        _ = TextStates(config, states, "other").revision


def test_a_student_learns_to_read(tiny_run, reads, tmp_path):
    """Through a task: the reader alone learns, from states in memory or made at every step."""
    losses = {}
    for where in ("none", "memory"):
        task = tiny_run.task(tiny_run.recipe(*reads, f"scores.encoder_states={where}"))
        trained = [n for n, p in task.student.named_parameters() if p.requires_grad]
        assert trained and all(name.startswith("prompt_reader.") for name in trained)
        batch = task.collate([(0, 0), (1, 0), (2, 0), (3, 1)])
        assert sum(text is not None for text in batch["prompts"]) >= 2
        before = task.source.rules.special.previous
        assert not (batch["decoder_input_ids"] == before).any()  # the decoder reads none of it
        torch.manual_seed(0)
        for layer in task.student.prompt_reader.layers:
            torch.nn.init.normal_(layer.out_proj.weight, std=0.1)
            torch.nn.init.normal_(layer.v_proj.weight, std=0.1)
            torch.nn.init.zeros_(layer.q_proj.weight)
            layer.gate.data.fill_(0.5)
            layer.nothing.data.fill_(-5.0)
        losses[where] = task.model(batch)[0].item()
        empty = task.model(batch | {"prompts": [None] * 4})[0].item()
        assert losses[where] != pytest.approx(empty, rel=1e-4)
    assert losses["memory"] == pytest.approx(losses["none"], rel=1e-3)
    optimizer = torch.optim.Adam([p for p in task.student.parameters() if p.requires_grad], 1e-2)
    for _ in range(12):
        loss, _ = task.model(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert task.model(batch)[0] < losses["memory"] - 0.1
    found = task.validate()
    assert found["score"] == found["wer_with_lists"] and "wer" in found
    task.save(tmp_path)
    again, _ = load_folder(tmp_path)
    for name, value in task.student.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_the_decoder_learns_if_it_is_asked_to(tiny_run, reads):
    task = tiny_run.task(tiny_run.recipe(*reads, "student.prompt_reader.train_decoder=true"))
    trained = {n.split(".")[0] + "." + n.split(".")[1]
               for n, p in task.student.named_parameters() if p.requires_grad}
    assert trained == {"prompt_reader.layers", "model.decoder"}


def test_the_teacher_reads_with_its_decoder_what_the_student_hears(tiny_run, reads):
    """Its scores are those of the prompted text, token for token of the same label."""
    recipe = tiny_run.scored(*reads, "loss.kl_weight=1")
    task = tiny_run.task(recipe)
    view = task.source.view(0, 0)
    teacher, student = task.source.tokens(view), task.source.student_tokens(view)
    assert view.prompt and len(teacher.inputs) > len(student.inputs)
    assert teacher.num_valid == student.num_valid
    batch = task.collate([(0, 0), (1, 0)])
    _, parts = task.model(batch)
    assert parts["kl"] > 0


def test_some_prompts_are_dropped(tiny_run, reads):
    half = tiny_run.source(tiny_run.recipe(*reads, "student.prompt_reader.drop_probability=0.5"))
    none = tiny_run.source(tiny_run.recipe(*reads, "student.prompt_reader.drop_probability=0"))
    drawn = [(half.view(at, epoch), none.view(at, epoch))
             for at in range(len(half.rows)) for epoch in range(30)]
    kept = [one.prompt is not None for one, _ in drawn]
    assert 0.4 < sum(kept) / len(kept) < 0.6 and all(every.prompt for _, every in drawn)
    assert all(one == every for one, every in drawn if one.prompt)


def test_saved_beside_the_student(tiny_model, tiny_processor, tiny_llm, tmp_path, demo_data):
    """Who does not know of the reader reads the teacher's encoder."""
    plain = {name: value.clone() for name, value in tiny_model.state_dict().items()}
    save_student(with_reader(tiny_model, tiny_llm), tmp_path)
    tiny_processor.save_pretrained(tmp_path)
    theirs, info = WhisperForConditionalGeneration.from_pretrained(
        tmp_path, output_loading_info=True)
    assert not info["unexpected_keys"] and theirs.state_dict().keys() == plain.keys()
    assert all(torch.equal(value, plain[name]) for name, value in theirs.state_dict().items())
    ours, processor = load(str(tmp_path))
    settings = json.loads((tmp_path / SETTINGS).read_text())
    assert settings["layers"] == 1 and "validation_words" not in settings
    texts = texts_of(ours, None, [LIST, ""])
    assert texts[1] is None
    row = read_manifest(demo_data / "validation.jsonl")[0][0]
    from distill.data.audio import load_audio
    audio = load_audio(row.audio_filepath, row.offset, row.duration)
    features = audio_features(processor, [audio, audio], None)
    states = encode_about(ours, features, texts)
    assert torch.equal(states, encode_about(tiny_model, features, texts_of(
        tiny_model, None, [LIST, ""])))
    assert torch.equal(states[1], encode_features(theirs.eval().get_encoder(), features)[1])
    weights = load_file(tmp_path / WEIGHTS)
    save_file({name: value for name, value in weights.items() if "gate" not in name},
              tmp_path / WEIGHTS)
    with pytest.raises(ValueError, match="missing or unexpected: layers.0.gate"):
        attach(theirs, tmp_path)
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(ValueError, match="prompt_reader.safetensors is missing"):
        load(str(tmp_path))


def test_transcribe_gives_it_to_the_encoder(tiny_model, tiny_processor, tiny_llm, tmp_path,
                                            demo_data, monkeypatch):
    save_student(with_reader(tiny_model, tiny_llm, gate=9.0), tmp_path / "student")
    tiny_processor.save_pretrained(tmp_path / "student")
    (tmp_path / "notes.txt").write_text(LIST, encoding="utf-8")
    file = str(demo_data / "audio" / "agent-pass.ogg")
    command = [file, "--model", str(tmp_path / "student"), "--language", "en", "--no-vad"]
    asked = [*command, "--style-prompt", "upper", "--context", str(tmp_path / "notes.txt")]
    options = _parser().parse_args(asked)
    assert len(text_of(options, tiny_model)) == len(
        tiny_model.prompt_reader.read(pieces_of("upper", LIST)))
    assert text_of(_parser().parse_args(command), tiny_model) is None
    monkeypatch.setattr(sequential, "Fallback", lambda: GREEDY)
    heard = []
    monkeypatch.setattr(sequential, "encode_about", lambda model, features, texts, *rest: (
        heard.append(texts), encode_about(model, features, texts, *rest))[1])
    for each in (command, asked):
        assert main([*each, "--output-dir", str(tmp_path), "--overwrite"]) == 0
    assert heard[0] == [None] and torch.equal(heard[1][0], text_of(options, tiny_model))


def test_passes_of_the_evaluation(tiny_run, reads, tiny_model, tiny_processor, tiny_llm, tmp_path):
    recipe = tiny_run.recipe(*reads)
    rows = read_manifest(recipe.data.test[0])[0]
    utterances = evaluation_utterances(rows, "test", False)[0]
    model = with_reader(tiny_model, tiny_llm, gate=9.0)
    speaker = Speaker("student", lambda: (model, tiny_processor), recipe, utterances,
                      KeptPasses(tmp_path / "kept.jsonl", "key"), [], reads=True)
    plain = speaker.say("plain")
    lists = [["Moskowitz", "van Dyck"]] * len(rows)
    found = speaker.read("b/0", lists, plain)
    assert len(found) == len(rows) and found != plain
    assert speaker.read("none", [[]] * len(rows), plain) == plain
    assert speaker.styled("upper") != plain


def test_where_it_is_refused(tiny_run, reads, tiny_model, tiny_processor, tiny_llm, tmp_path):
    recipe = tiny_run.recipe(*reads, f"output_dir={tmp_path / 'run'}")
    model = with_reader(tiny_model, tiny_llm)
    with pytest.raises(ValueError, match="reads prompts: .* nothing drafts for it"):
        WhisperDecoder(model, tiny_processor.tokenizer, "en", student=tiny_model)
    save_student(model, tmp_path / "run" / "student")
    with pytest.raises(ValueError, match="export: the encoder of .* reads prompts"):
        export_student(recipe, "ct2")
    with pytest.raises(ValueError, match="layers must be at most the encoder's 2, got 3"):
        add_reader(tiny_model, PromptReaderConfig(layers=3, model=str(tiny_llm)), None)
    for key, message in (("scores.encoder_states=disk", "scores.encoder_states must be memory"),
                         ("teacher.mode=live", "teacher.mode must be store"),
                         ("student.freeze_encoder=false", "student.freeze_encoder must be true"),
                         ("views.prompts.probability=0", "views.prompts.probability must be > 0"),
                         ("student.prompt_reader.states=first", "states must be one of"),
                         ("student.prompt_reader.layers=-1", "layers must be >= 0"),
                         ("student.prompt_reader.drop_probability=2", "must be in"),
                         ("student.prompt_reader.validation_words=none.txt", "a text file")):
        with pytest.raises(ConfigError, match=message):
            tiny_run.recipe(*reads, key)


@pytest.mark.slow
def test_the_real_encoder_without_a_text(demo_teacher, tiny_llm, demo_data):
    """whisper-base, short audio and padded: bit for bit, whatever the other rows read."""
    import copy

    from distill.data.audio import load_audio
    model, processor = with_reader(copy.deepcopy(demo_teacher.model), tiny_llm, 2), (
        demo_teacher.processor)
    rows = read_manifest(demo_data / "test.jsonl")[0][:3]
    audios = [load_audio(row.audio_filepath, row.offset, row.duration) for row in rows]
    for margin in (1.0, None):
        features = audio_features(processor, audios, margin)
        plain = encode_features(demo_teacher.model.get_encoder(), features)
        found = encode_about(model, features, texts_of(model, None, ["", LIST, ""]))
        assert torch.equal(found[[0, 2]], plain[[0, 2]]) and not torch.equal(found[1], plain[1])


def test_a_label_is_the_same_whoever_reads_the_prompt(tiny_processor):
    from distill.whisper.data.collate import TokenRules
    from distill.whisper.special import SpecialTokens

    tokenizer = tiny_processor.tokenizer
    rules = TokenRules(SpecialTokens(tokenizer, None), "en", "transcribe", 448, False, tokenizer)
    row = {"id": "w", "language": "en", "prompt": [], "tokens": tokenizer(
        " It was van Dyck.", add_special_tokens=False).input_ids}
    view = View("w", False, False, prompt=Prompt("upper", "words", LIST))
    with_prompt, without = rules(row, view), rules(row, view, False)
    assert with_prompt.inputs[-len(without.inputs):] == without.inputs
    assert with_prompt.num_valid == without.num_valid
