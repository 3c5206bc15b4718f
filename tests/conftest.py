from collections.abc import Iterator

import pytest

from tests.support.postgres import FAST, Postgres


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One cluster for all tests of this process; each test takes a database of its own from it."""
    cluster = Postgres(FAST).start()
    yield cluster
    cluster.remove()
