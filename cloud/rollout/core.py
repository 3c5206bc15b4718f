"""Keeps every node's orders equal to what the standing rules say, and never says what it could forget.

    NEW ──tick──> LOADING ──restored──> SETTLED ──something changed──> SAVING ──failed──> UNSAVED
     └───failed──────┘                     └──────────saved──────────────┘ └──────tick───────┘

Journal before acknowledge: one save at a time writes all that differs from the store; only then are nodes
told and is the application answered. Changes that come during a save share the next one, so a burst of a
thousand costs a few transactions. A save that failed is tried again at each tick. It may have happened, and
saving the same again is harmless; the application whose budget ends first learns that its rule *may* stand.

What each node should hold, and how far it is, lives in :mod:`cloud.rollout.levels`; this file decides when.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from typing import Any

from cloud.facts import NodeChanged, NodeForgotten
from cloud.rollout.events import Deployed, Event, Load, ModelAdded, ReportedSeen, Restored, Save, Saved
from cloud.rollout.levels import Levels
from cloud.rollout.progress import progress
from cloud.rollout.rules import RULES_MAX, Catalog, Key, NoSuchModel, Rule, RuleBook, model_name
from cloud.rollout.targets import BadTarget, Target, parse_target
from shared.core import Effect, Failed, Ignore, LinkDown, LinkUp, Publish, Tick
from shared.deploys import DeployResult
from shared.errors import InvalidTransition
from shared.ids import is_id
from shared.messages import Deploy, Reply, ReplyStatus
from shared.topics import APP_REPLY, DESIRED
from shared.views import DeploymentView
from shared.wire import packed

WAITING_MAX = 1000
BUDGET_S_MAX = 60.0
NODES_SHOWN_MAX = 1000
_TARGET_SHOWN_MAX = 200


class Phase(StrEnum):
    """What this core waits for."""

    NEW = "new"
    LOADING = "loading"
    SETTLED = "settled"
    SAVING = "saving"
    UNSAVED = "unsaved"


NEXT: Mapping[Phase, frozenset[Phase]] = {
    Phase.NEW: frozenset({Phase.LOADING}),
    Phase.LOADING: frozenset({Phase.SETTLED, Phase.NEW}),
    Phase.SETTLED: frozenset({Phase.SAVING}),
    Phase.SAVING: frozenset({Phase.SETTLED, Phase.UNSAVED}),
    Phase.UNSAVED: frozenset({Phase.SAVING}),
}


@dataclass(frozen=True, slots=True)
class Waiting:
    """An application that is answered once its rule is durable."""

    app: str
    correlation: str
    deadline: float
    result: DeployResult


class Refusal(Exception):
    """Why a request changes nothing."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code, self.detail = code, detail


