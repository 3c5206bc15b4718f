"""The report: who took part, what was refused; a page without a stranger's markup, a picture."""

import asyncio
import re

import msgspec
import pytest

from cloud.learning.page import page
from cloud.learning.picture import BARS_MAX, DARK, ROLES, most_telling, png, svgs
from cloud.learning.report import Participation, Report, report_of, tally
from shared.learning import ClientRow, JobView, RoundView
from tests.unit.cloud.learning.fake import FakeLearning, clients_of, finished, row

HOSTILE = '<script>alert("$x$")</script>'


@pytest.fixture(scope="module")
def report() -> Report:
    view, rows = finished()
    return tally(view, rows, [RoundView(row=one, clients=clients_of(one.round)) for one in rows])


def test_the_cloud_is_asked_for_everything(report: Report) -> None:
    learning = FakeLearning()
    view, rows = finished()
    learning.put(view, *rows)
    assert asyncio.run(report_of(learning, "digits")) == report  # type: ignore[arg-type]


def test_participation_is_counted_by_client(report: Report) -> None:
    by_name = {one.client: one for one in report.clients}
    assert by_name["edge-1"] == Participation(
        client="edge-1",
        asked=4,
        accepted=4,
        late=0,
        refused=0,
        silent=0,
        examples=100,
        bytes_up=80_000,
        answer_s=0.4,
        train_s=0.3,
    )
    third = by_name["edge-3"]
    assert (third.asked, third.accepted, third.refused, third.silent) == (4, 0, 2, 2)
    for one in report.clients:
        assert one.asked == one.accepted + one.late + one.refused + one.silent


def test_refusals_are_counted_by_reason(report: Report) -> None:
    (one,) = report.refusals
    assert (one.status, one.reason, one.count, one.clients) == ("rejected", "norm", 2, ("edge-3",))
    assert (report.bytes_up, report.bytes_down, report.wall_s) == (160_000, 240_000, 2.0)


def test_the_page_needs_nothing_else_and_runs_nothing(report: Report) -> None:
    text = page(report)
    assert "Content-Security-Policy" in text
    assert not re.search(r"<(script|link|img|iframe)\b", text)
    assert not re.search(r"""(src|href)=["'](?!#)""", text)
    assert text.count("<svg") == 4
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text
    assert "norm" in text


def test_what_strangers_write_is_text(report: Report) -> None:
    job: JobView = msgspec.structs.replace(report.job, detail=HOSTILE)
    hostile = RoundView(
        row=row(0, detail=HOSTILE), clients=(ClientRow(client=HOSTILE, status=HOSTILE, reason=HOSTILE),)
    )
    text = page(tally(job, [row(0, detail=HOSTILE)], [hostile]))
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def test_drawings_take_their_colours_from_the_page(report: Report) -> None:
    for svg in svgs(report).values():
        assert not re.search("#0102[0-9a-f]{2}", svg)
        assert set(re.findall(r"var\(--(\w+)\)", svg)) <= set(ROLES)
        assert "var(--muted)" in svg
        assert "var(--first)" in svg


def test_equal_reports_give_equal_drawings(report: Report) -> None:
    assert svgs(report) == svgs(report)


def test_the_picture_is_a_png_in_light_and_in_dark(report: Report) -> None:
    light, dark = png(report), png(report, DARK)
    assert light[:8] == dark[:8] == b"\x89PNG\r\n\x1a\n"
    assert light != dark


def test_a_job_without_a_round_can_be_drawn() -> None:
    empty = tally(finished()[0], [], [])
    assert "no round yet" in page(empty)
    assert png(empty)


def test_of_many_clients_those_with_trouble_are_drawn(report: Report) -> None:
    good = [msgspec.structs.replace(report.clients[0], client=f"n{number:04}") for number in range(1000)]
    shown = most_telling([*good, report.clients[2]], BARS_MAX)
    assert len(shown) == BARS_MAX
    assert "edge-3" in [one.client for one in shown]
    many = msgspec.structs.replace(report, clients=tuple([*good, report.clients[2]]))
    text = page(many)
    assert f"{BARS_MAX} of 1001" in text
    assert "501 more are in the JSON report" in text
