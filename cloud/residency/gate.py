"""The cloud's answer to "may this go there?", for target selection and for the bus; and its notebook.

Two ask: the sync core, which names a key and a tag and is answered by :meth:`Gate.allowed` (a pure question;
the answer goes to the notebook as the core's own effect), and the guarded bus, which shows a whole message.
The bus looks at what is really in the message, field by field, so that a mistake of a core leaks nothing.

The tag of data is what its writer said, under what the policy says of its key: both bind. A writer may make
data stricter and never laxer.
"""

import itertools
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from cloud.residency.core import Residency
from cloud.residency.events import Noted
from shared.audit import Outcome, Point, Record
from shared.carried import (
    ALL_READERS,
    CLOUD_READER,
    MODEL_PREFIX,
    Cargo,
    Item,
    cargo_of,
    chunk_cargo,
    kind_of,
)
from shared.classify import UNSEEN, TooDeep, tag_of
from shared.errors import RemoteError
from shared.residency import ANYBODY, Action, Decision, Place, PolicyText, Why, decide
from shared.sync import Decision as SyncDecision
from shared.tags import Tag, inherited
from shared.topics import CHUNK, find
from shared.wire import decode

PASS, REFUSE = 0, -1
NAMES_MAX = 10_000
GIVEN_MAX = 200_000
_CHUNK_PREFIX = CHUNK.pattern.partition("{")[0]
_DATA_LEVELS = ("sync", "desired", "reported")

_tags = msgspec.msgpack.Decoder(Tag)


class Judged(SyncDecision, frozen=True, kw_only=True):
    """An answer with everything that the log wants to know of it."""

    decision: Decision
    tag: Tag | None
    place: Place
    action: Action


@lru_cache(maxsize=4096)
def _unpacked_tag(tag: bytes) -> Tag | None:
    """Raises ``msgspec.MsgspecError`` for what is no tag."""
    return _tags.decode(tag) if tag else None


def effective_tag(policy: PolicyText, key: str, value: Any, given: Tag | None) -> Tag | None:
    """What the policy says of the key, under what the writer said. Raises :class:`TooDeep`."""
    of_key = tag_of(policy, key, value)
    if given is None or of_key is None:
        return given or of_key
    return inherited([of_key, given])


