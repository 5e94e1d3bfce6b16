"""Progress off the terminal: plain lines, now and then and when all is done."""

import io
import sys

from common import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_off_the_terminal_a_line_now_and_then_and_at_the_end(capsys, monkeypatch):
    clock = iter([0, 3, 11, 11, 12, 12])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(progress, "LINE_SECONDS", 10)
    assert list(progress.counted("abc", "scoring", total=3, unit="case")) == ["a", "b", "c"]
    assert capsys.readouterr().err == "    scoring 2/3\n    scoring 3/3\n"


def test_what_was_done_before_counts(capsys):
    with progress.Progress("scoring", 5, unit="case", done=3) as shown:
        shown.update(2)
    assert capsys.readouterr().err == "    scoring 5/5\n"


def test_on_a_terminal_it_is_drawn_in_place(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    list(progress.counted("ab", "scoring", total=2, unit="case"))
    assert "\n" not in sys.stderr.getvalue()
    assert "scoring" in sys.stderr.getvalue()
