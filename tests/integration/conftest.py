"""One real fleet for the tests of the API and of the command line: broker, cloud and two devices."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fleet import EXAMPLE, RunningFleet, running_fleet


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFleet]:
    with running_fleet(tmp_path_factory.mktemp("fleet"), devices=2) as running:
        yield running


@pytest.fixture(scope="session")
def with_digits(fleet: RunningFleet) -> RunningFleet:
    """The same fleet once both devices hold the digits model, put there by the command."""
    said = fleet.shoal("deploy", EXAMPLE / "digits.shoal", "--wait", "--json")
    assert said.json["model"] == "digits", said
    return fleet


@pytest.fixture
def folder(fleet: RunningFleet) -> Path:
    return fleet.folder
