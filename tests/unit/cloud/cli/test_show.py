"""Tables for people, in the width of a terminal."""

import asyncio

import pytest
from rich.console import Console, RenderableType

from cloud.cli import show
from shared.views import DeploymentView, Explanation, ModelView
from tests.unit.cloud.api.fleet import FakeFleet, node_view


def drawn(what: RenderableType, width: int = 80) -> str:
    console = Console(width=width, no_color=True, highlight=False)
    with console.capture() as capture:
        console.print(what)
    return capture.get()


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (1 << 30, "1.0 GiB"), (1 << 50, "1024.0 TiB")],
)
def test_bytes_in_words(count: int, text: str) -> None:
    assert show.bytes_text(count) == text


@pytest.mark.parametrize(("age_s", "text"), [(None, "never"), (3.2, "3 s ago"), (600, "10 min ago")])
def test_ages_in_words(age_s: float | None, text: str) -> None:
    assert show.age_text(age_s) == text


@pytest.mark.parametrize("width", [80, 120])
def test_a_node_is_one_line_at_any_width(width: int) -> None:
    lines = drawn(
        show.nodes_table([node_view("edge-1", region="eu"), node_view("edge-2")]), width
    ).splitlines()
    assert len(lines) == 3
    assert "region=eu" in lines[1]


def test_an_empty_fleet_says_what_to_do() -> None:
    assert "shoal edge" in drawn(show.nodes_table([]))
    assert "shoal deploy" in drawn(show.models_table([]))
    assert "Nothing is deployed" in drawn(show.deployments_table([]))


def test_names_from_the_network_are_no_markup() -> None:
    text = drawn(show.node_page(node_view("edge-1", "offline", note="[red]x[/red][/]")), 120)
    assert "[red]x[/red][/]" in text
    model = ModelView(
        name="m", version="[bold]1", digest="0" * 64, kind="tensor", size_bytes=1, created_at_unix_s=0
    )
    assert "[bold]1" in drawn(show.models_table([model]))


async def _overview() -> str:
    return drawn(show.overview_page(await FakeFleet().overview()))


def test_the_overview_counts_what_there_is() -> None:
    text = asyncio.run(_overview())
    for part in ("1 idle", "1 offline", "digits on 1", "5 sent"):
        assert part in text


def test_a_failed_deployment_names_the_node_and_the_reason() -> None:
    rule = DeploymentView(
        model="m",
        version="1",
        digest="0",
        target="all",
        nodes=("a", "b"),
        ready=1,
        pending=0,
        failures={"b": "no room"},
    )
    assert "b: no room" in drawn(show.deployments_table([rule]))


def test_a_placement_is_explained_from_its_evidence() -> None:
    why = Explanation(
        request="me/1", model="m", chosen="", retried=True, candidates=(), excluded={"offline": 2}
    )
    text = drawn(show.why_page(why))
    assert "went to nobody (second try)" in text
    assert "left out: 2 offline" in text
