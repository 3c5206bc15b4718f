"""learn.toml: what is in it, what may be set on the way, and how a mistake is told."""

from pathlib import Path

import pytest

from cloud.learning.jobfile import FILE_BYTES_MAX, read_job
from shared.errors import ConfigError
from shared.learning import CodecName

FOLDER = Path(__file__).parents[4] / "examples" / "digits"
DIGEST = "ab" * 32


def write(folder: Path, text: str = "", plan: str = 'source = "x"') -> Path:
    (folder / "mine.shoal").write_bytes(b"package")
    path = folder / "learn.toml"
    path.write_text(f'job = "mine"\npackage = "mine.shoal"\n{text}\n[plan]\n{plan}\n')
    return path


def test_a_folder_and_its_file_are_the_same_job() -> None:
    assert read_job(FOLDER) == read_job(FOLDER / "learn.toml")


def test_packages_are_files_until_they_have_digests() -> None:
    job = read_job(FOLDER)
    assert job.files == {"package": FOLDER / "digits-train.shoal", "serve": FOLDER / "digits.shoal"}
    assert (job.spec.package, job.spec.serve) == ("", "")
    spec = job.with_digests({"package": DIGEST, "serve": "cd" * 32})
    assert (spec.package, spec.serve) == (DIGEST, "cd" * 32)


def test_a_package_of_the_catalog_is_named_by_its_digest(tmp_path: Path) -> None:
    job = read_job(write(tmp_path), [f"package={DIGEST}"])
    assert (job.spec.package, job.files) == (DIGEST, {})


def test_what_is_set_on_the_way_comes_last(tmp_path: Path) -> None:
    path = write(tmp_path, "rounds = 5")
    assert read_job(path).spec.rounds == 5
    assert read_job(path, rounds=6, codec__name="topk").spec.rounds == 6
    job = read_job(
        path, ["rounds=7", "plan.lr = 0.5", "criteria.labels.region=eu", "strategy=median"], rounds=6
    )
    spec = job.spec
    assert (spec.rounds, spec.plan.lr, spec.strategy) == (7, 0.5, "median")
    assert spec.criteria.labels == {"region": "eu"}
    assert read_job(path, codec__name="topk").spec.codec.name is CodecName.TOPK
    assert read_job(path, rounds=None).spec.rounds == 5


@pytest.mark.parametrize(
    ("text", "plan", "sets", "says"),
    [
        ("round = 5", 'source = "x"', [], "no key round; did you mean rounds?"),
        ("", 'source = "x"\nepoch = 2', [], "no key plan.epoch; did you mean plan.epochs?"),
        ("", 'source = "x"', ["plan.source.name=1"], "plan.source.name can't be set"),
        ("", 'source = "x"', ["=1"], "KEY=VALUE"),
        ("", 'source = "x"', ["package=other.shoal"], "no such .shoal file"),
        ("", 'source = "x"', ["job=A B"], "a-z, 0-9"),
        ("", "epochs = 2", [], "source"),
        ("not toml", 'source = "x"', [], "can't read"),
    ],
)
def test_a_mistake_names_the_key_and_what_would_do(
    tmp_path: Path, text: str, plan: str, sets: list[str], says: str
) -> None:
    with pytest.raises(ConfigError, match=r"learn\.toml|--set") as told:
        read_job(write(tmp_path, text, plan), sets)
    assert says in str(told.value)


def test_a_huge_file_is_no_job(tmp_path: Path) -> None:
    path = write(tmp_path)
    path.write_text("#" * (FILE_BYTES_MAX + 1))
    with pytest.raises(ConfigError, match="no job"):
        read_job(path)
