"""Lines for a person, objects for a collector, and nothing in them that nobody should read."""

import json
import logging
import re
from collections.abc import Iterator

import pytest

from broker.logs import configure_logging

LOG = logging.getLogger("edge.agent")


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def fail(password: str) -> None:
    try:
        raise ValueError(f"{len(password)} characters are too few")
    except ValueError:
        LOG.exception("refused")


def test_a_line_says_when_how_serious_what_and_who(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info")
    LOG.debug("not shown")
    LOG.info("round %d is open", 7)
    fail("hunter2")
    first, second, *traceback = capsys.readouterr().err.splitlines()
    stamp = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"
    assert re.fullmatch(stamp + r" \[info     \] round 7 is open +\[edge\.agent\]", first)
    assert re.fullmatch(stamp + r" \[error    \] refused +\[edge\.agent\]", second)
    assert traceback[0].startswith("Traceback")
    assert traceback[-1] == "ValueError: 7 characters are too few"
    assert not any("hunter2" in line or "\x1b" in line for line in (first, second, *traceback))


def test_an_object_a_line_holds_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("debug", json=True)
    LOG.debug("two\nlines")
    fail("hunter2")
    plain, failed = map(json.loads, capsys.readouterr().err.splitlines())
    assert plain == {
        "event": "two\nlines",
        "level": "debug",
        "logger": "edge.agent",
        "timestamp": plain["timestamp"],
    }
    assert failed["exception"].endswith("ValueError: 7 characters are too few")
    assert "hunter2" not in failed["exception"]


def test_a_terminal_sees_colours(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    configure_logging("warning")
    LOG.warning("late")
    assert "[\x1b[33mwarning  \x1b[0m]" in capsys.readouterr().err