class Gate:
    """One per cloud. ``note`` takes records to the log; ``unix_s``: the wall clock."""

    def __init__(self, core: Residency, note: Callable[[Noted], None], unix_s: Callable[[], float]) -> None:
        self._core, self._note, self._unix_s = core, note, unix_s
        self._tickets = itertools.count(1)
        self._given: dict[str, Tag] = {}  # what writers said, by key
        self._names: dict[str, str] = {}  # digest of an artifact -> its model
        self._said: dict[tuple[str, str, int], int] = {}  # artifact, reader, policy -> ticket
        self._durable: set[int] = set()

    # Questions of the sync core -----------------------------------------------------------------------

    def allowed(self, node: str, name: str, tag: bytes, action: str) -> Judged:  # noqa: ARG002
        """See :class:`shared.sync.Gate`. Nothing is written down here: see :meth:`selected`."""
        return self.ask(self._reader(node), name, tag)

    def ask(self, place: Place, key: str, tag: bytes, value: Any = UNSEEN) -> Judged:
        """May data of this key come to this place now?"""
        action = Action(key=key, kind=kind_of(key), at_unix_s=self._unix_s())
        policy = self._core.policy
        try:
            given = _unpacked_tag(tag)
            found = effective_tag(policy.text, key, value, given)
        except (msgspec.MsgspecError, UnicodeDecodeError, TooDeep):
            return self._judged(Decision(False, Why.UNREADABLE, "", policy.version), None, place, action)
        if given is not None:
            self._remember(key, given)
        if not self._core.room:
            return self._judged(Decision(False, Why.NO_LOG, "", policy.version), found, place, action)
        return self._judged(decide(policy, found, place, action), found, place, action)

    def _remember(self, key: str, given: Tag) -> None:
        """For the bus, which is asked right after the core and sees no tag."""
        self._given.pop(key, None)
        self._given[key] = given
        if len(self._given) > GIVEN_MAX:
            del self._given[next(iter(self._given))]

    def _judged(self, decision: Decision, tag: Tag | None, place: Place, action: Action) -> Judged:
        reason = f"{decision.why}: {decision.rule}" if decision.rule else str(decision.why)
        return Judged(
            allowed=decision.allow, reason=reason, decision=decision, tag=tag, place=place, action=action
        )

    def _reader(self, node: str) -> Place:
        if node == CLOUD_READER:
            return self._core.cloud
        return ANYBODY if node == ALL_READERS else self._core.place(node)

    # Questions of the bus -----------------------------------------------------------------------------

    def concerns(self, topic: str) -> bool:
        """See :class:`broker.guard.Judge`."""
        if topic.startswith("all/"):
            return topic.startswith(("all/chunk/", "all/manifest/"))
        levels = topic.split("/", 4)
        return len(levels) > 3 and levels[3] in _DATA_LEVELS and levels[4:] != ["models"]

    def judge(self, topic: str, payload: bytes) -> int:
        """See :class:`broker.guard.Judge`."""
        cargo = self._cargo(topic, payload)
        if cargo is None:
            return REFUSE  # on a topic for data, and not to be looked through: our own mistake
        if not cargo.items:
            return PASS
        if any(item.artifact for item in cargo.items):
            return self._judge_artifact(cargo)
        judged = [self._look(cargo, item) for item in cargo.items]
        ticket = next(self._tickets) if all(one.allowed for one in judged) else 0
        for number, one in enumerate(judged, 1):
            self._write(Point.PUBLISH, [one], ticket if number == len(judged) else 0)
        return ticket or REFUSE

    def may_stay(self, topic: str, payload: bytes) -> bool:
        """See :class:`broker.guard.Judge`. What has to go is written down."""
        cargo = self._cargo(topic, payload)
        if cargo is None:
            return False
        judged = [self._look(cargo, item) for item in cargo.items]
        gone = [one for one in judged if not one.allowed]
        for one in gone:
            self._write(Point.WITHDRAW, [one])
        return not gone

    def _cargo(self, topic: str, payload: bytes) -> Cargo | None:
        if topic.startswith(_CHUNK_PREFIX):
            return chunk_cargo(topic.split("/")[2])
        found = find(topic)
        if found is None:
            return None
        try:
            return cargo_of(found[0], found[1], decode(found[0], payload))
        except RemoteError:
            return None

    def _look(self, cargo: Cargo, item: Item) -> Judged:
        given = self._given.get(item.key)
        place = self._reader(cargo.reader)
        try:
            value = item.value()
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            value = UNSEEN
        return self.ask(place, item.key, msgspec.msgpack.encode(given) if given else b"", value)

    def _judge_artifact(self, cargo: Cargo) -> int:
        """Once per artifact, reader and policy: its chunks are many, and their answer is one."""
        item = cargo.items[0]
        if item.key:
            self.learn(item.artifact, item.key)
        which = (item.artifact, cargo.reader, self._core.policy.version)
        if which not in self._said:
            key = self._names.get(item.artifact, MODEL_PREFIX)
            judged = self.ask(self._reader(cargo.reader), key, b"")
            ticket = next(self._tickets) if judged.allowed else REFUSE
            self._write(Point.PUBLISH, [judged], max(0, ticket), task=item.artifact)
            if len(self._said) >= NAMES_MAX:
                self._said.clear()
            self._said[which] = ticket
        ticket = self._said[which]
        return PASS if ticket in self._durable else ticket

    def learn(self, artifact: str, name: str) -> None:
        """The digest of an artifact and the key of its model."""
        if len(self._names) < NAMES_MAX:
            self._names[artifact] = name

    def released(self, tickets: Sequence[int]) -> None:
        """These are durable."""
        if self._said:
            said = set(self._said.values())
            self._durable = (self._durable & said) | (said & set(tickets))

    # The notebook -------------------------------------------------------------------------------------

    def selected(self, judged: Sequence[Judged], task: str = "") -> None:
        """The answers to one question (a key, a tag) for several nodes: one record."""
        self._write(Point.SELECT, judged, task=task)

    def note(self, point: Point, judged: Judged) -> None:
        """One answer: one record."""
        self._write(point, [judged])

    def _write(self, point: Point, judged: Sequence[Judged], ticket: int = 0, task: str = "") -> None:
        first = judged[0]
        record = Record(
            at_unix_s=first.action.at_unix_s,
            point=point,
            task=task,
            policy=first.decision.policy,
            action=first.action,
            tag=first.tag,
            outcomes=outcomes_of(judged),
        )
        self._note(Noted(record, ticket))


def outcomes_of(judged: Sequence[Judged]) -> tuple[Outcome, ...]:
    """The places by what they were answered."""
    groups: dict[tuple[bool, Why, str], list[Place]] = {}
    for one in judged:
        decision = one.decision
        groups.setdefault((decision.allow, decision.why, decision.rule), []).append(one.place)
    return tuple(
        Outcome(allow=allow, why=why, rule=rule, places=tuple(places))
        for (allow, why, rule), places in groups.items()
    )
