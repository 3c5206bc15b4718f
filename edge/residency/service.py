"""Residency on the device: bound to the bus, the store and the cloud's key.

sync core ──may it? (receive, publish)──> gate ──> report to the cloud's audit log
services ──publish──> guarded bus ──what is in it?──> broker
"""

import base64
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from broker.bus import Bus
from broker.guard import PASS, REFUSE, GuardedBus
from broker.service import Service, on
from edge.residency.core import Residency, Signatures
from edge.residency.events import (
    DecisionMade,
    Event,
    HeadHeard,
    Kept,
    PlaceHeard,
    PolicyHeard,
    ProofHeard,
    Remember,
    Suspect,
)
from shared import carried
from shared.audit import Decided, Point, signed_place_bytes, signed_policy_bytes
from shared.carried import CLOUD_READER
from shared.classify import UNSEEN
from shared.errors import ConfigError
from shared.judged import Judged, judged, refused, value_in
from shared.residency import OPEN, Action, Place, Why
from shared.sync import PUBLISH, RECEIVE
from shared.topics import AUDIT_HEAD, PLACE, POLICY, PROOF
from shared.transparency import signed_head_bytes

log = logging.getLogger(__name__)

_POINTS = {PUBLISH: Point.PUBLISH, RECEIVE: Point.RECEIVE}


def signatures(public_key_hex: str, node: str) -> Signatures:
    """What the cloud's key (64 hex digits) has signed. Raises :class:`ConfigError` when that is no key."""
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key_hex))
    except ValueError:
        raise ConfigError("device.cloud_key must be an Ed25519 public key: 64 hex digits") from None

    def good(signature: bytes, signed: bytes) -> bool:
        try:
            key.verify(signature, signed)
        except InvalidSignature:
            return False
        return True

    return Signatures(
        policy=lambda fact: good(fact.signature, signed_policy_bytes(fact)),
        place=lambda fact: good(fact.signature, signed_place_bytes(node, fact)),
        head=lambda head: good(head.signature, signed_head_bytes(head)),
    )


class DeviceGate:
    """What the device's sync core asks, and what the guarded bus asks. ``note`` takes each answer."""

    def __init__(
        self, core: Residency, note: Callable[[DecisionMade], None], unix_s: Callable[[], float]
    ) -> None:
        self._core, self._note, self._unix_s = core, note, unix_s

    def allowed(self, node: str, name: str, tag: bytes, action: str) -> Judged:  # noqa: ARG002
        """See :class:`shared.sync.Gate`; what is to be published comes to the cloud, all else to us."""
        answer = self.ask(self._core.cloud if action == PUBLISH else self._core.place, name, tag)
        if action in _POINTS and not (action == PUBLISH and answer.allowed):  # the bus asks about that again
            self._tell(_POINTS[action], answer)
        return answer

    def ask(self, place: Place, key: str, tag: bytes = b"", value: Any = UNSEEN) -> Judged:
        """May data of this key come to this place? No, as long as no policy was told."""
        policy, at_unix_s = self._core.policy, self._unix_s()
        if policy is None:
            action = Action(key=key, kind=carried.kind_of(key), at_unix_s=at_unix_s)
            return refused(OPEN, place, action, Why.NO_POLICY)
        return judged(policy, place, key, at_unix_s, tag=tag, value=value)

    def _tell(self, point: Point, answer: Judged) -> None:
        decision = answer.decision
        decided = Decided(
            at_unix_s=answer.action.at_unix_s,
            point=point,
            action=answer.action,
            tag=answer.tag,
            allow=decision.allow,
            why=decision.why,
            rule=decision.rule,
            policy=decision.policy,
        )
        self._note(DecisionMade(decided))

    # Questions of the bus -----------------------------------------------------------------------------

    def concerns(self, topic: str) -> bool:
        """See :class:`broker.guard.Judge`."""
        return carried.concerns(topic)

    def judge(self, topic: str, payload: bytes) -> int:
        """See :class:`broker.guard.Judge`. Each answer is reported."""
        answers = self._look(topic, payload)
        for answer in answers or ():
            self._tell(Point.PUBLISH, answer)
        return PASS if answers is not None and all(one.allowed for one in answers) else REFUSE

    def still(self, ticket: int) -> bool:  # noqa: ARG002
        """See :class:`broker.guard.Judge`; a device holds nothing back."""
        return True

    def may_stay(self, topic: str, payload: bytes) -> bool:
        """See :class:`broker.guard.Judge`."""
        answers = self._look(topic, payload)
        gone = [one for one in answers or () if not one.allowed]
        for one in gone:
            self._tell(Point.PUBLISH, one)
        return answers is not None and not gone

    def _look(self, topic: str, payload: bytes) -> list[Judged] | None:
        cargo = carried.cargo_in(topic, payload)
        if cargo is None:
            return None
        place = self._core.cloud if cargo.reader == CLOUD_READER else self._core.place
        return [self.ask(place, item.key, item.tag, value_in(item)) for item in cargo.items]


class DeviceResidency:
    """Everything about residency in one agent. ``bus`` is what other services publish on.

    ``saved``: what ``remember`` was last given, from the device's store.
    """

    def __init__(
        self,
        node: str,
        epoch: int,
        bus: Bus,
        cloud_key: str,
        *,
        saved: Mapping[str, Any] | None,
        remember: Callable[[dict[str, Any]], None],
        unix_s: Callable[[], float] = time.time,
    ) -> None:
        self.core = Residency(node, epoch, signatures(cloud_key, node), kept_of(saved))
        self._remember = remember
        self.service: Service[Event] = Service(
            "residency",
            self.core,
            bus,
            [
                on(POLICY, lambda _, fact: PolicyHeard(fact)),
                on(PLACE, lambda _, fact: PlaceHeard(fact), node=node),
                on(AUDIT_HEAD, lambda _, fact: HeadHeard(fact)),
                on(PROOF, lambda _, proof: ProofHeard(proof), node=node),
            ],
            do={
                Remember: self._keep,
                Suspect: lambda effect: log.error("residency: %s", effect.what),
            },
        )
        self._judged_by: object = None
        self.gate = DeviceGate(self.core, self.service.feed, unix_s)
        self.bus = GuardedBus(bus, self.gate)

    def _keep(self, effect: Remember) -> None:
        packed = base64.b64encode(msgspec.msgpack.encode(effect.kept)).decode()
        self._remember({"kept": packed})
        rules = effect.kept.policy, effect.kept.place
        if rules != self._judged_by:
            self._judged_by = rules
            self.bus.judge_again()


def kept_of(saved: Mapping[str, Any] | None) -> Kept:
    """What an earlier boot believed. What can't be read is forgotten: the cloud says it again."""
    try:
        return msgspec.msgpack.decode(base64.b64decode((saved or {})["kept"]), type=Kept)
    except (KeyError, ValueError, TypeError, msgspec.MsgspecError):
        return Kept()
