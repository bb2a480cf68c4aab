"""Students as transformers uses them: `generate` and the pipeline, told nothing about them."""

import numpy as np
import pytest
import torch
from transformers import WhisperForConditionalGeneration, WhisperProcessor, pipeline

from distill.data.audio import load_audio
from distill.data.manifest import read_manifest
from distill.metrics.error_rates import error_counts, error_rate
from distill.metrics.normalize import normalizer
from distill.whisper.decoding.whisper_decoder import WhisperDecoder
from distill.whisper.encoder.padded import encode, log_mel
from distill.whisper.generation import complete
from distill.whisper.recognition.transcribe import to_text
from distill.whisper.special import SpecialTokens
from distill.whisper.student import make_student
from distill.whisper.teacher import load_teacher

TASK = "automatic-speech-recognition"
WAYS = ({}, {"return_timestamps": True}, {"return_timestamps": "word"},
        {"chunk_length_s": 30, "batch_size": 2},
        {"chunk_length_s": 10, "batch_size": 2, "return_timestamps": "word"})


def saved(folder, teacher, processor, layers, languages, task="transcribe", change=None):
    """Folder of a student as a run leaves it."""
    if change is not None:
        change(teacher.generation_config)
    student = make_student(teacher, layers, list(range(teacher.config.encoder_layers)))
    special = SpecialTokens(processor.tokenizer, teacher.generation_config)
    complete(student.generation_config, special, languages, task, context=448)
    student.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def prompts(recogniser, sound, **way) -> list[list[str]]:
    """What the decoder reads first, of every call of a pipeline."""
    seen, start = [], recogniser.tokenizer.convert_tokens_to_ids("<|startoftranscript|>")

    def keep(_module, arguments, options):
        ids = options.get("input_ids", arguments[0] if arguments else None)
        if ids is not None and ids[0, 0] == start:  # otherwise a text goes on
            seen.extend(ids.tolist())

    decoder = recogniser.model.get_decoder()
    hook = decoder.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        found = recogniser([sound.copy(), sound[:16000].copy()], **way,
                           generate_kwargs={"max_new_tokens": 12})
    finally:
        hook.remove()
    assert len(found) == 2 and all(isinstance(each["text"], str) for each in found)
    for each in found:
        times = [t for chunk in each.get("chunks", []) for t in chunk["timestamp"]]
        known = [t for t in times if t is not None]
        assert known == sorted(known) and all(t >= 0 for t in known)
    return [recogniser.tokenizer.convert_ids_to_tokens(row) for row in seen]


@pytest.fixture
def sound(demo_data) -> np.ndarray:
    return load_audio(demo_data / "audio" / "agent-pass.ogg")


def english_only(config):
    config.is_multilingual = False
    config.language, config.task = "en", "transcribe"


def old(config):  # of a teacher that was fine-tuned long ago
    config.language, config.forced_decoder_ids = "de", [[1, 259], [2, 262]]
    for key in ("lang_to_id", "task_to_id", "no_timestamps_token_id", "prev_sot_token_id"):
        delattr(config, key)


CASES = {  # name: languages, task, change, what is read before the first word, ways
    "one": ({"en"}, "transcribe", None, ["<|en|>", "<|transcribe|>"], WAYS),
    "several": ({"en", "de"}, "transcribe", None, [None, "<|transcribe|>"], WAYS[1:2]),
    "english": ({"en"}, "transcribe", english_only, [], WAYS[1:3]),
    "translate": ({"de"}, "translate", None, ["<|de|>", "<|translate|>"], WAYS[1:2]),
    "detected": ({None}, "transcribe", old, [None, "<|transcribe|>"], WAYS[1:2]),
    "old": ({"zh"}, "transcribe", old, ["<|zh|>", "<|transcribe|>"], WAYS[:1]),
}


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=[pytest.mark.slow] * (name in ("translate", "detected")))
    for name in CASES])
