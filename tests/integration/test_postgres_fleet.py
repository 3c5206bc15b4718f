"""A fleet whose cloud keeps everything in PostgreSQL, named by the environment alone."""

from pathlib import Path

from cloud.store.store import Store
from tests.support.fleet import EXAMPLE, RunningFleet, running_fleet, until
from tests.support.postgres import Postgres


def stored(fleet: RunningFleet) -> int:
    """Samples in the ledger."""
    return sum(stream["stored"] for stream in fleet.shoal("ledger", "--json").json)


def test_a_fleet_lives_on_postgresql_and_moves_to_sqlite(postgres: Postgres, tmp_path: Path) -> None:
    url = postgres.new_database()
    with running_fleet(tmp_path, devices=1, SHOAL_CLOUD_STORE=url) as fleet:
        said = fleet.shoal("deploy", EXAMPLE / "digits.shoal", "--wait", "--json")
        assert said.json["model"] == "digits", said
        until("telemetry is stored", lambda: stored(fleet) > 0)
        made = fleet.shoal("backup", "monday", "--json", SHOAL_CLOUD_STORE=url).json
        assert made["database"] == "postgresql"
        assert made["tables"]["telemetry_chunks"]["rows"] > 0
        moved = fleet.shoal("restore", "monday", "--data", "moved", "--json").json
        assert moved["tables"] == made["tables"]
    assert not (tmp_path / ".shoal" / "cloud" / "shoal.db").exists()
    store = Store.open(Store.url_of(tmp_path / "moved" / "shoal.db"))
    assert [one.desired.models.keys() for one in store.load_rollout()[1]] == [{"digits"}]
    assert any(one.stored for one in store.telemetry.ledger("edge-1"))
    store.close()
