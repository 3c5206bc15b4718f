"""The board that follows a job, on a terminal and elsewhere."""

from io import StringIO

import msgspec
from rich.console import Console

from cloud.cli.learn_show import ROWS_SHOWN, Board, result_page, waiting
from cloud.learning.report import tally
from cloud.learning.result import LearnResult, result_of
from shared.learning import Phase, Task
from tests.unit.cloud.learning.fake import fact, finished, row


def console(*, terminal: bool) -> Console:
    return Console(
        file=StringIO(), force_terminal=terminal, width=80, color_system=None, legacy_windows=False
    )


def text_of(value: object) -> str:
    plain = console(terminal=False)
    plain.print(value)
    assert isinstance(plain.file, StringIO)
    return plain.file.getvalue()


def test_the_board_shows_the_newest_rounds_and_the_one_that_is_open() -> None:
    board = Board(console(terminal=True), 20, quiet=False)
    for number in range(1, 16):
        board.watcher.row(row(number))
    view = msgspec.structs.replace(finished()[0], phase=Phase.TRAINING, round=16)
    board.watcher.fact(fact(view, asked=8, accepted=5))
    lines = text_of(board.page()).splitlines()
    assert len(lines) == 1 + ROWS_SHOWN + 1 + 2
    assert lines[1].split()[0] == "4"
    assert lines[-3].split() == ["16", "training", "8", "5", "0"]
    assert "15 of 20 rounds" in lines[-2]
    assert max(map(len, lines)) <= 80
    board.watcher.fact(fact(view, task=Task.EVALUATE))
    assert "evaluating" in text_of(board.page())


def test_a_silent_cloud_is_told_until_it_speaks() -> None:
    board = Board(console(terminal=True), 4, quiet=False)
    board.watcher.silent("no reply")
    assert "no reply" in text_of(board.page())
    board.watcher.fact(fact(finished()[0]))
    assert "no reply" not in text_of(board.page())


def test_what_happens_before_the_first_round_is_told() -> None:
    board = Board(console(terminal=True), 4, quiet=False)
    board.progress("start", 3, 8)
    assert "devices start: 3 of 8" in text_of(board.page())
    board.progress("digits.shoal", 1024, 4096)
    assert "sending digits.shoal: 1.0 KiB of 4.0 KiB" in text_of(board.page())
    board.progress("digits.shoal", 4096, 4096)
    assert "sending" not in text_of(board.page())


def test_why_nothing_happens_is_told_until_something_does() -> None:
    board = Board(console(terminal=True), 4, quiet=False)
    board.note("0 devices have data")
    waiting_for = msgspec.structs.replace(finished()[0], phase=Phase.INITIALIZING)
    board.watcher.fact(fact(waiting_for))
    assert "0 devices have data" in text_of(board.page())
    board.watcher.fact(fact(msgspec.structs.replace(waiting_for, phase=Phase.TRAINING)))
    assert "0 devices have data" not in text_of(board.page())


def test_without_a_terminal_there_is_a_line_a_round() -> None:
    plain = console(terminal=False)
    with Board(plain, 4, quiet=False) as board, waiting(plain, "...", quiet=False):
        board.watcher.row(row(1))
    assert isinstance(plain.file, StringIO)
    assert plain.file.getvalue().startswith("round 1: completed, 2 of 3, accuracy 60.0%")


def test_quiet_is_quiet() -> None:
    for terminal in (True, False):
        said = console(terminal=terminal)
        with Board(said, 4, quiet=True) as board, waiting(said, "...", quiet=True):
            board.watcher.row(row(1))
            board.watcher.fact(fact(finished()[0]))
        assert isinstance(said.file, StringIO)
        assert said.file.getvalue() == ""


def test_on_a_terminal_the_last_picture_stays() -> None:
    said = console(terminal=True)
    with Board(said, 4, quiet=False) as board, waiting(said, "...", quiet=True):
        board.watcher.row(row(1))
    assert isinstance(said.file, StringIO)
    assert "1 of 4 rounds" in said.file.getvalue()


def compared(learned: float, central: float) -> LearnResult:
    report = msgspec.structs.replace(tally(*finished(), []), test_accuracy=learned, central_accuracy=central)
    return result_of(report, central_passes=8, stays=True)


def test_the_summary_compares_with_all_the_data_in_one_place() -> None:
    assert "0.8 points behind" in text_of(result_page(compared(0.968, 0.976)))
    assert "0.4 points ahead" in text_of(result_page(compared(0.98, 0.976)))
    alone = result_of(tally(*finished(), []), stays=True)
    assert alone.points_behind is None
    assert "points" not in text_of(result_page(alone))
