"""Whatever a log record says, it stays on one line and in one direction."""

from __future__ import annotations

import logging
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhelp_secure.logs import OneLineFormatter, one_line

HOSTILE = (
    "name\x1b[2J\x1b]0;owned\x07\r\n2026-01-01T00:00:00Z CRITICAL root: forged\u202egnp\x9b1m\0"
)


def record(message: str, *, error: BaseException | None = None) -> logging.LogRecord:
    info = None if error is None else (type(error), error, error.__traceback__)
    return logging.LogRecord("x", logging.ERROR, "x.py", 1, "%s", (message,), info)


@given(st.text())
def test_any_text_becomes_one_printable_line(text: str) -> None:
    assert one_line(text).isprintable()


@given(st.text(st.characters(categories=["L", "N", "P", "S"])))
def test_what_is_printable_stays(text: str) -> None:
    assert one_line(text) == text


def test_lone_surrogates_of_file_names_are_escaped() -> None:
    assert one_line("a\udcffb") == r"a\udcffb"


def test_a_record_is_one_line_with_visible_escapes() -> None:
    line = OneLineFormatter().format(record(HOSTILE))
    assert line.isprintable()
    for escape in (r"\x1b[2J", r"\r\n", r"\u202e", r"\x9b", r"\x00"):
        assert escape in line


def test_no_line_of_a_traceback_looks_like_a_record() -> None:
    try:
        raise ValueError(HOSTILE)
    except ValueError as error:
        text = OneLineFormatter().format(record("failed", error=error))
    first, *others = text.split("\n")
    assert first.endswith("ERROR x: failed")
    assert len(others) > 2
    assert all(line.startswith("  | ") and line.isprintable() for line in others)
    assert "forged" in text


def test_the_formatter_says_utc() -> None:
    made = record("x")
    made.created = 0.0
    assert OneLineFormatter().format(made) == "1970-01-01T00:00:00Z ERROR x: x"


@pytest.mark.skipif(sys.platform == "win32", reason="ends of lines")
def test_stack_information_is_kept_behind_bars() -> None:
    made = record("x")
    made.stack_info = "Stack (most recent call last):\n  here"
    assert OneLineFormatter().format(made).split("\n")[1:] == [
        "  | Stack (most recent call last):",
        "  |   here",
    ]
