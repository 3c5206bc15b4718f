"""Federated learning: the documented names over the coordinator's core. It holds nothing of its own."""

from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from cloud.federated.core import Coordinator
from cloud.federated.events import LearnAsked, LearnerSeen, PartArrived
from cloud.federated.rows import job_view
from shared.learning import JobSpec, LearnAsk, Learner, LearnVerb, Phase, UpdatePart

FederatedState = Phase  # INITIALIZING, TRAINING, AGGREGATING, COMPLETED, ERROR

_APP = "cloud"
_BUDGET_S = 10.0


class Feed(Protocol):
    """What takes events: the service's ``feed``, in production."""

    def __call__(self, event: object) -> None: ...


class FederatedCoordinator:
    """Clients, rounds and updates of one :class:`Coordinator`; whatever changes goes through ``feed``.

    Nothing here waits: what is asked for happens when the coordinator's disk has it, and ``get_state`` tells.
    ``correlation``: a new text with each call, for the replies (which go to the application ``cloud``).
    """

    def __init__(self, coordinator: Coordinator, feed: Feed, correlation: Callable[[], str]) -> None:
        self._core, self._feed, self._correlation = coordinator, feed, correlation

    def register_client(self, client_id: str, learner: Learner) -> bool:
        """Say what a client could contribute; False when there is no room for one more, or it is an older
        word of it."""
        self._feed(LearnerSeen(client_id, learner))
        return self._core.fleet.learners.get(client_id) == learner

    def get_clients(self) -> dict[str, Learner]:
        """Everybody who could be asked."""
        return dict(self._core.fleet.learners)

    def initialize_round(self, spec: JobSpec) -> FederatedState | None:
        """Begin a job: its first round opens once there are enough clients, and each next one by itself.

        None while its first version is still being made, or when the specification was refused.
        """
        self._ask(LearnVerb.CREATE, spec.job, spec)
        return self.get_state(spec.job)

    def receive_model_update(self, client_id: str, job: str, round_number: int, part: UpdatePart) -> None:
        """One part of a client's update; its receipt goes to the client when all of them are here. They are
        aggregated as the job's strategy says (FedAvg: weighted by sample counts) once there are enough."""
        self._feed(PartArrived(client_id, job, round_number, part))

    def get_state(self, job: str) -> FederatedState | None:
        """The phase of a job; None when there is no such job."""
        found = self._core.jobs.get(job)
        return found.state.phase if found else None

    def get_status(self, job: str) -> dict[str, Any] | None:
        """How far a job is, as plain values fit for JSON; None when there is no such job."""
        found = self._core.jobs.get(job)
        if found is None:
            return None
        view: dict[str, Any] = msgspec.to_builtins(job_view(found.state))
        return view

    def reset(self, job: str) -> bool:
        """From ERROR back to INITIALIZING; False when the job is not there, or in another state."""
        if self.get_state(job) is not Phase.ERROR:
            return False
        self._ask(LearnVerb.RESET, job)
        return self.get_state(job) is not Phase.ERROR

    def stop(self, job: str) -> bool:
        """End a job with the model that it has; False when the job is not there."""
        known = job in self._core.jobs
        self._ask(LearnVerb.STOP, job)
        return known

    def _ask(self, verb: LearnVerb, job: str, spec: JobSpec | None = None) -> None:
        ask = LearnAsk(correlation=self._correlation(), budget_s=_BUDGET_S, verb=verb, job=job, spec=spec)
        self._feed(LearnAsked(_APP, ask))
