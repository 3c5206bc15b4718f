"""The files of a report: a page that needs nothing else, and a picture."""

from pathlib import Path

from cloud.learning.page import page
from cloud.learning.picture import png
from cloud.learning.report import Report
from shared.errors import ConfigError


def write_report(report: Report, folder: Path) -> tuple[Path, Path]:
    """Write ``JOB-report.html`` and ``JOB-report.png``; gives their paths. Raises :class:`ConfigError`."""
    name = f"{report.job.spec.job}-report"
    html, picture = folder / f"{name}.html", folder / f"{name}.png"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        html.write_text(page(report), encoding="utf-8")
        picture.write_bytes(png(report))
    except OSError as error:
        raise ConfigError(f"can't write the report to {folder}: {error.strerror}") from None
    return html, picture
