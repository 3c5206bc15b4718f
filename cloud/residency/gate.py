"""The cloud's answer to "may this go there?", for target selection and for the bus; and its notebook.

Two ask: the sync core, which names a key and a tag and is answered by :meth:`Gate.allowed` (a pure question;
the answer goes to the notebook as the core's own effect), and the guarded bus, which shows a whole message.
The bus looks at what is really in the message, field by field, so that a mistake of a core leaks nothing.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import Any

import msgspec

from cloud.residency.core import Residency
from cloud.residency.events import Noted
from shared import carried
from shared.audit import Outcome, Point, Record
from shared.carried import ALL_READERS, CLOUD_READER, MODEL_PREFIX, Cargo, Item
from shared.classify import UNSEEN
from shared.judged import Judged, judged, refused, value_in
from shared.residency import ANYBODY, OPEN, Action, Kind, Place, Why

PASS, REFUSE = 0, -1
NAMES_MAX = 10_000


class Gate:
    """One per cloud. ``note`` takes records to the log; ``unix_s``: the wall clock.

    ``model_tags``: packed tags that were given to models, as ``keep_tags`` was last told.
    """

    def __init__(
        self,
        core: Residency,
        note: Callable[[Noted], None],
        unix_s: Callable[[], float],
        model_tags: Mapping[str, bytes] | None = None,
        keep_tags: Callable[[Mapping[str, bytes]], None] = lambda _: None,
    ) -> None:
        self._core, self._note, self._unix_s = core, note, unix_s
        self._tickets = itertools.count(1)
        self._model_tags, self._keep_tags = dict(model_tags or {}), keep_tags
        self._names: dict[str, str] = {}  # digest of an artifact -> its model
        self._said: dict[tuple[str, str, int, Why], int] = {}  # artifact, reader, policy, why -> ticket
        self._durable: set[int] = set()
        self._ends: dict[int, float] = {}  # ticket -> when the first of its data expires
        self._upcoming: set[float] = set()  # of everything that was published

    # Questions of the sync core -----------------------------------------------------------------------

    def allowed(self, node: str, name: str, tag: bytes, action: str) -> Judged:  # noqa: ARG002
        """See :class:`shared.sync.Gate`. Nothing is written down here: see :meth:`selected`."""
        if name.startswith(MODEL_PREFIX) and tag:
            self.tag_model(name, tag)
        return self.ask(self._reader(node), name, self._model_tags.get(name, tag))

    def ask(self, place: Place, key: str, tag: bytes = b"", value: Any = UNSEEN) -> Judged:
        """May data of this key come to this place now?"""
        policy = self._core.policy
        answer = judged(policy, place, key, self._unix_s(), tag=tag, value=value)
        if not self._core.room:
            return refused(policy, place, answer.action, Why.NO_LOG, answer.tag)
        return answer

    def tag_model(self, name: str, tag: bytes) -> None:
        """Chunks carry no tag: what was said of a model is kept, for the bus and over a restart."""
        if self._model_tags.get(name) != tag and len(self._model_tags) < NAMES_MAX:
            self._model_tags[name] = tag
            self._keep_tags(self._model_tags)

    def _reader(self, node: str) -> Place:
        if node == CLOUD_READER:
            return self._core.cloud
        return ANYBODY if node == ALL_READERS else self._core.place(node)

    # Questions of the bus -----------------------------------------------------------------------------

    def concerns(self, topic: str) -> bool:
        """See :class:`broker.guard.Judge`."""
        return carried.concerns(topic)

    def judge(self, topic: str, payload: bytes) -> int:
        """See :class:`broker.guard.Judge`."""
        cargo = carried.cargo_in(topic, payload)
        if cargo is None:
            return REFUSE  # on a topic for data, and not to be looked through: our own mistake
        if not cargo.items:
            return PASS
        if any(item.artifact for item in cargo.items):
            return self._judge_artifact(cargo)
        answers = [self._look(cargo, item) for item in cargo.items]
        ticket = self._ticket(answers) if all(one.allowed for one in answers) else 0
        for number, one in enumerate(answers, 1):
            self._write(Point.PUBLISH, [one], ticket if number == len(answers) else 0)
        return self._ruling(ticket)

    def _ruling(self, ticket: int) -> int:
        """Where nobody wrote a policy there is nothing to guard: the log is written beside, not before."""
        return PASS if ticket > 0 and self._core.policy is OPEN else ticket or REFUSE

    def _ticket(self, answers: Sequence[Judged]) -> int:
        ticket, end = next(self._tickets), self._note_end(answers)
        if end < inf:
            self._ends[ticket] = end
        return ticket

    def _note_end(self, answers: Sequence[Judged]) -> float:
        """When the first of these data expires: what is retained of them goes then."""
        end = min((one.tag.expires_at_unix_s or inf for one in answers if one.tag), default=inf)
        if end < inf:
            self._upcoming.add(end)
            if len(self._upcoming) > NAMES_MAX:
                self._upcoming.discard(max(self._upcoming))
        return end

    def still(self, ticket: int) -> bool:
        """See :class:`broker.guard.Judge`."""
        return self._unix_s() < self._ends.pop(ticket, inf)

    def ended(self) -> bool:
        """Whether data that were published have expired since the last time this was asked."""
        now = self._unix_s()
        passed = {end for end in self._upcoming if end <= now}
        self._upcoming -= passed
        return bool(passed)

    def may_stay(self, topic: str, payload: bytes) -> bool:
        """See :class:`broker.guard.Judge`. What has to go is written down."""
        cargo = carried.cargo_in(topic, payload)
        if cargo is None:
            return False
        answers = [self._look(cargo, item) for item in cargo.items]
        gone = [one for one in answers if not one.allowed]
        self._note_end(answers)
        for one in gone:
            self._write(Point.WITHDRAW, [one])
        return not gone

    def _look(self, cargo: Cargo, item: Item) -> Judged:
        key, place = item.key or self._names.get(item.artifact, ""), self._reader(cargo.reader)
        if not key and self._core.policy is not OPEN:  # an artifact that nobody named to us
            action = Action(key=MODEL_PREFIX, kind=Kind.MODEL, at_unix_s=self._unix_s())
            return refused(self._core.policy, place, action, Why.NO_TAG)
        return self.ask(
            place, key or MODEL_PREFIX, item.tag or self._model_tags.get(key, b""), value_in(item)
        )

    def _judge_artifact(self, cargo: Cargo) -> int:
        """Written down once per artifact, reader and policy: its chunks are many, and their answer is one."""
        item = cargo.items[0]
        if item.key:
            self.learn(item.artifact, item.key)
        answer = self._look(cargo, item)
        which = (item.artifact, cargo.reader, answer.decision.policy, answer.decision.why)
        if which not in self._said:
            ticket = self._ticket([answer]) if answer.allowed else REFUSE
            self._write(Point.PUBLISH, [answer], max(0, ticket), task=item.artifact)
            if len(self._said) >= NAMES_MAX:
                self._said.clear()
            self._said[which] = ticket
        ticket = self._said[which]
        return PASS if ticket in self._durable else self._ruling(ticket)

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

    def selected(self, answers: Sequence[Judged], key: str = "") -> None:
        """The answers to one question (a key, a tag) for several nodes: one record."""
        self._write(Point.SELECT, answers, key=key)

    def note(self, point: Point, answer: Judged) -> None:
        """One answer: one record."""
        self._write(point, [answer])

    def _write(
        self, point: Point, answers: Sequence[Judged], ticket: int = 0, task: str = "", key: str = ""
    ) -> None:
        first = answers[0]
        action = msgspec.structs.replace(first.action, key=key) if key else first.action
        record = Record(
            at_unix_s=first.action.at_unix_s,
            point=point,
            task=task,
            policy=first.decision.policy,
            action=action,
            tag=first.tag,
            outcomes=outcomes_of(answers),
        )
        self._note(Noted(record, ticket))


def outcomes_of(answers: Sequence[Judged]) -> tuple[Outcome, ...]:
    """The places by what they were answered."""
    groups: dict[tuple[bool, Why, str], list[Place]] = {}
    for one in answers:
        decision = one.decision
        groups.setdefault((decision.allow, decision.why, decision.rule), []).append(one.place)
    return tuple(
        Outcome(allow=allow, why=why, rule=rule, places=tuple(places))
        for (allow, why, rule), places in groups.items()
    )
