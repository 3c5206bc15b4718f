"""Everything that survives a restart of the cloud. See :class:`Store`."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from sqlalchemy import URL, select

from cloud.artifacts.entry import Entry
from cloud.rollout.events import NodeDesired
from cloud.rollout.rules import Key, Rule
from cloud.store.database import Database, alone, remove, replace, rows, upsert
from cloud.store.engine import open_engine
from cloud.store.rows import (
    birth_of,
    birth_row,
    entry_of,
    entry_row,
    orders_of,
    orders_row,
    task_of,
    task_row,
)
from cloud.store.sync import SqlSync
from cloud.store.tables import DEPLOYMENTS, DESIRED, META, MODELS, NODES, TASKS
from cloud.store.telemetry import SqlTelemetry
from cloud.tasks.core import Task
from shared.messages import Birth

DATABASE_FILE = "shoal.db"  # in the cloud's data folder, where no other store is configured


class Store:
    """One database. Each method is one transaction: when it returns, what it wrote is durable, all of it.

    Methods block (a commit waits for the disk), so services call them through ``asyncio.to_thread``; any
    number of threads may. All raise :class:`StoreFailed`. A write that failed may be repeated: all are
    idempotent except :meth:`next_term`, where a repeat skips a number.

    It is what the capabilities call ``NodeStore``, ``CatalogStore``, ``RolloutStore`` and ``TaskStore``;
    ``telemetry`` is the ``TelemetryStore``, ``sync`` the ``SyncStore``.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.telemetry = SqlTelemetry(database)
        self.sync = SqlSync(database)

    @classmethod
    def open(cls, url: str) -> "Store":
        """Connect and bring the tables to the newest form. Raises :class:`ConfigError`.

        ``url`` as in SQLAlchemy: ``sqlite:///path/to/file`` (the folder is made) or ``postgresql://...``.
        """
        return cls(Database(open_engine(url)))

    @staticmethod
    def url_of(path: Path) -> str:
        """The URL of an SQLite file, whatever characters its path has."""
        return URL.create("sqlite", database=str(path)).render_as_string()

    def close(self) -> None:
        """Give the connections back. Nothing is written here: all was durable already."""
        self._database.close()

    def next_term(self, unix_s: float) -> int:
        """The number of this start of the cloud: larger than any before, durable when this returns.

        At least the clock's time, so that it still grows when the store was lost or restored from a backup.
        """
        with self._database.transaction() as connection:
            alone(connection, META)
            last = connection.scalar(select(META.c.value).where(META.c.name == "term")) or 0
            term = max(last + 1, int(unix_s))
            replace(connection, META, ("name",), [{"name": "term", "value": term}])
            return term

    # Nodes ------------------------------------------------------------------------------------------

    def load_births(self) -> dict[str, Birth]:
        """The newest birth of every node ever saved, by name."""
        return dict(map(birth_of, self._database.rows(NODES, NODES.c.node)))

    def save_birth(self, node: str, birth: Birth, at_unix_s: float) -> None:
        """Add or replace; the day it was first seen stays what it was."""
        row = birth_row(node, birth, at_unix_s)
        with self._database.transaction() as connection:
            upsert(connection, NODES, [row], keep=("first_seen_unix_s",))

    # Models -----------------------------------------------------------------------------------------

    def load_catalog(self) -> tuple[Entry, ...]:
        """Every artifact, oldest first."""
        return tuple(map(entry_of, self._database.rows(MODELS, MODELS.c.created_at_unix_s)))

    def save_entry(self, entry: Entry) -> None:
        """Add an artifact, or replace the one with its digest."""
        with self._database.transaction() as connection:
            replace(connection, MODELS, ("digest",), [entry_row(entry)])

    # Rollout ----------------------------------------------------------------------------------------

    def load_rollout(self) -> tuple[tuple[Rule, ...], tuple[NodeDesired, ...]]:
        """All rules, oldest first, and the orders of every node, both of one moment."""
        with self._database.snapshot() as connection:
            rules = rows(connection, DEPLOYMENTS, DEPLOYMENTS.c.number)
            orders = rows(connection, DESIRED, DESIRED.c.node)
        return tuple(Rule(**row) for row in rules), tuple(map(orders_of, orders))

    def save_rollout(
        self, rules: Sequence[Rule], withdrawn: Sequence[Key], desired: Sequence[NodeDesired]
    ) -> None:
        """Replace rules by their key and orders by their node; drop the withdrawn rules."""
        gone = [{"model": model, "target": target} for model, target in withdrawn]
        with self._database.transaction() as connection:
            remove(connection, DEPLOYMENTS, ("model", "target"), gone)
            replace(connection, DEPLOYMENTS, ("model", "target"), [asdict(rule) for rule in rules])
            replace(connection, DESIRED, ("node",), list(map(orders_row, desired)))

    # Tasks ------------------------------------------------------------------------------------------

    def tasks(self) -> list[Task]:
        """Every task, oldest first."""
        return list(map(task_of, self._database.rows(TASKS, TASKS.c.created_at_unix_s, TASKS.c.id)))

    def save_task(self, task: Task) -> None:
        """Add a task, or replace the one with its id."""
        with self._database.transaction() as connection:
            replace(connection, TASKS, ("id",), [task_row(task)])

    def forget_task(self, id: str) -> None:
        """Delete one; it need not exist."""
        with self._database.transaction() as connection:
            remove(connection, TASKS, ("id",), [{"id": id}])
