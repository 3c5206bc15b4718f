"""A report as one HTML file that needs nothing else: light and dark, on a desk and on a phone.

Every text that came over the network is escaped, and the page's policy forbids scripts altogether.
"""

from collections.abc import Iterable, Sequence
from html import escape

from cloud.learning.picture import DARK, LIGHT, ROLES, Palette, svgs
from cloud.learning.report import Participation, Refusal, Report
from shared.learning import JobView, RoundRow

ROUNDS_SHOWN = 500
CLIENTS_SHOWN = 500
WIDE_CHARACTERS = 40  # such a cell may break into lines

_STYLE = """
:root { color-scheme: light dark; %s }
@media (prefers-color-scheme: dark) { :root { %s } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 72rem; padding: 1.25rem 1rem 3rem; font: 16px/1.5 system-ui, sans-serif;
  background: var(--surface); color: var(--ink) }
h1 { font-size: 1.6rem; margin: 0 } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem }
p { margin: .25rem 0; color: var(--muted); overflow-wrap: anywhere }
dl { display: grid; gap: .75rem; margin: 1.25rem 0;
  grid-template-columns: repeat(auto-fit, minmax(7.5rem, 1fr)) }
dl div { border: 1px solid var(--grid); border-radius: .5rem; padding: .6rem .8rem }
dt { color: var(--muted); font-size: .8rem }
dd { margin: 0; font-size: 1.3rem; font-variant-numeric: tabular-nums }
dd small { display: block; font-size: .75rem; color: var(--muted); line-height: 1.3 }
.charts { display: grid; gap: 1rem 1.5rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%%, 26rem), 1fr)) }
figure { margin: 0 } figcaption { font-weight: 600 } svg { width: 100%%; height: auto; display: block }
.table { overflow: auto; max-height: 32rem; border: 1px solid var(--grid); border-radius: .5rem }
table { border-collapse: collapse; width: 100%%; font-size: .85rem; font-variant-numeric: tabular-nums }
th, td { padding: .35rem .7rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--grid) }
th { position: sticky; top: 0; background: var(--surface); color: var(--muted); font-weight: 600 }
td.text, th.text { text-align: left } td.wide { white-space: normal; min-width: 14rem }
tr:last-child td { border-bottom: 0 }
"""


