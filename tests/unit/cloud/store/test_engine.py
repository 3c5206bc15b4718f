"""Opening a store: migrations, and errors that say what to do."""

import subprocess
import sys

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, inspect, text

from cloud.store.engine import migrate, open_engine
from cloud.store.tables import METADATA
from shared.errors import ConfigError


def url_in(folder, name="cloud.sqlite"):
    return f"sqlite:///{folder / name}"


def test_the_migrations_lead_to_the_tables_that_the_code_reads(tmp_path):
    engine = open_engine(url_in(tmp_path))
    with engine.begin() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []
    engine.dispose()


def test_migrating_again_changes_nothing(tmp_path):
    engine = open_engine(url_in(tmp_path))
    with engine.begin() as connection:
        before = connection.execute(text("SELECT * FROM sqlite_master ORDER BY name")).all()
        migrate(connection)
        assert connection.execute(text("SELECT * FROM sqlite_master ORDER BY name")).all() == before
    engine.dispose()


def test_a_migration_that_breaks_half_way_leaves_nothing(tmp_path):
    engine = create_engine(url_in(tmp_path))
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE deployments (in_the_way INTEGER)"))
    engine.dispose()
    with pytest.raises(ConfigError, match="already exists"):
        open_engine(url_in(tmp_path))
    assert inspect(create_engine(url_in(tmp_path))).get_table_names() == ["deployments"]


def test_many_processes_may_open_an_empty_store_at_once(tmp_path):
    source = "import sys; from cloud.store.store import Store; print(Store.open(sys.argv[1]).next_term(0))"
    children = [
        subprocess.Popen([sys.executable, "-c", source, url_in(tmp_path)], stdout=subprocess.PIPE)
        for _ in range(4)
    ]
    assert sorted(int(child.communicate(timeout=60)[0]) for child in children) == [1, 2, 3, 4]


def test_a_store_of_a_newer_version_is_refused(tmp_path):
    engine = open_engine(url_in(tmp_path))
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(ConfigError, match="another version of shoal"):
        open_engine(url_in(tmp_path))


def test_a_store_that_cannot_be_opened_says_which_and_why(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "text.sqlite").write_text("this is not a database, it only looks like one" * 30)
    for url, advice in (
        ("nonsense", "can't be used"),
        ("sqlite://", "must outlive"),
        ("mongodb://host/db", "can't be used"),
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
