"""The real client of the Hub sends a student to a Hub on loopback: once, and what differs."""

import json

import pytest

from tests.support.hub.repository import Blob, Fault

REPO = "somebody/tiny-student"
SENT = {
    "README.md", "results.json", "training_config.yaml", "config.json", "generation_config.json",
    "model.safetensors", "tokenizer.json", "tokenizer_config.json", "processor_config.json",
    "preprocessor_config.json", "plots/1-quality.svg", "plots/2-speed.svg", "plots/3-loss.svg",
}


def repository(hub):
    return hub.repos["model", REPO]


def test_everything_in_one_private_commit(trained, hub, push):
    said = push(trained)
    there = repository(hub)
    assert there.private and len(there.commits) == 2  # the Hub's own, and ours
    assert set(there.files) == SENT | {".gitattributes"}
    student = trained / "runs/tiny/student"
    assert all(there.files[name].content == (student / name).read_bytes() for name in SENT)
    assert "Student of openai/whisper-base" in there.commits[1][1]
    assert f"Published: {hub.address}/{REPO}/commit/{there.head}" in said and "private" in said
    assert there.files["model.safetensors"].is_lfs and not there.files["README.md"].is_lfs
    assert hub.count(r"PUT /storage/\w+/\d+") > 1  # in parts


def test_nothing_of_the_machine_is_sent(trained, first_run, hub, push):
    push(trained)
    for name, blob in repository(hub).files.items():
        if not blob.is_lfs:
            text = blob.content.decode()
            assert str(trained) not in text and str(first_run) not in text, name
            assert "not for others" not in text, name
    config = repository(hub).files["training_config.yaml"].content.decode()
    assert "corpus/train.jsonl" in config and "output_dir" not in config


def test_a_second_push_without_a_change_makes_no_commit(trained, hub, push):
    push(trained)
    hub.log.clear()
    assert "Nothing to do" in push(trained)
    assert len(repository(hub).commits) == 2
    assert hub.count("^POST") == 0 and hub.count("^PUT") == 0  # nothing but questions


def test_a_changed_file_is_sent_alone(trained, hub, push):
    push(trained)
    hub.log.clear()
    path = trained / "runs/tiny/student/generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"max_new_tokens": 99}))
    assert "Sent 1 of 13 files" in push(trained)
    before, after = (files for _, _, files in repository(hub).commits[1:])
    assert [n for n in after if after[n] != before.get(n)] == ["generation_config.json"]
    assert hub.count("/commit/") == 1 and hub.count("^PUT") == 0


def test_weights_of_an_older_student_go_and_what_others_added_stays(trained, hub, push):
    push(trained)
    there = repository(hub)
    old = "model-00001-of-00002.safetensors"
    added = ("demo.ipynb", "examples/train_ced.py", "plots/mine/x.svg", "other/config.json")
    more = {old: Blob(b"old", True), "plots/9-old.svg": Blob(b"old", False)}
    more |= {name: Blob(b"{}", False) for name in added}
    there.commit("by hand", there.files | more)
    assert f"removed {old}, plots/9-old.svg" in push(trained)
    assert set(there.files) == SENT | {".gitattributes", *added}


