"""Errors that no Hub on loopback can cause, in sentences."""

import pytest

from distill.publish.refusals import explain


@pytest.mark.parametrize(
    ("error", "sentence", "may_pass"),
    [
        (FileNotFoundError(2, "No such file or directory", "model.safetensors"),
         "cannot read model.safetensors: No such file or directory", False),
        (ConnectionResetError("reset by peer"), "the connection to the Hub broke (reset", True),
        (RuntimeError("storage went away"), "broke (storage went away)", True),
        (PermissionError("storage token"), "no longer takes the token of HF_TOKEN", False),
    ],
)
def test_what_is_not_an_answer(error, sentence, may_pass, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "x")
    trouble = explain(error, "me/x", {"name": "me"})
    assert sentence in trouble.text and trouble.may_pass == may_pass


def test_what_an_upload_thread_raised_is_what_is_told():
    error = RuntimeError("Error while uploading 'model.safetensors' to the Hub.")
    error.__cause__ = TimeoutError("timed out")
    assert "timed out" in explain(error, "me/x", None).text
