"""What ``shoal telemetry`` and ``shoal ledger`` show, and which times they understand."""

import asyncio
from pathlib import Path

import pytest

from cloud.cli import plots
from cloud.cli.telemetry import only, step_for
from cloud.times import moment, span_s
from shared.errors import ConfigError
from shared.telemetry import LedgerRow, Series
from tests.unit.cloud.api.fleet import TELEMETRY_UNIX_S, FakeFleet, telemetry_of
from tests.unit.cloud.cli.test_show import drawn


def series(every_s: float = 60.0) -> Series:
    return asyncio.run(FakeFleet().telemetry("edge-1", "room", TELEMETRY_UNIX_S, every_s=every_s))


def nothing() -> Series:
    return Series(node="edge-1", stream="room", every_s=1.0, points=())


def test_a_series_is_a_line_an_interval_with_its_range():
    lines = drawn(plots.series_table(series())).splitlines()
    assert lines[0].split() == ["time", "(UTC)", "n", "celsius", "humidity"]
    assert "21.95 (20 to 23.9)" in lines[1]
    assert lines[1].split()[-1] == "0.5", "where all are the same there is no range"
    assert len(lines) == 4


def test_many_fields_and_pages_are_said_to_be_more():
    names = {f"f{number}": (1.0, 1.0, 1.0) for number in range(20)}
    point = series().points[0].__class__(TELEMETRY_UNIX_S, 1, names)
    wide = Series(node="n", stream="s", every_s=0.0, points=(point,), next_unix_s=TELEMETRY_UNIX_S)
    text = drawn(plots.series_table(wide), 200)
    assert "1 samples; --field for one" in text
    assert len([line for line in text.splitlines() if line.startswith("f1")]) == 11, "a line for each"
    assert "more from 11-14 22:13:20 on" in text


def test_a_plot_has_a_scale_and_a_column_for_each_point():
    lines = drawn(plots.terminal_plots(series(every_s=2.0))).splitlines()
    assert lines[0] == "celsius"
    assert [lines[row].split("|")[0].strip() for row in (1, 6)] == ["32.05", "20.05"]
    assert len(lines[6].split("|")[1]) == len(series(every_s=2.0).points)
    assert "22:13:20 to 11-14 22:15:20 UTC" in lines[-1]


@pytest.mark.parametrize(
    "values", [[1.0], [5.0, 5.0], [None, 3.0], [-1e9, 0.0, 1e9], [float(n) for n in range(99)]]
)
def test_any_values_can_be_drawn(values):
    lines = plots.bars(values)
    assert len(lines) == plots.HEIGHT
    assert {len(line) for line in lines} == {14 + len(values)}


def test_a_picture_is_drawn_or_the_reason_is_said(tmp_path: Path):
    plots.picture(series(), tmp_path / "room.png")
    assert (tmp_path / "room.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ConfigError, match="can't draw into"):
        plots.picture(series(), tmp_path / "missing" / "room.png")
    with pytest.raises(ConfigError, match="nothing to draw: edge-1 room: no samples"):
        plots.picture(nothing(), tmp_path / "empty.png")


def test_nothing_is_said_where_there_is_nothing():
    assert "no samples in that time" in drawn(plots.series_table(nothing()), 200)
    assert "shoal ledger edge-1" in drawn(plots.terminal_plots(nothing()), 200)
    assert "No telemetry" in drawn(plots.ledger_table([]))
    assert "No dead letters" in drawn(plots.letters_table([]))


def test_one_field_can_be_chosen_and_a_wrong_one_is_named():
    chosen = only(series(), ["humidity"])
    assert [list(point.values) for point in chosen.points] == [["humidity"]] * 3
    assert only(series(), None) == series()
    with pytest.raises(ConfigError, match="edge-1 room has celsius, humidity"):
        only(series(), ["pressure"])


def ledger() -> list[LedgerRow]:
    return asyncio.run(FakeFleet().ledger())


def test_the_ledger_ends_with_a_sum_that_can_be_checked():
    text = drawn(plots.ledger_table(ledger()), 160)
    assert "missing 60-61" in text
    assert "produced 122 != stored 120 + dropped, lost or dead 0; 2 on their way or missing" in text
    good = [_with(ledger()[0], produced=120, pending=0, exact=True, missing=())]
    text = drawn(plots.ledger_table(good), 160)
    assert "exact" in text
    assert "produced 120 == stored 120" in text
    plain = [_with(ledger()[0], epoch=0, numbered=False)]
    assert "not numbered" in drawn(plots.ledger_table(plain), 160)


def _with(row: LedgerRow, **fields: object) -> LedgerRow:
    from msgspec.structs import replace

    return replace(row, **fields)


def test_a_dead_letter_shows_no_control_characters():
    from shared.telemetry import TelemetryKind

    text = drawn(plots.letters_table(telemetry_of(TelemetryKind.LETTERS).rows), 160)
    assert "not a batch" in text
    assert r"\xc1\xffhello" in text


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90.0), ("15m", 900.0), ("1.5h", 5400.0), ("7d", 604800.0), ("0", 0.0), ("50ms", 0.05)],
)
def test_lengths_of_time(text, seconds):
    assert span_s(text) == seconds


def test_moments():
    now = 1_800_000_000.0
    assert moment("1h", now) == now - 3600
    assert moment("1700000000", now) == 1_700_000_000.0
    assert moment("2023-11-14T22:13:20", now) == 1_700_000_000.0
    assert moment("2023-11-14T23:13:20+01:00", now) == 1_700_000_000.0
    for wrong in ("yesterday", "12", "-1h", "1y", ""):
        with pytest.raises(ConfigError, match="is no time"):
            moment(wrong, now)
    with pytest.raises(ConfigError, match="no length of time"):
        span_s("fast")


def test_intervals_are_ones_that_people_think_in():
    assert [step_for(span) for span in (10, 3600, 86400, 30 * 86400)] == [1.0, 60.0, 1800.0, 43200.0]
    assert step_for(1e12) == 604800.0
