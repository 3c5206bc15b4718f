"""Everything that survives a restart of the cloud. See :class:`Store`."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import msgspec
from sqlalchemy import Connection, Engine, Table, and_, bindparam, delete, insert, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnection

from cloud.rollout.events import NodeDesired
from cloud.rollout.rules import Key, Rule
from cloud.store.engine import open_engine
from cloud.store.records import CatalogEntry, NodeRecord
from cloud.store.tables import DEPLOYMENTS, DESIRED, META, MODELS, NODES
from shared.errors import Unavailable
from shared.messages import DesiredModels


class StoreFailed(Unavailable):
    """The database refused: full, locked or unreachable. Nothing of the transaction is known to be stored."""


class Store:
    """One database. Each method is one transaction: when it returns, what it wrote is durable, all of it.

    Methods block (a commit waits for the disk), so services call them through ``asyncio.to_thread``; any
    number of threads may. All raise :class:`StoreFailed`. A write that failed may be repeated: all are
    idempotent except :meth:`next_term`, where a repeat skips a number.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @classmethod
    def open(cls, url: str) -> "Store":
        """Connect and bring the tables to the newest form. Raises :class:`ConfigError`.

        ``url`` as in SQLAlchemy: ``sqlite:///path/to/file`` (the folder is made) or ``postgresql://...``.
        """
        return cls(open_engine(url))

    def close(self) -> None:
        """Give the connections back. Nothing is written here: all was durable already."""
        self._engine.dispose()

    # The cloud itself -------------------------------------------------------------------------------

    def next_term(self, unix_s: float) -> int:
        """The number of this start of the cloud: larger than any before, durable when this returns.

        At least the clock's time, so that it still grows when the store was lost or restored from a backup.
        """
        with self._transaction() as connection:
            last = connection.scalar(select(META.c.value).where(META.c.name == "term")) or 0
            term = max(last + 1, int(unix_s))
            _replace(connection, META, ("name",), [{"name": "term", "value": term}])
            return term

    # Nodes ------------------------------------------------------------------------------------------

    def save_node(self, record: NodeRecord) -> None:
        """Insert or replace; ``first_seen_unix_s`` stays what it was first."""
        values = asdict(record)
        with self._transaction() as connection:
            known = update(NODES).where(NODES.c.node == record.node)
            news = {name: value for name, value in values.items() if name != "first_seen_unix_s"}
            if connection.execute(known.values(news)).rowcount == 0:
                connection.execute(insert(NODES).values(values))

    def nodes(self) -> list[NodeRecord]:
        """Every node ever saved, by name."""
        return [NodeRecord(**row) for row in self._rows(NODES, NODES.c.node)]

    # Models -----------------------------------------------------------------------------------------

    def load(self) -> list[CatalogEntry]:
        """The catalog, oldest first."""
        return [CatalogEntry(**row) for row in self._rows(MODELS, MODELS.c.created_at_unix_s)]

    def save(self, entry: CatalogEntry) -> None:
        """Add a model to the catalog, or replace the entry with its digest."""
        with self._transaction() as connection:
            _replace(connection, MODELS, ("digest",), [asdict(entry)])

    # Rollout ----------------------------------------------------------------------------------------

    def load_rollout(self) -> tuple[tuple[Rule, ...], tuple[NodeDesired, ...]]:
        """All rules, oldest first, and the orders of every node, both of one moment."""
        with self._transaction() as connection:
            rules = connection.execute(select(DEPLOYMENTS).order_by(DEPLOYMENTS.c.number)).mappings()
            orders = connection.execute(select(DESIRED).order_by(DESIRED.c.node)).mappings()
            return tuple(Rule(**row) for row in rules), tuple(_orders(row) for row in orders)

    def save_rollout(
        self, rules: Sequence[Rule], withdrawn: Sequence[Key], desired: Sequence[NodeDesired]
    ) -> None:
        """Replace rules by their key and orders by their node; drop the withdrawn rules."""
        gone = [{"model": model, "target": target} for model, target in withdrawn]
        with self._transaction() as connection:
            _remove(connection, DEPLOYMENTS, ("model", "target"), gone)
            _replace(connection, DEPLOYMENTS, ("model", "target"), [asdict(rule) for rule in rules])
            _replace(connection, DESIRED, ("node",), [_row(one) for one in desired])

    # ------------------------------------------------------------------------------------------------

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except DBAPIError as error:
            raise StoreFailed(f"the cloud's store failed: {error.orig}") from error
        except NoConnection as error:
            raise StoreFailed(f"the cloud's store is overloaded: {error}") from error

    def _rows(self, table: Table, order: Any) -> list[dict[str, Any]]:
        with self._transaction() as connection:
            return [dict(row) for row in connection.execute(select(table).order_by(order)).mappings()]


def _replace(connection: Connection, table: Table, key: tuple[str, ...], rows: list[dict[str, Any]]) -> None:
    """Delete and insert: the upsert that every database understands."""
    _remove(connection, table, key, rows)
    if rows:
        connection.execute(insert(table), rows)


def _remove(
    connection: Connection, table: Table, key: tuple[str, ...], rows: Iterable[dict[str, Any]]
) -> None:
    same = and_(*(table.c[name] == bindparam(f"key_{name}") for name in key))
    keys = [{f"key_{name}": row[name] for name in key} for row in rows]
    if keys:
        connection.execute(delete(table).where(same), keys)


def _row(one: NodeDesired) -> dict[str, Any]:
    models = msgspec.to_builtins(one.desired.models)
    return {"node": one.node, "version": one.desired.version, "models": models}


def _orders(row: Any) -> NodeDesired:
    desired = msgspec.convert({"version": row["version"], "models": row["models"]}, DesiredModels)
    return NodeDesired(row["node"], desired)
