from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.support.postgres import FAST, Postgres

# How long an example takes says something about the machine, and nothing about the code.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One cluster for all tests of this process; each test takes a database of its own from it."""
    cluster = Postgres(FAST).start()
    yield cluster
    cluster.remove()
