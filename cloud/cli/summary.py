"""The end of ``shoal demo``, for a person."""

from rich.bar import Bar
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from cloud.cli.show import bytes_text
from cloud.demo.scenario import DemoResult


def summary(result: DemoResult) -> RenderableType:
    """What was right, how fast, who did it, and what became of the killed device."""
    same = result.same_as_torch == result.digits
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(style="bold")
    facts.add_row(
        "accuracy",
        Text.assemble(
            f"{result.accuracy:.1%} ({result.correct} of {result.digits}); torch on the same digits: "
            f"{result.torch_accuracy:.1%} ",
            (
                "identical" if same else f"{result.digits - result.same_as_torch} differ",
                "green" if same else "red",
            ),
        ),
    )
    facts.add_row("speed", f"{result.requests_per_s:,.0f} requests/s")
    facts.add_row(
        "latency", f"p50 {result.latency_p50_ms:.1f} ms, p99 {result.latency_p99_ms:.1f} ms, 64 in flight"
    )
    facts.add_row("model", f"{result.model_bytes:,} bytes, on every device after {result.deploy_s:.2f} s")
    facts.add_row("telemetry", f"{result.telemetry_samples} samples of this machine heard from the devices")
    facts.add_row("time", f"fleet up in {result.start_s:.1f} s, everything in {result.total_s:.1f} s")
    parts = (facts, Text(), _devices(result), Text(), _killed(result), Text(), _learned(result))
    return Panel(Group(*parts), title="shoal demo", expand=False)


def _devices(result: DemoResult) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("device", "answers", "", "in the module"):
        table.add_column(column, justify="left" if column in ("device", "") else "right")
    most = max(1, *(one.answers for one in result.devices))
    for one in result.devices:
        name = Text(f"{one.node} (killed)" if one.killed else one.node, style="red" if one.killed else "")
        table.add_row(
            name, str(one.answers), Bar(most, 0, one.answers, width=24), f"{one.service_us_median:.0f} us"
        )
    return table


def _killed(result: DemoResult) -> Text:
    killed = result.killed
    noticed = (
        f"called offline after {killed.offline_after_s:.1f} s"
        if killed.offline_after_s is not None
        else "not yet called offline"
    )
    fate = (
        f"{killed.in_flight} requests were with it: {killed.answered_elsewhere} were answered by others "
        f"(the slowest after {killed.rescue_s_max:.2f} s), {killed.failed} failed"
        if killed.in_flight
        else "no request was with it at that moment"
    )
    return Text(
        f"{killed.node} was killed with SIGKILL after {killed.answers_before} answers; {noticed}.\n{fate}."
    )


def _learned(result: DemoResult) -> Text:
    one = result.learned
    return Text(
        f"Then the {one.devices} others learned the digits together, each from its own: {one.rounds} rounds "
        f"in {one.learn_s:.1f} s, from {one.first_accuracy:.0%} to {one.accuracy:.1%} on the same "
        f"{result.digits} digits, {bytes_text(one.bytes_up)} up and {bytes_text(one.bytes_down)} down. "
        f"The model that they made was deployed in {one.deploy_s:.2f} s."
    )
