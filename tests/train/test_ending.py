"""Bad input ends a command with one sentence and a status; a bug keeps its trace."""

import pytest

from medjax.data.boundary import DataError
from medjax.train.ending import ends_in_words


def failing(error):
    @ends_in_words
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (DataError("a.csv:3: two\nlines"), "a.csv:3: two lines"),
        (OSError(28, "No space left on device", "run/x"), "run/x: No space left"),
        (PermissionError(13, "Permission denied"), "Permission denied"),
        (ImportError("no pydicom"), "no pydicom"),
        (ValueError(), "ValueError"),
    ],
)
def test_what_was_foreseen_is_one_line_and_status_1(error, line, capsys, monkeypatch):
    monkeypatch.delenv("MEDJAX_TRACEBACK", raising=False)
    assert failing(error)() == 1
    printed = capsys.readouterr()
    assert printed.err.startswith(f"error: {line}") and printed.err.count("\n") == 1
    assert not printed.out
    monkeypatch.setenv("MEDJAX_TRACEBACK", "1")
    with pytest.raises(type(error)):
        failing(error)()


def test_a_bug_is_not_hidden():
    with pytest.raises(AttributeError):
        failing(AttributeError("x"))()
    with pytest.raises(KeyError):
        failing(KeyError("x"))()


def test_readers_may_document_more(capsys):
    def main():
        raise KeyError("scan.h5: no 'kspace'")

    assert ends_in_words(main, also=(LookupError,))() == 1
    assert capsys.readouterr().err == "error: scan.h5: no 'kspace'\n"


@pytest.mark.parametrize(("status", "expected"), [(None, 0), (0, 0), (75, 75)])
def test_the_status_of_the_command_passes(status, expected):
    assert ends_in_words(lambda: status)() == expected
