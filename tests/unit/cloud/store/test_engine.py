"""Opening a store: migrations, and errors that say what to do."""

import subprocess
import sys

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import MetaData, Table, insert, inspect, make_url, select, text

from cloud.store.engine import configuration, connected, migrate, open_engine
from cloud.store.tables import METADATA
from shared.errors import ConfigError
from tests.unit.cloud.store.conftest import example


def url_in(folder, name="cloud.sqlite"):
    return f"sqlite:///{folder / name}"


def scripts():
    return ScriptDirectory.from_config(configuration())


def schema(connection):
    """Every table's columns and keys, as the database tells them."""
    look = inspect(connection)
    return {
        name: (
            [(column["name"], str(column["type"]), column["nullable"]) for column in look.get_columns(name)],
            look.get_pk_constraint(name)["constrained_columns"],
            sorted((index["name"], index["column_names"]) for index in look.get_indexes(name)),
        )
        for name in look.get_table_names()
    }


def test_the_migrations_lead_to_the_tables_that_the_code_reads(url):
    engine = open_engine(url)
    with engine.begin() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []
    engine.dispose()


def test_migrating_again_changes_nothing(url):
    engine = open_engine(url)
    with engine.begin() as connection:
        before = schema(connection)
        migrate(connection)
        assert schema(connection) == before
    engine.dispose()


def test_every_step_of_the_way_down_and_up_again_leads_to_the_same_tables(url):
    engine = open_engine(url)
    with engine.begin() as connection:
        newest = schema(connection)
    revisions = [script.revision for script in scripts().walk_revisions()]
    for revision in [*revisions[1:], "base"]:
        with engine.begin() as connection:
            command.downgrade(configuration(connection), revision)
    with engine.begin() as connection:
        assert set(schema(connection)) == {"alembic_version"}
    for revision in reversed(revisions):
        with engine.begin() as connection:
            migrate(connection, revision)
    with engine.begin() as connection:
        assert schema(connection) == newest
    engine.dispose()


def test_a_store_of_the_revision_before_keeps_its_rows(url):
    """Every table gets a row at the oldest revision that has it, and has it still at the newest."""
    engine = connected(make_url(url))
    kept = {}
    for script in reversed(list(scripts().walk_revisions())):
        with engine.begin() as connection:
            migrate(connection, script.revision)
            for name in set(inspect(connection).get_table_names()) - kept.keys() - {"alembic_version"}:
                table = Table(name, MetaData(), autoload_with=connection)
                connection.execute(insert(table), [example(table)])
                kept[name] = connection.execute(select(table)).mappings().one()
    engine.dispose()
    engine = open_engine(url)
    with engine.begin() as connection:
        for name, row in kept.items():
            table = Table(name, MetaData(), autoload_with=connection)
            found = connection.execute(select(table)).mappings().one()
            assert {key: found[key] for key in row.keys() & found.keys()} == dict(row), name
    assert kept.keys() == {table.name for table in METADATA.sorted_tables}
    engine.dispose()


def test_a_migration_that_breaks_half_way_leaves_nothing(url):
    engine = connected(make_url(url))
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE deployments (in_the_way INTEGER)"))
    with pytest.raises(ConfigError, match="already exists"):
        open_engine(url)
    assert inspect(engine).get_table_names() == ["deployments"]
    engine.dispose()


def test_many_processes_may_open_an_empty_store_at_once(url):
    source = "import sys; from cloud.store.store import Store; print(Store.open(sys.argv[1]).next_term(0))"
    children = [
        subprocess.Popen([sys.executable, "-c", source, url], stdout=subprocess.PIPE) for _ in range(4)
    ]
    assert sorted(int(child.communicate(timeout=60)[0]) for child in children) == [1, 2, 3, 4]


def test_a_store_of_a_newer_version_is_refused(url):
    engine = open_engine(url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(ConfigError, match="another version of shoal"):
        open_engine(url)


def test_a_store_that_cannot_be_opened_says_which_and_why(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "text.sqlite").write_text("this is not a database, it only looks like one" * 30)
    for url, advice in (
        ("nonsense", "can't be used"),
        ("sqlite://", "must outlive"),
        ("mongodb://host/db", "can't be used"),
        ("postgresql:///shoal?host=/nowhere", "can't open the cloud's store"),
        ("postgresql+nosuch://db/shoal", "can't be used"),
        (url_in(tmp_path / "file"), "can't open the cloud's store"),
        (url_in(tmp_path, "text.sqlite"), "not a database"),
        ("sqlite:////proc/shoal/cloud.sqlite", "can't open the cloud's store"),
        (url_in(tmp_path, ""), "can't open the cloud's store"),
    ):
        with pytest.raises(ConfigError, match=advice):
            open_engine(url)


def test_a_password_is_never_shown():
    with pytest.raises(ConfigError) as caught:
        open_engine("postgresql+nosuch://shoal:hunter2@db/shoal")
    assert "hunter2" not in str(caught.value)
