"""``shoal residency`` and ``shoal audit`` on the cloud's own files: no broker, no running cloud."""

from pathlib import Path

import msgspec
import pytest

from cloud.residency import files
from cloud.residency.log import AuditLog
from shared.transparency import included
from tests.support.audit import KEY, PUBLIC, filled, record
from tests.unit.cloud.cli.conftest import Shoal

POLICY = """
version = 1
regions = ["eu/de", "us"]
[[data]]
keys = ["patients/*", "k/*"]
label = "internal"
allowed = ["eu"]
fields = { name = "personal" }
[[permit]]
name = "facts"
label = "internal"
"""


@pytest.fixture
def cloud(tmp_path: Path) -> Path:
    """A cloud's folder with a log of twenty records, and its configuration in the working folder."""
    (tmp_path / ".shoal").mkdir()
    data = tmp_path / "data"
    data.mkdir()
    (data / "signing.key").write_bytes(KEY.private_bytes_raw())
    (tmp_path / "policy.toml").write_text(POLICY)
    settings = f'[cloud]\ndata = "{data}"\n[residency]\npolicy = "{tmp_path / "policy.toml"}"\n'
    (tmp_path / ".shoal" / "cloud.toml").write_text(settings)
    filled(data / "residency" / "audit", 20)
    return data


def json(text: str) -> object:
    return msgspec.json.decode(text)


def test_a_node_is_put_into_a_region_and_taken_out_again(shoal: Shoal, cloud: Path) -> None:
    assert shoal("residency", "place", "n1", "eu/de").code == 0
    assert json(shoal("residency", "place", "n2", "us", "--json").out) == {"node": "n2", "region": "us"}
    assert shoal("residency", "place", "n1", "--nowhere").code == 0
    assert (cloud / "residency" / "regions.toml").read_text() == '[regions]\nn2 = "us"\n'


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (("n1",), "--nowhere"),
        (("n1", "eu", "--nowhere"), "--nowhere"),
        (("N1", "eu"), "not a node's id"),
        (("n1", "EU"), "like eu/de/berlin"),
    ],
)
def test_what_is_no_place_is_said_so(
    shoal: Shoal, cloud: Path, arguments: tuple[str, ...], advice: str
) -> None:
    said = shoal("residency", "place", *arguments)
    assert (said.code, advice in said.err) == (1, True)


def test_check_says_where_a_key_may_be_and_why(shoal: Shoal, cloud: Path) -> None:
    shoal("residency", "place", "n1", "eu/de")
    shoal("residency", "place", "n2", "us")

    def asked(*more: str) -> list[tuple[str, bool, str]]:
        found = json(shoal("residency", "check", "patients/7", "--json", *more).out)
        return [(one["node"], one["allow"], one["why"]) for one in found]  # type: ignore[attr-defined]

    assert asked("--value", '{"age": 36}') == [("n1", True, "permitted"), ("n2", False, "outside")]
    assert asked() == [("n1", False, "no-permit"), ("n2", False, "outside")], "unseen data have every field"
    assert asked("--node", "n9", "--value", "1") == [("n9", False, "outside")]
    assert asked("--region", "eu/de", "--value", "1") == [("", True, "permitted")]
    assert "refused" in shoal("residency", "check", "patients/7").out


def test_a_dry_run_says_what_would_have_gone_elsewhere(shoal: Shoal, cloud: Path) -> None:
    """In the log, numbers that three divides were refused in the US; the others allowed in Germany."""
    stricter = cloud / "next.toml"
    stricter.write_text(
        POLICY.replace('allowed = ["eu"]', 'allowed = ["us"]').replace("personal", "internal")
    )
    found = json(shoal("residency", "dry-run", str(stricter), "--json").out)
    changes = {(one["key"], one["before"], one["allow"]) for one in found}  # type: ignore[attr-defined]
    assert ("k/1", "allowed", False) in changes
    assert ("k/3", "outside", True) in changes
    assert len(changes) == 20
    assert "20 of 20" in shoal("residency", "dry-run", str(stricter)).out
    same = cloud / "same.toml"
    same.write_text(POLICY.replace('label = "internal"\n', 'label = "personal"\n'))
    assert json(shoal("residency", "dry-run", str(same), "--json").out) == []
    assert len(json(shoal("residency", "dry-run", str(same), "--all", "--json").out)) == 20  # type: ignore[arg-type]


def test_a_policy_with_a_mistake_is_refused_with_advice(shoal: Shoal, cloud: Path) -> None:
    bad = cloud / "bad.toml"
    bad.write_text(POLICY.replace('["eu"]', '["ue"]'))
    said = shoal("residency", "check", "patients/7", "--policy", str(bad), "--node", "n1")
    assert (said.code, "'ue' is not in the tree" in said.err) == (1, True)


def test_a_whole_log_is_said_to_be_whole_and_a_changed_one_is_not(shoal: Shoal, cloud: Path) -> None:
    assert json(shoal("audit", "verify", "--json").out)["problems"] == []  # type: ignore[index]
    folder = cloud / "residency" / "audit"
    path = files.segment_file(folder, 0)
    path.write_bytes(path.read_bytes().replace(b'"us"', b'"eu"', 1))
    said = shoal("audit", "verify")
    assert said.code == 1
    assert "NOT as it was" in said.out
    elsewhere = shoal("audit", "verify", "--folder", str(folder), "--key", PUBLIC, "--json")
    assert (elsewhere.code, bool(json(elsewhere.out)["problems"])) == (1, True)  # type: ignore[index]


def test_a_proof_can_be_checked_by_others(shoal: Shoal, cloud: Path) -> None:
    proof = json(shoal("audit", "prove", "7", "--json").out)
    path = [bytes.fromhex(one) for one in proof["path"]]  # type: ignore[index]
    head = AuditLog(cloud / "residency" / "audit", KEY).head
    assert head is not None
    assert included(bytes.fromhex(proof["leaf"]), 7, 20, head.root, path)  # type: ignore[index]
    assert proof["record"]["task"] == record(7).task  # type: ignore[index]
    assert "its root" in shoal("audit", "prove", "--from", "7").out


@pytest.mark.parametrize("arguments", [("prove",), ("prove", "99"), ("prove", "1", "--from", "2")])
def test_there_is_advice_for_what_can_not_be_proved(
    shoal: Shoal, cloud: Path, arguments: tuple[str, ...]
) -> None:
    said = shoal("audit", *arguments)
    assert said.code == 1
    assert said.err.startswith("error: ")
    assert len(said.err.splitlines()) == 1


def test_without_a_log_there_is_advice(shoal: Shoal) -> None:
    assert "--folder" in shoal("audit", "verify").err