def page(report: Report) -> str:
    """The whole file. Blocks for about a second: use a thread."""
    job = report.job
    name = escape(job.spec.job)
    style = _STYLE % (_variables(LIGHT), _variables(DARK))
    figures = "".join(
        f"<figure><figcaption>{escape(title)}</figcaption>{svg}</figure>"
        for title, svg in svgs(report).items()
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{name}: what it learned</title>
<style>{style}</style>
</head>
<body>
<h1>{name}</h1>
{_about(job)}
<dl>{_cards(report)}</dl>
<div class="charts">{figures}</div>
{_refusals(report.refusals)}
{_clients(report.clients)}
{_rounds(report.rounds)}
</body>
</html>
"""


def bytes_text(count: float) -> str:
    """``1536`` -> ``1.5 KiB``."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def seconds_text(seconds: float) -> str:
    """``0.0123`` -> ``12 ms``."""
    return f"{seconds * 1e3:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _variables(palette: Palette) -> str:
    return " ".join(f"--{role}: {getattr(palette, role)};" for role in ROLES)


def _about(job: JobView) -> str:
    spec = job.spec
    plan = spec.plan
    work = f"{plan.steps} steps" if plan.steps else f"{plan.epochs} epoch{'s' * (plan.epochs != 1)}"
    options = ", ".join(f"{name} {value:g}" for name, value in sorted(spec.options.items()))
    lines = [
        f"{job.phase}, {spec.strategy}" + (f" ({options})" if options else ""),
        f"a device: {work} at a rate of {plan.lr:g}"
        + (f", proximal {plan.proximal:g}" if plan.proximal else "")
        + f"; updates as {spec.codec.name}",
    ]
    if job.model_version:
        lines.append(f"model {spec.version_name} version {job.model_version}, {job.model[:16]}")
    if job.detail:
        lines.append(job.detail)
    return "".join(f"<p>{escape(line)}</p>" for line in lines)


def _cards(report: Report) -> str:
    metric = report.job.spec.stop.metric
    value = report.job.metrics.get(metric)
    accepted = sum(row.accepted for row in report.rounds)
    rejected = sum(row.rejected for row in report.rounds)
    cards = [
        (metric, "-" if value is None else f"{value:.1%}" if metric == "accuracy" else f"{value:.4g}", ""),
        *_compared(report),
        ("rounds", f"{len(report.rounds)}", f"of {report.job.spec.rounds}"),
        ("devices", f"{len(report.clients)}", ""),
        ("updates", f"{accepted}", f"{rejected} rejected"),
        ("up", bytes_text(report.bytes_up), "from all devices"),
        ("down", bytes_text(report.bytes_down), "once for all"),
        ("time", f"{report.wall_s:.1f} s", "all rounds"),
    ]
    return "".join(_card(*card) for card in cards)


def _card(name: str, value: str, note: str) -> str:
    small = f"<small>{escape(note)}</small>" if note else ""
    return f"<div><dt>{escape(name)}</dt><dd>{escape(value)}{small}</dd></div>"


def _compared(report: Report) -> list[tuple[str, str, str]]:
    if report.central_accuracy is None or report.test_accuracy is None:
        return []
    return [
        (
            "on test data",
            f"{report.test_accuracy:.1%}",
            f"all data in one place: {report.central_accuracy:.1%}",
        )
    ]


def _refusals(refusals: Sequence[Refusal]) -> str:
    if not refusals:
        return "<h2>Refused</h2><p>Every update that came was accepted.</p>"
    rows = ((one.status, one.reason or "-", str(one.count), ", ".join(one.clients[:40])) for one in refusals)
    return _table("Refused", ("status*", "reason*", "updates", "devices*"), rows)


def _clients(clients: Sequence[Participation]) -> str:
    counts = ("asked", "accepted", "late", "refused", "silent")
    head = ("device*", "examples", *counts, "up", "answer", "train")
    rows = (
        (
            one.client,
            str(one.examples),
            *(str(getattr(one, name)) for name in counts),
            bytes_text(one.bytes_up),
            seconds_text(one.answer_s),
            seconds_text(one.train_s),
        )
        for one in clients[:CLIENTS_SHOWN]
    )
    return _table("Devices", head, rows, len(clients) - CLIENTS_SHOWN)


def _rounds(rounds: Sequence[RoundRow]) -> str:
    metrics, counts = ("accuracy", "loss"), ("asked", "accepted", "rejected", "late")
    head = ("round", "phase*", "version", *metrics, *counts, "up", "down", "time", "detail*")
    rows = (
        (
            str(row.round),
            row.phase,
            str(row.version),
            *(f"{row.metrics[name]:.4f}" if name in row.metrics else "-" for name in metrics),
            *(str(getattr(row, name)) for name in counts),
            bytes_text(row.bytes_up),
            bytes_text(row.bytes_down),
            seconds_text(row.wall_s),
            row.detail,
        )
        for row in rounds[-ROUNDS_SHOWN:]
    )
    return _table("Rounds", head, rows, len(rounds) - ROUNDS_SHOWN)


def _table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]], left_out: int = 0) -> str:
    """``head``: names that end with a star are columns of text."""
    kinds = ["text" if name.endswith("*") else "" for name in head]
    top = "".join(_cell("th", name.rstrip("*"), kind) for name, kind in zip(head, kinds, strict=True))
    body = "".join(
        "<tr>" + "".join(_cell("td", cell, kind) for cell, kind in zip(row, kinds, strict=True)) + "</tr>"
        for row in rows
    )
    more = f"<p>{left_out} more are in the JSON report.</p>" if left_out > 0 else ""
    table = f'<div class="table"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
    return f"<h2>{escape(title)}</h2>{table}{more}"


def _cell(tag: str, text: str, kind: str) -> str:
    wide = " wide" if kind and len(text) > WIDE_CHARACTERS else ""
    attribute = f' class="{kind}{wide}"' if kind else ""
    return f"<{tag}{attribute}>{escape(text)}</{tag}>"