@dataclass(slots=True)
class Rollout:
    """One per cloud. ``step`` is the only door; ``deployments`` only looks."""

    phase: Phase = Phase.NEW
    linked: bool = False
    catalog: Catalog = field(default_factory=Catalog)
    rules: RuleBook = field(default_factory=RuleBook)
    levels: Levels = field(default_factory=Levels)
    unsaved_rules: dict[Key, None] = field(default_factory=dict)
    saving: Save | None = None
    waiting: list[Waiting] = field(default_factory=list)  # for the next save
    confirming: list[Waiting] = field(default_factory=list)  # for the one under way

    def step(self, event: Event, now: float) -> list[Effect]:
        """See :class:`shared.core.Core`."""
        effects = _HANDLERS[type(event)](self, event, now)
        if self.phase is Phase.SETTLED and (self.unsaved_rules or self.levels.unsaved):
            effects.append(self._save())
        return effects

    def deployments(self) -> list[DeploymentView]:
        """Every rule with the nodes it governs now and how far they are, by model and then age."""
        return progress(self.rules, self.levels)

    # The store --------------------------------------------------------------------------------------

    def _restored(self, event: Restored, now: float) -> list[Effect]:
        if self.phase is not Phase.LOADING:
            return [Ignore(f"Restored while {self.phase}")]
        self.rules = RuleBook(event.rules)
        self.levels.restore(event.desired)
        for node in self.levels.nodes:
            self.levels.want(node, self.rules)
        self._enter(Phase.SETTLED)
        return self._tell(now)

    def _save(self) -> Save:
        changed = [(key, self.rules.get(key)) for key in self.unsaved_rules]
        self.saving = Save(
            rules=tuple(rule for _, rule in changed if rule is not None),
            withdrawn=tuple(key for key, rule in changed if rule is None),
            desired=self.levels.batch(),
        )
        self.unsaved_rules.clear()
        self.confirming += self.waiting
        self.waiting = []
        self._enter(Phase.SAVING)
        return self.saving

    def _saved(self, _: Saved, now: float) -> list[Effect]:
        if self.saving is None:
            return [Ignore(f"Saved while {self.phase}")]
        self.levels.confirm(self.saving.desired)
        self.saving = None
        self._enter(Phase.SETTLED)
        replies: list[Effect] = [_reply(one.app, one.correlation, one.result) for one in self.confirming]
        self.confirming = []
        return replies + self._tell(now)

    def _failed(self, event: Failed, _: float) -> list[Effect]:
        match event.work:
            case Load() if self.phase is Phase.LOADING:
                self._enter(Phase.NEW)
            case Save() if event.work is self.saving:
                self._give_back(event.work)
                self._enter(Phase.UNSAVED)
        return [Ignore(f"{type(event.work).__name__} failed, to be tried again: {event.reason}")]

    def _give_back(self, save: Save) -> None:
        self.unsaved_rules.update((rule.key, None) for rule in save.rules)
        self.unsaved_rules.update((key, None) for key in save.withdrawn)
        self.levels.give_back(save.desired)
        self.saving = None
        self.waiting, self.confirming = self.confirming + self.waiting, []

    # The fleet --------------------------------------------------------------------------------------

    def _tell(self, now: float) -> list[Effect]:
        if not self.linked:
            return []
        return [Publish(DESIRED.at(node=one.node), one.desired) for one in self.levels.tell(now)]

    def _link_up(self, _: LinkUp, now: float) -> list[Effect]:
        self.linked = True
        self.levels.tell_everyone()
        return self._tell(now)

    def _link_down(self, _: LinkDown, __: float) -> list[Effect]:
        self.linked = False
        return []

    def _node(self, event: NodeChanged, _: float) -> list[Effect]:
        return _ignored(self.levels.see_node(event.fact, self.rules))

    def _forgotten(self, event: NodeForgotten, _: float) -> list[Effect]:
        self.levels.forget(event.node)
        return []

    def _report(self, event: ReportedSeen, _: float) -> list[Effect]:
        return _ignored(self.levels.see_report(event.node, event.reported))

    def _model(self, event: ModelAdded, _: float) -> list[Effect]:
        added = self.catalog.add(event.name, event.version, event.digest)
        return _ignored("" if added else f"no room in the catalog for {event.name} {event.version}")

    def _tick(self, _: Tick, now: float) -> list[Effect]:
        effects = self._expire(now)
        if self.phase is Phase.NEW:
            self._enter(Phase.LOADING)
            effects.append(Load())
        elif self.phase is Phase.UNSAVED:
            effects.append(self._save())
        self.levels.nudge(now)
        return effects + self._tell(now)

    # The applications -------------------------------------------------------------------------------

    def _deploy(self, event: Deployed, now: float) -> list[Effect]:
        deploy = event.deploy
        if not is_id(event.app):
            return [Ignore(f"{event.app[:80]!r} can't be answered")]
        if any(one.app == event.app and one.correlation == deploy.correlation for one in self._asking()):
            return [Ignore(f"{event.app} asks {deploy.correlation} a second time")]
        try:
            self._check_room()
            target = parse_target(deploy.target)
            result = self._withdraw(deploy, target) if deploy.remove else self._rule(event, target)
        except BadTarget as error:
            return [_refused(event, "bad-target", str(error))]
        except NoSuchModel as error:
            return [_refused(event, "no-such-model", str(error))]
        except Refusal as refusal:
            return [_refused(event, refusal.code, refusal.detail)]
        # Whatever is not a sensible budget, NaN included, fails the comparison.
        budget_s = deploy.budget_s if 0 < deploy.budget_s < BUDGET_S_MAX else BUDGET_S_MAX
        self.waiting.append(Waiting(event.app, deploy.correlation, now + budget_s, result))
        return []

    def _check_room(self) -> None:
        if self.phase in (Phase.NEW, Phase.LOADING):
            raise Refusal("starting", "the cloud is still reading its store; try again")
        if len(self.waiting) + len(self.confirming) >= WAITING_MAX:
            raise Refusal("overloaded", f"{WAITING_MAX} deployments wait for the store; try again")

    def _rule(self, event: Deployed, target: Target) -> DeployResult:
        name, version, digest = self.catalog.resolve(event.deploy.model)
        rule = Rule(
            self.rules.number + 1, name, str(target), version, digest, event.at_unix_s, created_by=event.app
        )
        if self.rules.get(rule.key) is None and len(self.rules) >= RULES_MAX:
            raise Refusal("too-many-deployments", f"{RULES_MAX} rules stand; withdraw one first")
        self.rules.put(rule)
        self.unsaved_rules[rule.key] = None
        self.levels.want_model(name, target, self.rules)
        return self._result(rule, target)

    def _withdraw(self, deploy: Deploy, target: Target) -> DeployResult:
        """``all`` withdraws every rule of the model, anything else exactly the rule of that target."""
        model = model_name(deploy.model)
        found = self.rules.get((model, str(target)))
        gone = self.rules.of(model) if target.everyone else [] if found is None else [found]
        if not gone:
            rules = self.rules.of(model)
            standing = ", ".join(repr(rule.target[:_TARGET_SHOWN_MAX]) for rule in islice(rules, 10))
            raise Refusal(
                "no-such-deployment", f"{deploy.model[:80]!r} is deployed to {standing or 'no target'}"
            )
        for rule in gone:
            self.rules.withdraw(rule.key)
            self.unsaved_rules[rule.key] = None
        self.levels.want_model(model, target, self.rules)
        return self._result(gone[-1], target, removed=True)

    def _result(self, rule: Rule, target: Target, *, removed: bool = False) -> DeployResult:
        matched = self.levels.matching(target)
        return DeployResult(
            model=rule.model,
            version=rule.version,
            digest=rule.digest,
            target=str(target),
            matched=len(matched),
            nodes=tuple(matched[:NODES_SHOWN_MAX]),
            unknown_nodes=tuple(sorted(target.nodes - self.levels.nodes.keys())),
            removed=removed,
        )

    def _expire(self, now: float) -> list[Effect]:
        late = [one for one in self._asking() if now >= one.deadline]
        self.waiting = [one for one in self.waiting if now < one.deadline]
        self.confirming = [one for one in self.confirming if now < one.deadline]
        detail = "the store has not confirmed it yet; it may still happen"
        return [
            _answer(one.app, one.correlation, ReplyStatus.FAILED, code="not-saved", detail=detail)
            for one in late
        ]

    def _asking(self) -> list[Waiting]:
        return self.confirming + self.waiting

    def _enter(self, phase: Phase) -> None:
        if phase not in NEXT[self.phase]:
            raise InvalidTransition(f"{self.phase} -> {phase}")
        self.phase = phase

    def check(self) -> None:
        """Invariants. Tests and simulations call this after every step."""
        assert (self.saving is not None) == (self.phase is Phase.SAVING)
        assert self.phase is not Phase.SETTLED or not (self.unsaved_rules or self.levels.unsaved)
        assert self.phase in (Phase.SAVING, Phase.UNSAVED) or not self._asking()
        assert len(self._asking()) <= WAITING_MAX
        assert len(self.rules) <= RULES_MAX
        batch = () if self.saving is None else self.saving.desired
        self.levels.check(self.rules, {one.node: one.desired for one in batch})


_HANDLERS: Mapping[type[Any], Callable[[Rollout, Any, float], list[Effect]]] = {
    Deployed: Rollout._deploy,
    ModelAdded: Rollout._model,
    NodeChanged: Rollout._node,
    NodeForgotten: Rollout._forgotten,
    ReportedSeen: Rollout._report,
    Restored: Rollout._restored,
    Saved: Rollout._saved,
    Failed: Rollout._failed,
    LinkUp: Rollout._link_up,
    LinkDown: Rollout._link_down,
    Tick: Rollout._tick,
}


def _ignored(reason: str) -> list[Effect]:
    return [Ignore(reason)] if reason else []


def _refused(event: Deployed, code: str, detail: str) -> Effect:
    return _answer(event.app, event.deploy.correlation, ReplyStatus.REFUSED, code=code, detail=detail)


def _answer(app: str, correlation: str, status: ReplyStatus, *, code: str, detail: str) -> Effect:
    return Publish(
        APP_REPLY.at(app=app), Reply(correlation=correlation, status=status, code=code, detail=detail)
    )


def _reply(app: str, correlation: str, result: DeployResult) -> Effect:
    return Publish(APP_REPLY.at(app=app), Reply(correlation=correlation, body=packed(result)))
