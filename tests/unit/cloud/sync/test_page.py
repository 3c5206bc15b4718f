"""docs/sync.md promises what the design promised, and a test shows each promise."""

import re
from pathlib import Path

import pytest

from shared.sync import ConsistencyLevel, SyncStrategy

ROOT = Path(__file__).parents[4]
PAGE = (ROOT / "docs" / "sync.md").read_text()


def table(begins: str) -> list[list[str]]:
    """The rows of a table, the heading first."""
    lines = PAGE[PAGE.index(begins) :].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "---" not in line]


PROMISES = table("| level | a write")
SHOWN = table("| level | promise")[1:]


def test_every_level_and_strategy_has_its_row() -> None:
    assert [row[0].lower() for row in PROMISES[1:]] == list(ConsistencyLevel)
    rows = table("| strategy |")[1:]
    assert [row[0].lower().replace("_", "-") for row in rows] == list(SyncStrategy)


@pytest.mark.parametrize(
    ("level", "promise"), [(row[0], promise) for row in PROMISES[1:] for promise in PROMISES[0][1:]]
)
def test_every_promise_has_a_test(level: str, promise: str) -> None:
    assert [row for row in SHOWN if row[:2] == [level, promise]]


@pytest.mark.parametrize("test", [row[2].strip("`") for row in SHOWN])
def test_every_test_is_there(test: str) -> None:
    path, _, name = test.partition("::")
    assert re.search(rf"^def {name}\(", (ROOT / path).read_text(), re.MULTILINE)


@pytest.mark.parametrize("level", ["STRONG", "EVENTUAL", "WEAK"])
def test_the_words_that_matter_are_kept(level: str) -> None:
    (row,) = [row for row in PROMISES[1:] if row[0] == level]
    words = {
        "STRONG": "journaled fsync majority linearizable stale indeterminate never later once",
        "EVENTUAL": "disk local field cloud device hybrid kept queued compacted",
        "WEAK": "QoS missing last dropped counted",
    }
    assert [word for word in words[level].split() if word not in " ".join(row)] == []
