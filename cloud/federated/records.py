"""What a job is on the disk: its state after each move, its rounds that are over, the answers of its pass.

A *pass* is one time that devices are asked: to train, or to evaluate what came of it. A round is a pass of
training, and where the job says so one of evaluation after it. An *attempt* is a pass begun again.
Data only. ``cloud/federated/journal.py`` says how it lies in files.
"""

import msgspec

from shared.learning import JobSpec, ModelRef, Phase, RoundView, Task, UpdateHeader
from shared.messages import Manifest


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a job's model. ``manifests``: of its artifacts, signed; the snapshot is the first, and
    the delta, where there is one, the second."""

    ref: ModelRef
    manifests: tuple[Manifest, ...]

    @property
    def bytes_down(self) -> int:
        """Of the artifact that a device fetches when it holds the version before."""
        return self.manifests[-1].size_bytes


class Opening(msgspec.Struct, frozen=True, kw_only=True):
    """A pass as it was opened. ``norm_median``: what is a usual norm in it; None: not known.

    ``budget_s``: from the moment when devices are told until the deadline.
    """

    round: int
    attempt: int
    task: Task
    cohort: tuple[str, ...]
    seed: int
    budget_s: float
    norm_median: float | None = None


class Asked(msgspec.Struct, frozen=True, array_like=True):
    """Of a client in an asynchronous job: the newest round that it was asked in, and answered; 0: none."""

    asked: int = 0
    answered: int = 0


class JobState(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about a job that a restart must not forget. Each move of the coordinator makes a new one.

    ``view``: the pass of training that ended, while its round is not over. ``finishing``: no further round
    is opened; the model to be deployed is being made. ``failures``: in a row. ``closed``: COMPLETED for good.
    ``train_s``, ``evaluate_s``: how long the newest answers took. ``clients``: see :class:`Asked`.
    """

    spec: JobSpec
    term: int
    version: Version
    created_at_unix_s: float
    phase: Phase = Phase.INITIALIZING
    round: int = 0
    attempt: int = 0
    task: Task = Task.TRAIN
    opening: Opening | None = None
    view: RoundView | None = None
    before: Version | None = None  # whose artifacts are still on offer
    made: Opening | None = None  # the pass that led from there to ``version``
    norms: tuple[float, ...] = ()
    train_s: tuple[float, ...] = ()
    evaluate_s: tuple[float, ...] = ()
    clients: dict[str, Asked] = {}
    metrics: dict[str, float] = {}
    best: float | None = None
    best_round: int = 0
    failures: int = 0
    stopping: bool = False
    finishing: bool = False
    closed: bool = False
    detail: str = ""
    model: str = ""
    model_version: str = ""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One record of a job's journal: the state that it is in now, and the round that ended with it."""

    state: JobState | None = None
    ended: RoundView | None = None


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """An accepted update, as it stands in the log of its pass, before its bytes.

    ``asked``: the round that it answers, which in an asynchronous job may be an earlier one. ``seconds``:
    from the opening until it was whole.
    """

    client: str
    asked: int
    header: UpdateHeader
    norm: float = 0.0
    seconds: float = 0.0
