from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import JSON, Table

from cloud.store.store import Store

ENGINES = ("sqlite", "postgresql")


def example(table: Table) -> dict[str, Any]:
    """A row that the table takes."""
    known = {int: 7, float: 7.5, str: "seven", bytes: b"\x00\xff", bool: True}
    return {
        column.name: {"seven": 7} if isinstance(column.type, JSON) else known[column.type.python_type]
        for column in table.columns
    }


@pytest.fixture(params=ENGINES)
def engine_name(request: pytest.FixtureRequest) -> str:
    """Every test that asks for it, or for what follows from it, runs on both."""
    return str(request.param)


@pytest.fixture
def new_url(engine_name: str, tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[str], str]:
    """Makes the URL of an empty store of the engine."""

    def make(name: str = "cloud") -> str:
        if engine_name == "sqlite":
            return f"sqlite:///{tmp_path / 'cloud' / name}.sqlite"
        url: str = request.getfixturevalue("postgres").new_database()
        return url

    return make


@pytest.fixture
def url(new_url: Callable[..., str]) -> str:
    """Of one empty store."""
    return new_url()


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    store = Store.open(url)
    yield store
    store.close()
