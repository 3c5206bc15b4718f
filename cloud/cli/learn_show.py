"""Learning for people: tables of jobs, rounds and learners, and the board that follows a job."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cloud.cli.show import age_text, bytes_text, facts_table
from cloud.learning.follow import Watcher
from cloud.learning.report import Report
from cloud.learning.result import LearnResult
from shared.learning import JobFact, JobView, LearnerView, Phase, RoundRow, RoundView, Task

ROWS_SHOWN = 12
POINTS_GOAL = 1.0  # behind the central model
_COLOURS = {
    "completed": "green",
    "accepted": "green",
    "training": "cyan",
    "aggregating": "cyan",
    "error": "red",
    "rejected": "red",
}
_ROUND_COLUMNS = ("round", "phase", "asked", "ok", "bad", "late", "acc", "loss", "up", "down", "s")


def coloured(word: str) -> Text:
    """A phase or a status in its colour."""
    return Text(word, style=_COLOURS.get(word, "yellow"))


def number_text(name: str, value: float | None) -> str:
    """A metric as people read it."""
    if value is None:
        return "-"
    return f"{value:.1%}" if name == "accuracy" else f"{value:.4g}"


def _table(*columns: str, text: Sequence[str] = ()) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="left" if column in text else "right", overflow="fold")
    return table


def _add(table: Table, *cells: str | Text) -> None:
    """Names come from the network and are no markup."""
    table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells))


def jobs_table(jobs: Sequence[JobView]) -> RenderableType:
    """One line a job."""
    if not jobs:
        return Text("There is no job. Begin one with 'shoal learn FOLDER'.")
    table = _table(
        "job", "phase", "round", "version", "metric", "best", "model", text=("job", "phase", "model")
    )
    for one in jobs:
        metric, spec = one.spec.stop.metric, one.spec
        newest = f"{metric} {number_text(metric, one.metrics.get(metric))}"
        model = f"{spec.version_name} {one.model_version}" if one.model_version else "-"
        of = f"{max(one.round, 0)}/{spec.rounds}"
        best = number_text(metric, one.best)
        _add(table, spec.job, coloured(one.phase), of, str(one.version), newest, best, model)
    return table


def job_page(job: JobView) -> RenderableType:
    """All about one job."""
    spec, metric = job.spec, job.spec.stop.metric
    plan = spec.plan
    options = " ".join(f"{name}={value:g}" for name, value in sorted(spec.options.items()))
    metrics = ", ".join(f"{name} {number_text(name, value)}" for name, value in sorted(job.metrics.items()))
    work = f"{plan.steps} steps" if plan.steps else f"{plan.epochs} epochs"
    rows: list[tuple[str, str | Text]] = [
        ("job", spec.job),
        ("phase", coloured(job.phase)),
        ("round", f"{max(job.round, 0)} of {spec.rounds}, model version {job.version}"),
        ("metrics", metrics or "none yet"),
        (f"best {metric}", number_text(metric, job.best)),
        ("strategy", f"{spec.strategy} {options}".strip()),
        ("devices", f"{spec.clients} close a round, {spec.quorum} are enough at the deadline"),
        ("each", f"{work} at lr {plan.lr:g} on {plan.source!r}, updates as {spec.codec.name}"),
        ("package", spec.package[:16]),
    ]
    if job.model:
        rows.append(("model", f"{spec.version_name} version {job.model_version}, {job.model[:16]}"))
    if job.detail:
        rows.append(("detail", Text(job.detail, style="red" if job.phase == Phase.ERROR else "")))
    return facts_table(rows)


def deleted_page(done: Mapping[str, object]) -> RenderableType:
    """That it is gone."""
    return Text(f"{done['job']} is deleted")


def rounds_table(rounds: Sequence[RoundRow]) -> RenderableType:
    """One line a round."""
    if not rounds:
        return Text("No round yet.")
    table = _table(*_ROUND_COLUMNS, text=("phase",))
    for row in rounds:
        _add(table, *_round_cells(row))
    return table


def _round_cells(row: RoundRow) -> list[str | Text]:
    counts = (row.asked, row.accepted, row.rejected, row.late)
    return [
        str(row.round),
        coloured(row.phase),
        *(str(count) for count in counts),
        number_text("accuracy", row.metrics.get("accuracy")),
        number_text("loss", row.metrics.get("loss")),
        bytes_text(row.bytes_up),
        bytes_text(row.bytes_down),
        f"{row.wall_s:.2f}",
    ]


def round_page(round_: RoundView) -> RenderableType:
    """Everybody in one round."""
    table = _table(
        "device",
        "status",
        "why",
        "examples",
        "steps",
        "up",
        "answer",
        "train",
        text=("device", "status", "why"),
    )
    for one in round_.clients:
        cells = (str(one.weight), str(one.steps), bytes_text(one.bytes_up))
        times = (f"{one.seconds * 1e3:.0f} ms", f"{one.train_s * 1e3:.0f} ms")
        _add(table, one.client, coloured(one.status), one.reason or "-", *cells, *times)
    parts: list[RenderableType] = [rounds_table([round_.row]), Text(), table]
    if round_.row.detail:
        parts.insert(1, Text(round_.row.detail))
    return Group(*parts)


def learners_table(learners: Sequence[LearnerView]) -> RenderableType:
    """One line a device."""
    if not learners:
        return Text("No device has data to learn from: give some in its [training.sources].")
    table = _table(
        "device", "data", "power", "jobs", "accepted", "rejected", "seen", text=("device", "data", "jobs")
    )
    for one in learners:
        data = ", ".join(
            f"{name} {source.samples}+{source.held_out}"
            for name, source in sorted(one.learner.sources.items())
        )
        power = one.learner.power.value
        if power == "battery":
            power = f"{one.learner.battery_ratio:.0%}"
        done = (str(one.accepted), str(one.rejected), age_text(one.last_seen_age_s))
        _add(table, one.client, data or "-", power, ", ".join(one.jobs) or "-", *done)
    return table


def report_page(report: Report, files: Sequence[Path]) -> RenderableType:
    """The totals, and where the pictures are."""
    accepted = sum(row.accepted for row in report.rounds)
    late = sum(row.late for row in report.rounds)
    rejected = sum(row.rejected for row in report.rounds)
    rows: list[tuple[str, str | Text]] = [
        ("job", report.job.spec.job),
        ("rounds", f"{len(report.rounds)} in {report.wall_s:.1f} s"),
        ("updates", f"{accepted} accepted, {rejected} rejected, {late} late"),
        ("bytes", f"{bytes_text(report.bytes_up)} up, {bytes_text(report.bytes_down)} down"),
        ("devices", str(len(report.clients))),
    ]
    rows += [
        ("refused", f"{one.count} {one.status}: {one.reason or '-'} ({', '.join(one.clients[:5])})")
        for one in report.refusals
    ]
    rows += [("see" if index == 0 else "", str(path)) for index, path in enumerate(files)]
    return facts_table(rows)


def result_page(result: LearnResult) -> RenderableType:
    """What was learned, how it compares, and what to do with it."""
    metrics = ", ".join(
        f"{name} {number_text(name, value)}" for name, value in sorted(result.metrics.items())
    )
    rows: list[tuple[str, str | Text]] = [("devices say", metrics or "no metrics")]
    behind = result.points_behind
    if behind is not None:
        rows.append(("on test data", f"{result.test_accuracy:.1%}, on examples that no device had"))
        text = f"{result.central_accuracy:.1%} after {result.central_passes} passes; "
        verdict = f"{abs(behind):.1f} points {'behind' if behind > 0 else 'ahead'}"
        colour = "green" if round(behind, 1) <= POINTS_GOAL else "yellow"
        rows.append(("all in one place", Text.assemble(text, (verdict, colour))))
    rows += [
        ("rounds", f"{result.rounds} in {result.seconds:.1f} s, {result.devices} devices"),
        ("bytes", f"{bytes_text(result.bytes_up)} up, {bytes_text(result.bytes_down)} down"),
    ]
    if result.model:
        rows.append(("model", f"{result.model_name} version {result.model_version}, {result.model[:16]}"))
    if result.package:
        rows.append(("file", result.package))
    rows += [("next" if index == 0 else "", step) for index, step in enumerate(result.next)]
    return Panel(facts_table(rows), title=f"{result.job}: {result.phase}", expand=False)


class Board:
    """Follows a job on a terminal; elsewhere, one line a round. Use it as a context manager."""

    def __init__(self, console: Console, rounds: int, *, quiet: bool) -> None:
        self.rows: list[RoundRow] = []
        self._console, self._rounds, self._quiet = console, rounds, quiet
        self._fact: JobFact | None = None
        self._note = self._lasting = ""
        self._live: Live | None = None

    def __enter__(self) -> "Board":
        """Begin to draw."""
        if self._console.is_terminal and not self._quiet:
            self._live = Live(self.page(), console=self._console, auto_refresh=False)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the last picture there."""
        if self._live is not None:
            self._draw()
            self._live.stop()

    @property
    def watcher(self) -> Watcher:
        """What to follow the job with."""
        return Watcher(self._heard, self._ended, self._silent)

    def page(self) -> RenderableType:
        """The newest rounds, the one that is open, and how far it all is."""
        table = _table(*_ROUND_COLUMNS, text=("phase",))
        for row in self.rows[-ROWS_SHOWN:]:
            _add(table, *_round_cells(row))
        fact = self._fact
        done = self.rows[-1].round if self.rows else 0
        if fact is not None and fact.round > done and fact.phase != Phase.COMPLETED:
            phase = "evaluating" if fact.task == Task.EVALUATE else fact.phase
            counts = (fact.asked, fact.accepted, fact.rejected)
            _add(table, str(fact.round), coloured(phase), *(str(count) for count in counts))
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            ProgressBar(self._rounds, min(len(self.rows), self._rounds), width=40),
            Text(f"{len(self.rows)} of {self._rounds} rounds"),
        )
        return Group(table, bar, Text(self._note or (fact.detail if fact else ""), style="yellow"))

    def progress(self, step: str, done: int, total: int) -> None:
        """What happens before the first round."""
        about = f"sending {step}" if step != "start" else "broker, cloud and devices start"
        counts = f"{done} of {total}" if step == "start" else f"{bytes_text(done)} of {bytes_text(total)}"
        self._note = "" if done >= total else f"{about}: {counts}"
        self._draw()

    def note(self, what: str) -> None:
        """Something to know until the first round is open."""
        self._note = self._lasting = what
        if what and self._live is None and not self._quiet:
            self._console.print(Text(what), highlight=False)
        self._draw()

    def _heard(self, fact: JobFact) -> None:
        if fact.phase == Phase.TRAINING:
            self._lasting = ""
        self._fact, self._note = fact, self._lasting
        self._draw()

    def _ended(self, row: RoundRow) -> None:
        self.rows.append(row)
        if self._live is None and not self._quiet:
            self._console.print(_line(row), highlight=False)
        self._draw()

    def _silent(self, why: str) -> None:
        self._note = f"the cloud does not answer ({why}); waiting"
        self._draw()

    def _draw(self) -> None:
        if self._live is not None:
            self._live.update(self.page(), refresh=True)


@contextmanager
def waiting(console: Console, what: str, *, quiet: bool) -> Iterator[None]:
    """A spinner for something that takes a while and can't say how far it is."""
    if quiet or not console.is_terminal:
        yield
        return
    with console.status(what):
        yield


def _line(row: RoundRow) -> Text:
    accuracy, loss = (number_text(name, row.metrics.get(name)) for name in ("accuracy", "loss"))
    return Text(
        f"round {row.round}: {row.phase}, {row.accepted} of {row.asked}, accuracy {accuracy}, loss {loss}, "
        f"{bytes_text(row.bytes_up)} up, {row.wall_s:.2f} s"
    )
