"""The reference pages and the broker's files say what the code says; links lead somewhere."""

import re
from enum import Enum
from pathlib import Path

import pytest

from broker.mosquitto import HEADER_BYTES_MAX, PACKET_BYTES_MAX, Mosquitto, configuration
from docs import generate
from shared.topics import ALL

ROOT = generate.ROOT
PAGES = [
    ROOT / "README.md",
    ROOT / "ARCHITECTURE.md",
    ROOT / "CHANGELOG.md",
    *sorted(ROOT.glob("docs/**/*.md")),
]
LINK = re.compile(r"\[[^\]]+\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)")


def test_generated_files_are_what_the_code_says_now() -> None:
    assert generate.lagging() == [], "run `make docs`"


def test_a_changed_page_is_noticed_and_mended(tmp_path: Path) -> None:
    generate.write(tmp_path)
    assert generate.lagging(tmp_path) == []
    page = tmp_path / "docs/topics.md"
    page.write_text(page.read_text().replace("| 1 | yes |", "| 0 | yes |", 1))
    (tmp_path / "docs/states.md").unlink()
    assert generate.lagging(tmp_path) == ["docs/topics.md", "docs/states.md"]
    generate.write(tmp_path)
    assert generate.lagging(tmp_path) == []


def test_every_topic_and_message_is_on_the_page() -> None:
    page = generate.topics_page()
    for topic in ALL:
        assert f"| `{topic.pattern}` |" in page
        assert f"### {topic.message.__name__}\n" in page


def test_a_diagram_shows_the_starts_the_moves_and_the_ends() -> None:
    Light = Enum("Light", ["GREEN", "RED", "BROKEN", "SPARE"])
    table = {
        Light.GREEN: {Light.RED},
        Light.RED: {Light.GREEN, Light.BROKEN},
        Light.BROKEN: set(),
        Light.SPARE: {Light.GREEN},
    }
    page = generate.states_page({"shared.ids": table})
    assert [line.strip() for line in page.splitlines() if line.startswith("    ")] == [
        "[*] --> green",
        "[*] --> spare",
        "green --> red",
        "red --> green",
        "red --> broken",
        "broken --> [*]",
        "spare --> green",
    ]


def test_mosquitto_takes_the_largest_message_of_the_table_and_not_much_more() -> None:
    largest = max(topic.bytes_max for topic in ALL)
    assert largest + HEADER_BYTES_MAX == PACKET_BYTES_MAX
    assert f"\nmax_packet_size {PACKET_BYTES_MAX}\n" in configuration(Mosquitto())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    missing = [link for link in LINK.findall(page.read_text()) if not (page.parent / link).exists()]
    assert missing == []


def test_paths_that_the_architecture_names_exist() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    named = set(re.findall(r"`((?:shared|broker|edge|cloud|tests|docs|examples|docker)/[\w./]*)`", text))
    assert len(named) > 10
    assert sorted(path for path in named if not (ROOT / path).exists()) == []


def test_make_targets_that_the_pages_name_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        named = set(re.findall(r"`make ([a-z-]+)`", page.read_text()))
        assert named <= targets, page
