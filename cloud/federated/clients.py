"""Clients that cannot speak MQTT: an application registers them, and speaks for them from then on.

The list is written whole, one write at a time; registrations that come meanwhile share the next. Only the
application that registered a client may speak for it.
"""

from dataclasses import dataclass, field

from cloud.federated.asks import refused, reply
from cloud.federated.events import Asker, LearnerAsked, SaveClients
from cloud.federated.fleet import Fleet
from shared.core import Effect
from shared.ids import is_id

CLIENTS_MAX = 4096
WAITING_MAX = 1000


@dataclass(slots=True)
class Clients:
    """``waiting``: askers for the next write; ``confirming``: for the one under way."""

    fleet: Fleet
    waiting: list[Asker] = field(default_factory=list)
    confirming: list[Asker] = field(default_factory=list)
    saving: bool = False

    def asked(self, event: LearnerAsked, now: float) -> list[Effect]:
        """Register, renew or forget one."""
        ask, asker = event.ask, Asker(event.app, event.ask.correlation)
        complaint = self._not_its(event.app, ask.client)
        if complaint:
            return [refused(asker, "not-yours", complaint)]
        if len(self.waiting) >= WAITING_MAX:
            return [refused(asker, "overloaded", "too many registrations wait for the disk; try again")]
        if ask.learner is None:
            self.fleet.forget(ask.client)
        else:
            known = ask.client in self.fleet.apps or len(self.fleet.apps) < CLIENTS_MAX
            full = "" if known else f"{CLIENTS_MAX} clients are registered"
            why = full or self.fleet.learn(ask.client, ask.learner, now)
            if why:
                return [refused(asker, "not-registered", why)]
            self.fleet.apps[ask.client] = event.app
        self.waiting.append(asker)
        return self._save()

    def saved(self) -> list[Effect]:
        """The write under way is durable."""
        confirmed, self.confirming, self.saving = self.confirming, [], False
        return [*(reply(asker, None) for asker in confirmed), *self._save()]

    def failed(self, reason: str) -> list[Effect]:
        """It is not; what was registered holds until the next start."""
        failed, self.confirming, self.saving = self.confirming, [], False
        return [*(refused(asker, "not-saved", reason) for asker in failed), *self._save()]

    def _save(self) -> list[Effect]:
        if self.saving or not self.waiting:
            return []
        self.confirming, self.waiting, self.saving = self.waiting, [], True
        learners = self.fleet.learners
        return [SaveClients({client: (app, learners[client]) for client, app in self.fleet.apps.items()})]

    def _not_its(self, app: str, client: str) -> str:
        if not is_id(client):
            return f"{client[:80]!r} is not a usable name: 1 to 64 of a-z, 0-9 and '-'"
        owner = self.fleet.apps.get(client)
        if owner is None and (client in self.fleet.facts or client in self.fleet.learners):
            return f"{client} is a device of the fleet"
        return f"{client} was registered by {owner}" if owner not in (None, app) else ""