def test_dry_run_asks_nobody(trained, hub, push, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    said = push(trained, "hub.dry_run=true")
    assert not hub.log and not hub.repos
    student = trained / "runs/tiny/student"
    for name in SENT:
        assert name in said
    size = (student / "model.safetensors").stat().st_size
    assert f"{size / 1e3:.1f} kB" in said and "private model, in one commit" in said
    assert "optimizer.bin" not in said and "notes.txt" not in said


def test_public_if_asked(trained, hub, push):
    assert "is public" in push(trained, "hub.private=false")
    assert not repository(hub).private


# What can go wrong on the way; the student of `sharded` has several weight files


def weights(folder) -> dict[str, int]:
    """SHA-256 -> size of the weight files."""
    files = sorted((folder / "runs/tiny/student").glob("*.safetensors"))
    return {Blob(path.read_bytes(), True).sha256: path.stat().st_size for path in files}


@pytest.mark.parametrize(
    "fault",
    [
        Fault("status", "GET /api/whoami", status=503),
        Fault("status", "POST .*/preupload/", times=2),
        Fault("status", "POST .*/commit/"),
        Fault("status", "PUT /storage/", times=3),
        Fault("cut", "PUT /storage/", times=2),
        Fault("lost", "PUT /storage/"),
        Fault("lost", "POST .*/commit/"),  # made, but the answer never came
        Fault("lost", "POST /api/repos/create"),
        Fault("slow", "PUT /storage/", times=1000),
    ],
    ids=lambda fault: f"{fault.what} {fault.pattern.split('/')[-2]}",
)
def test_a_fault_that_passes_is_got_over(hub, send, fault):
    hub.faults.append(fault)
    send()
    assert fault.times < 1000 and len(repository(hub).commits) == 2
    assert set(repository(hub).files) == SENT | {".gitattributes"}


def test_a_broken_push_goes_on_where_it_was(sharded, hub, push):
    sizes = weights(sharded)
    last = list(sizes)[-1]
    assert len(sizes) > 2
    broken = Fault("cut", f"PUT /storage/{last}", times=10**6)
    hub.faults.append(broken)
    with pytest.raises(ValueError, match="connection to the Hub broke.*run the same command again"):
        push(sharded)
    assert len(repository(hub).commits) == 1 and set(sizes) - set(hub.objects) == {last}
    broken.times, hub.received = 0, 0
    push(sharded)
    assert len(repository(hub).commits) == 2
    assert hub.received == sizes[last]  # what had arrived was not sent again


def test_a_token_that_expires_while_uploading(sharded, hub, push, monkeypatch):
    tokens = dict(hub.tokens)
    hub.faults.append(Fault("call", "POST .*/commit/", call=hub.tokens.clear))
    with pytest.raises(ValueError, match="no longer takes the token of HF_TOKEN.*hf auth login"):
        push(sharded)
    assert len(repository(hub).commits) == 1
    hub.tokens, hub.received = {"hf_new": tokens["hf_good"]}, 0
    monkeypatch.setenv("HF_TOKEN", "hf_new")
    push(sharded)
    assert len(repository(hub).commits) == 2 and hub.received == 0


def test_somebody_else_commits_meanwhile(trained, hub, push):
    """What they did stays, and ours comes after it."""
    push(trained, "hub.private=true")
    there = repository(hub)
    path = trained / "runs/tiny/student/generation_config.json"
    path.write_text(path.read_text() + " ")
    theirs = there.files | {"notes.md": Blob(b"theirs", False)}
    hub.faults.append(Fault("call", "POST .*/commit/",
                            call=lambda: there.commit("by hand", theirs)))
    assert "Sent 1 of 13" in push(trained)
    assert [message for _, message, _ in there.commits][2:] == [
        "by hand", "Student of openai/whisper-base"]
    assert there.files["notes.md"].content == b"theirs"
    assert there.files["generation_config.json"].content == path.read_bytes()


def test_a_hub_that_stays_broken(hub, send):
    hub.faults.append(Fault("status", "POST .*/commit/", times=10**6, status=502))
    with pytest.raises(ValueError, match=r"has trouble \(502\). What arrived is kept"):
        send()
    assert len(repository(hub).commits) == 1


# What is refused


@pytest.mark.parametrize(
    ("token", "repo", "sentence"),
    [
        ("", REPO, r"no login for the Hub\..*hf auth login.*HF_TOKEN"),
        ("hf_wrong", REPO, "does not know the token of HF_TOKEN: it is mistyped, revoked or exp"),
        ("hf_read", REPO, r"may only read\. Make a token with write access"),
        ("hf_fine", REPO, "fine-grained and has no right to write to somebody/tiny-student"),
        ("hf_good", "other/x", r"other is somebody else \(you can write to somebody, somebody-lab"),
        ("hf_good", "other/open", r"somebody may not write to other/open: other is somebody else"),
        ("hf_good", "other/secret", "other is somebody else"),
    ],
)
def test_what_the_hub_refuses(hub, send, monkeypatch, token, repo, sentence):
    from tests.support.hub.repository import Repository

    hub.repos["model", "other/open"] = Repository(private=False)
    hub.repos["model", "other/secret"] = Repository(private=True)
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(ValueError, match=sentence) as refused:
        send(repo, private=False)
    assert "http" not in str(refused.value) and "\n" not in str(refused.value)
    assert hub.count("PUT") == 0


def test_a_public_repository_is_not_taken_for_a_private_one(hub, send):
    send(private=False)
    with pytest.raises(ValueError, match="public repository but hub.private is true.*false"):
        send()
    assert len(repository(hub).commits) == 2


def test_no_network(hub, send, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="HF_HUB_OFFLINE is set.*unset it"):
        send()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ValueError, match=f"hub.repo_id={REPO}: the connection to the Hub broke"):
        send()
