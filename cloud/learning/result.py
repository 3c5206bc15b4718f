"""What ``shoal learn FOLDER`` came to: one value for the summary and for ``--json``."""

from pathlib import Path

import msgspec

from cloud.learning.report import Report


class LearnResult(msgspec.Struct, frozen=True, kw_only=True):
    """``test_accuracy``, ``central_accuracy``: on data that no device had, of the learned model and of one
    that was trained with all the data in one place, in ``central_passes`` over it. ``package``: the learned
    model as a file. ``next``: commands that make sense now.
    """

    job: str
    phase: str
    rounds: int
    version: int
    devices: int
    metrics: dict[str, float]
    best: float | None
    bytes_up: int
    bytes_down: int
    seconds: float
    model: str
    model_name: str
    model_version: str
    test_accuracy: float | None = None
    central_accuracy: float | None = None
    central_passes: int = 0
    package: str = ""
    detail: str = ""
    next: tuple[str, ...] = ()

    @property
    def points_behind(self) -> float | None:
        """Percentage points between the central model and the learned one; negative: ahead."""
        if self.test_accuracy is None or self.central_accuracy is None:
            return None
        return 100 * (self.central_accuracy - self.test_accuracy)


def result_of(
    report: Report, package: Path | None = None, central_passes: int = 0, *, stays: bool
) -> LearnResult:
    """``package``: the learned model, where we have it. ``stays``: the fleet goes on."""
    job = report.job
    spec = job.spec
    deploy = spec.version_name if stays else str(package) if package else ""
    steps = [f"shoal learn report {spec.job}"]
    if deploy and job.model:
        steps = [*([] if stays else ["shoal up"]), f"shoal deploy {deploy} --to all", *steps]
    return LearnResult(
        job=spec.job,
        phase=job.phase,
        rounds=len(report.rounds),
        version=job.version,
        devices=len(report.clients),
        metrics=job.metrics,
        best=job.best,
        bytes_up=report.bytes_up,
        bytes_down=report.bytes_down,
        seconds=report.wall_s,
        model=job.model,
        model_name=spec.version_name,
        model_version=job.model_version,
        test_accuracy=report.test_accuracy,
        central_accuracy=report.central_accuracy,
        central_passes=central_passes,
        package="" if package is None else str(package),
        detail=job.detail,
        next=tuple(steps),
    )
