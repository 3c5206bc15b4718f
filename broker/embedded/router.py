"""Who gets a message: subscriptions, shared groups, and the cached answer per topic.

The first message of a topic walks the tree and folds the result into a :class:`Plan`; every further one only
reads it. Overlapping filters of one session are folded into one delivery with the highest QoS and all
subscription identifiers (section 3.3.4), and the access rules are asked while folding, so that a permission
costs nothing per message. A subscription to a plain topic discards the plan of that topic, one with wildcards
discards all.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from broker.embedded.access import Authorizer
from broker.embedded.config import BrokerLimits
from broker.embedded.holdings import Holdings
from broker.embedded.message import Message
from broker.embedded.outbox import Outbox
from broker.embedded.session import Session, Subscription
from broker.embedded.shared_group import Member, SharedGroup
from broker.embedded.stats import Counters
from broker.embedded.topics import TopicTree, has_wildcard, tree_bytes

_ROUTE_BYTES = 128  # of memory that a route in a plan takes


@dataclass(slots=True)
class FilterEntry:
    """Everyone who asked for one filter."""

    sessions: dict[Session, Subscription]
    groups: dict[str, SharedGroup]


@dataclass(slots=True)
class Route:
    """One session in a plan. ``for_itself`` is its route when it is the publisher (no-local)."""

    client_id: str
    outbox: Outbox
    qos: int
    retain_as_published: bool
    ids: tuple[int, ...]
    for_itself: "Route | None"


@dataclass(slots=True)
class Plan:
    """The routing answer of one topic."""

    routes: list[Route]
    groups: list[tuple[SharedGroup, list[Member]]]


class Router:
    """Filters in, messages through."""

    __slots__ = (
        "_authorizer", "_clock", "_counters", "_filter_bytes", "_holdings", "_limits", "_plans",
        "_routes_cached", "_tree", "subscriptions",
    )  # fmt: skip

    def __init__(
        self,
        authorizer: Authorizer,
        limits: BrokerLimits,
        counters: Counters,
        clock: Callable[[], float],
        holdings: Holdings,
    ) -> None:
        self._authorizer, self._limits, self._counters, self._clock = authorizer, limits, counters, clock
        self._holdings = holdings
        self._tree: TopicTree[FilterEntry] = TopicTree()
        self._plans: dict[str, Plan] = {}
        self._routes_cached = 0
        self._filter_bytes = 0  # an estimate of what the filters of all sessions take
        self.subscriptions = 0

    def has_room_for(self, session: Session, filter: str) -> bool:
        """True when the session has this subscription already, or may add it within its and our limits."""
        limits, held = self._limits, session.subscriptions
        return filter in held or (
            len(held) < limits.subscriptions_max
            and self._filter_bytes + tree_bytes(filter) <= limits.subscription_bytes_total_max
        )

    def subscribe(self, session: Session, subscription: Subscription) -> None:
        """Add the subscription, or put it in the place of an earlier one with the same filter."""
        entry = self._tree.get(subscription.topic_filter)
        if entry is None:
            entry = FilterEntry({}, {})
            self._tree.put(subscription.topic_filter, entry)
        self._forget(subscription.topic_filter)
        if subscription.filter not in session.subscriptions:
            self.subscriptions += 1
            self._filter_bytes += tree_bytes(subscription.filter)
        session.subscriptions[subscription.filter] = subscription
        if subscription.group is None:
            entry.sessions[session] = subscription
            return
        group = entry.groups.get(subscription.group)
        if group is None:
            group = SharedGroup(self._limits, self._counters, self._clock, self.may_receive, self._holdings)
            entry.groups[subscription.group] = group
        group.join(session, subscription)

    def unsubscribe(self, session: Session, filter: str) -> bool:
        """Remove the subscription; False when there was none."""
        subscription = session.subscriptions.pop(filter, None)
        if subscription is None:
            return False
        self.subscriptions -= 1
        self._filter_bytes -= tree_bytes(filter)
        self._forget(subscription.topic_filter)
        entry = self._tree.get(subscription.topic_filter)
        assert entry is not None, "a subscription of a session is in the tree"
        if subscription.group is None:
            del entry.sessions[session]
        else:
            group = entry.groups[subscription.group]
            group.leave(session)
            if not group.members:
                del entry.groups[subscription.group]
        if not entry.sessions and not entry.groups:
            self._tree.pop(subscription.topic_filter)
        return True

    def route(self, message: Message) -> bool:
        """Deliver to everyone concerned; False when there was nobody."""
        plan = self._plans.get(message.topic)
        if plan is None:
            plan = self._plan(message.topic)
        qos, retain, origin = message.qos, message.retain, message.origin
        for route in plan.routes:
            if route.client_id == origin:
                if route.for_itself is None:
                    continue
                route = route.for_itself
            route.outbox.deliver(
                message,
                route.qos if route.qos < qos else qos,
                retain and route.retain_as_published,
                route.ids,
            )
        for group, members in plan.groups:
            group.dispatch(message, members)
        return bool(plan.routes or plan.groups)

    def may_receive(self, session: Session, topic: str) -> bool:
        """The answer of the access rules."""
        return self._authorizer.unconditional or self._authorizer.may_receive(session.identity, topic)

    def forget_plans(self) -> None:
        """The access rules, or who somebody is, have changed."""
        self._plans.clear()
        self._routes_cached = 0

    def _forget(self, topic_filter: str) -> None:
        if has_wildcard(topic_filter):
            self.forget_plans()
        else:
            plan = self._plans.pop(topic_filter, None)
            self._routes_cached -= _weight(topic_filter, plan) if plan else 0

    def _plan(self, topic: str) -> Plan:
        by_session: dict[Session, list[Subscription]] = {}
        groups: list[tuple[SharedGroup, list[Member]]] = []
        for entry in self._tree.match(topic):
            for session, subscription in entry.sessions.items():
                by_session.setdefault(session, []).append(subscription)
            for group in entry.groups.values():
                members = [
                    member for member in group.members.values() if self.may_receive(member.session, topic)
                ]
                if members:
                    groups.append((group, members))
        routes = [
            _fold(session, found) for session, found in by_session.items() if self.may_receive(session, topic)
        ]
        plan = Plan(routes, groups)
        self._keep(topic, plan)
        return plan

    def _keep(self, topic: str, plan: Plan) -> None:
        weight = _weight(topic, plan)
        if self._routes_cached + weight > self._limits.routes_cached_max:
            self.forget_plans()
        self._plans[topic] = plan
        self._routes_cached += weight


def _weight(topic: str, plan: Plan) -> int:
    """In routes. A long topic, which is a key of the cache, counts for the memory it takes."""
    return 1 + len(topic) // _ROUTE_BYTES + len(plan.routes) + sum(len(members) for _, members in plan.groups)


def _fold(session: Session, found: list[Subscription]) -> Route:
    route = _merge(session, found, None)
    audible = [subscription for subscription in found if not subscription.no_local]
    if len(audible) == len(found):
        route.for_itself = route
    elif audible:
        route.for_itself = _merge(session, audible, None)
    return route


def _merge(session: Session, found: Sequence[Subscription], for_itself: Route | None) -> Route:
    return Route(
        session.identity.client_id,
        session.outbox,
        max(subscription.qos for subscription in found),
        any(subscription.retain_as_published for subscription in found),
        tuple(number for subscription in found for number in subscription.ids),
        for_itself,
    )