def test_what_the_decoder_is_asked_for(tiny_model, tiny_processor, sound, tmp_path, name):
    """Language and task, whatever is asked for; a `.en` student knows neither."""
    languages, task, change, wanted, ways = CASES[name]
    folder = saved(tmp_path, tiny_model, tiny_processor, [0, 3], languages, task, change)
    recogniser = pipeline(TASK, model=str(folder))
    for way in ways:
        read = [row[row.index("<|startoftranscript|>") + 1 :]
                for row in prompts(recogniser, sound, **way)]
        assert read, way
        end = [] if "return_timestamps" in way else ["<|notimestamps|>"]
        for row in read:
            if not row:  # the language is being detected
                continue
            expected = [*(a or b for a, b in zip(wanted, row, strict=False)), *end]
            assert row[: len(expected)] == expected, (way, row)
            assert None not in wanted or row[0] in ("<|en|>", "<|de|>", "<|zh|>")


def test_pipelines_and_generate_say_what_we_do(tiny_model, tiny_processor, sound, tmp_path):
    """Greedy, as students are measured: a pipeline would search with five beams by itself."""
    with torch.no_grad():
        tiny_model.model.decoder.embed_tokens.weight[267:] = 0
    folder = saved(tmp_path / "student", tiny_model, tiny_processor, [0, 3], {"en"})
    model = WhisperForConditionalGeneration.from_pretrained(folder).eval()
    processor = WhisperProcessor.from_pretrained(folder)
    (ours,) = WhisperDecoder(model, processor.tokenizer, "en", on_loop="keep")(
        encode(model, log_mel(processor, [sound])), [448])
    features = processor(sound, sampling_rate=16_000, return_tensors="pt").input_features
    (theirs,) = model.generate(features).tolist()  # it does not forbid timestamps
    assert [token for token in theirs if token != model.config.eos_token_id] == ours.tokens
    recogniser = pipeline(TASK, model=str(folder))
    said = recogniser(sound.copy())["text"]
    assert said.strip() == to_text(processor.tokenizer, ours.tokens)
    assert not hasattr(model.generation_config, "return_timestamps")  # False: nothing over 30 s
    assert model.generation_config.num_beams == 1
    other = model.generate(features, language="de")  # may still be told otherwise
    assert other.shape[0] == 1


def test_a_run_says_the_language_of_its_labels(tiny_run):
    task = tiny_run.task(tiny_run.recipe())
    config = task.student.generation_config
    assert (config.language, config.task) == ("en", "transcribe")
    task.source.rows[0] = {**task.source.rows[0], "language": "de"}
    config = task._make_student(load_teacher(task.recipe.teacher).model).generation_config
    assert not hasattr(config, "language") and config.task == "transcribe"  # it is detected


@pytest.mark.slow
def test_the_real_teacher_in_all_ways(demo_teacher, demo_data, tmp_path):
    """A student with all of its layers: error rates as our own decoding has them."""
    folder = saved(tmp_path / "student", demo_teacher.model, demo_teacher.processor,
                   list(range(6)), {"en"})
    rows = read_manifest(demo_data / "test.jsonl")[0][1:9]
    sounds = [load_audio(row.audio_filepath, row.offset, row.duration) for row in rows]
    references = [row.text for row in rows]
    clean = normalizer("english", "en")

    def rate(texts, references=references) -> float:
        return error_rate([error_counts(clean(r), clean(t))
                           for r, t in zip(references, texts, strict=True)])

    model, processor = demo_teacher.model, demo_teacher.processor
    decoder = WhisperDecoder(model, processor.tokenizer, "en", on_loop="keep")
    with torch.inference_mode():
        ours = rate([to_text(processor.tokenizer, decoder(encode(model, log_mel(
            processor, [sound])), [440])[0].tokens) for sound in sounds])
    recogniser = pipeline(TASK, model=str(folder))
    for way in WAYS[:4]:
        found = recogniser([sound.copy() for sound in sounds], **way)
        assert rate([each["text"] for each in found]) == pytest.approx(ours, abs=0.05), way
        for each, sound in zip(found, sounds, strict=True):
            times = [t for chunk in each.get("chunks", []) for t in chunk["timestamp"]]
            assert None not in times and all(t <= len(sound) / 16000 + 0.5 for t in times)
            assert sum(b < a for a, b in zip(times, times[1:], strict=False)) <= 1
        if "chunk_length_s" in way or "word" in way.values():
            continue
        long = recogniser(np.concatenate(sounds), **way)["text"]  # 36 s: over a window
        assert rate([long], [" ".join(references)]) < ours + 0.1, way
