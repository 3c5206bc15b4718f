"""What operators write: policies and places."""

from pathlib import Path

import pytest

from cloud.residency.places import read_places, write_places
from cloud.residency.policy import known_regions, parse_policy, read_policy
from shared.classify import tag_of
from shared.errors import ConfigError
from shared.residency import Kind
from shared.tags import Label

GOOD = """
version = 3
regions = ["eu/de/berlin", "eu/fr", "us"]
[[data]]
keys = ["patients/*"]
label = "internal"
home = "eu/de"
allowed = ["eu"]
purposes = ["operation"]
fields = { name = "personal", "visits.diagnosis" = "sensitive" }
[[permit]]
name = "Europe"
label = "sensitive"
regions = ["eu"]
kinds = ["data"]
[[forbid]]
name = "no diagnoses in France"
label = "sensitive"
regions = ["eu/fr"]
[[view]]
keys = ["patients/*"]
prefix = "study/"
drop = ["name", "visits.diagnosis"]
pseudonym = ["insurance"]
allowed = ["us"]
"""


def test_a_policy_is_read_as_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text(GOOD)
    policy = read_policy(tmp_path / "policy.toml")
    assert policy.version == 3
    assert policy.permit[0].kinds == (Kind.DATA,)
    tag = tag_of(policy, "patients/7", {"visits": [{"diagnosis": 1}]})
    assert tag is not None
    assert (tag.label, tag.home) == (Label.SENSITIVE, "eu/de")


def test_the_example_of_the_module_is_a_policy() -> None:
    from cloud.residency import policy

    example = "\n".join(line.partition("   #")[0] for line in (policy.__doc__ or "").splitlines()[2:])
    assert parse_policy(example).view[0].prefix == "study/"


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("version = 3", "version = 0", "at least 1"),
        ("version = 3", 'version = "3"', "version"),
        ('"personal"', '"secret"', "Label|enum|Invalid"),
        ("[[permit]]", "[[permitt]]", "permitt"),
        ("label = ", "lable = ", "lable"),
        ('regions = ["eu"]', 'regions = ["ue"]', "not in the tree"),
        ('home = "eu/de"', 'home = "de"', "not in the tree"),
        ('["eu/de/berlin", ', '["EU/de", ', "not a region"),
        ('["eu/de/berlin", ', '["*", ', "not a region"),
        ("no diagnoses in France", "Europe", "a name of its own"),
        ('keys = ["patients/*"]\nlabel', "keys = []\nlabel", "keys are missing"),
        ('home = "eu/de"\nallowed = ["eu"]', "", "nowhere"),
        ('["patients/*"]\nprefix', '["pat*ts"]\nprefix', "its beginning with a"),
        ('prefix = "study/"', 'prefix = ""', "mistaken for the original"),
        ('drop = ["name", "visits.diagnosis"]\npseudonym = ["insurance"]', "", "would show everything"),
        ("version = 3", "version = ", "not TOML"),
    ],
)
def test_a_mistake_is_named(old: str, new: str, complaint: str) -> None:
    assert old in GOOD
    with pytest.raises(ConfigError, match=complaint):
        parse_policy(GOOD.replace(old, new, 1))


def test_a_policy_without_a_permit_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match=r"no \[\[permit\]\]"):
        parse_policy("version = 1")


def test_what_can_not_be_read_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't read the policy"):
        read_policy(tmp_path / "none.toml")
    (tmp_path / "long.toml").write_bytes(b"#" * (1 << 20))
    with pytest.raises(ConfigError, match="at most"):
        read_policy(tmp_path / "long.toml")


def test_the_tree_has_every_level() -> None:
    assert known_regions(["eu/de/berlin", "us"]) == {"eu", "eu/de", "eu/de/berlin", "us"}


# Places ---------------------------------------------------------------------------------------------


def test_places_are_written_and_read(tmp_path: Path) -> None:
    path = tmp_path / "residency" / "regions.toml"
    assert read_places(path) == {}
    write_places(path, {"n1": "eu/de", "n2": "us"})
    write_places(path, {"n2": "", "n3": "eu"})
    assert read_places(path) == {"n1": "eu/de", "n3": "eu"}
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "text",
    [
        "[region]\nn1 = 'eu'",
        "[regions]\nN1 = 'eu'",
        "[regions]\nn1 = 7",
        "[regions]\nn1 = '*'",
        "regions = 1",
        "[",
    ],
)
def test_places_that_make_no_sense_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "regions.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"regions\.toml|region"):
        read_places(path)
