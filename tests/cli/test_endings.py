"""Commands end in one sentence and an exit code that says of which kind it was."""

import errno
import io
import os
import signal

import pytest

from distill.endings import OutputError, Stopped, run, writing_to


def ends(main) -> int | str | None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as exit_:
            run(main, [])
    finally:
        signal.signal(signal.SIGTERM, before)
    return exit_.value.code


def raises(error):
    def main(_):
        raise error
    return main


def test_exit_codes_and_sentences(tmp_path, capsys):
    def full(_):
        with writing_to(tmp_path / "run"):
            raise OSError(errno.ENOSPC, "No space left on device")

    def torch_full(_):
        with writing_to(tmp_path / "run"):
            raise RuntimeError("[enforce fail at inline_container.cc:603] . unexpected pos 64")

    def forbidden(_):
        (tmp_path / "file").write_text("")
        (tmp_path / "file" / "below").mkdir()

    def terminated(_):
        os.kill(os.getpid(), signal.SIGTERM)

    assert ends(raises(ValueError("bad key"))) == "error: bad key"
    cases = [(full, 2, f"cannot write to {tmp_path}/run: No space left on device"),
             (full, 2, "MB are free there. What is complete is kept; with that mended, the same"),
             (torch_full, 2, f"cannot write to {tmp_path}/run: "),
             (forbidden, 2, f"cannot read or write in {tmp_path}/file: Not a directory (below)"),
             (terminated, 130, "Stopped."),
             (raises(Stopped("stopped; 3 of 9 shards are there")), 130, "3 of 9 shards")]
    for main, code, sentence in cases:
        assert ends(main) == code
        assert sentence in capsys.readouterr().err


def test_what_a_terminal_cannot_show_is_no_reason_to_end(monkeypatch):
    for encoding, shown in (("utf-8", b"\xc3\xa9 \\udce9\n"), ("ascii", b"\\xe9 \\udce9\n")):
        screen = io.BytesIO()
        with monkeypatch.context() as patch:
            patch.setattr("sys.stdout", io.TextIOWrapper(screen, encoding))
            run(lambda _: print("é \udce9"), [])
            assert screen.getvalue() == shown
            patch.setattr("sys.stdout", None)  # of `command >&-`
            run(lambda _: print("nobody reads this"), [])


def test_what_is_no_disk_keeps_its_traceback(tmp_path):
    for error in (KeyError("ours"), ConnectionError("of the network"), RuntimeError("CUDA")):
        with pytest.raises(type(error)):
            run(raises(error), [])
        with pytest.raises(type(error)), writing_to(tmp_path):
            raise error
    with pytest.raises(ValueError), writing_to(tmp_path):
        raise ValueError("No space left in the recipe")
    assert str(OutputError("sentence")) == "sentence"
