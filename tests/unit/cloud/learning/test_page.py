"""docs/federated.md says what the code does: every strategy with its options, every key of its example."""

import re
import tomllib
from pathlib import Path

import msgspec

from cloud.federated.strategies import STRATEGIES
from shared.config import TrainingSection
from shared.learning import CodecName, JobSpec, ReceiptStatus

PAGE = (Path(__file__).parents[4] / "docs" / "federated.md").read_text()
TOML = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)


def test_every_strategy_is_there_with_its_options() -> None:
    rows = dict(re.findall(r"^\| `([\w-]+)` \| .*? \| (.*?) \| [^|]*\d{4} \|$", PAGE, re.MULTILINE))
    assert rows.keys() == STRATEGIES.keys()
    for name, strategy in STRATEGIES.items():
        told = {option: float(value) for option, value in re.findall(r"`(\w+)` ([\d.]+)", rows[name])}
        assert told == strategy.options, name


def test_every_codec_and_status_is_there() -> None:
    assert all(f"| `{codec}` |" in PAGE for codec in CodecName)
    assert " | ".join(ReceiptStatus) in PAGE


def test_the_examples_are_such_as_the_code_reads() -> None:
    job, device = TOML
    spec = msgspec.convert(tomllib.loads(job), JobSpec)
    assert spec.strategy in STRATEGIES
    section = msgspec.convert(tomllib.loads(device)["training"], TrainingSection)
    assert set(section.sources) == {"digits", "machine", "vibration"}
