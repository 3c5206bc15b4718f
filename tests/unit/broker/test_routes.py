import itertools

from hypothesis import given
from hypothesis import strategies as st

from broker.routes import Binding, Routes, identifier_of, overlap
from shared.filters import matches

LEVEL = st.sampled_from(["a", "b", "+"])
FILTERS = st.builds(
    lambda levels, rest: "/".join([*levels, *rest]),
    st.lists(LEVEL, min_size=1, max_size=3),
    st.sampled_from([[], ["#"]]),
)
TOPICS = ["/".join(parts) for size in (1, 2, 3, 4) for parts in itertools.product("ab", repeat=size)]


def bind(routes, *filters, qos=1):
    binding = Binding(filters, lambda _: None, qos, lambda one: None)
    routes.add(binding)
    return binding


@given(FILTERS, FILTERS)
def test_filters_overlap_exactly_when_some_topic_matches_both(one, other):
    common = any(matches(one, topic) and matches(other, topic) for topic in TOPICS)
    assert overlap(one, other) == overlap(other, one) == common


@given(
    st.lists(st.lists(FILTERS, min_size=1, max_size=4, unique=True), min_size=1, max_size=4),
    st.sampled_from(TOPICS),
)
def test_each_handler_that_matches_gets_exactly_one_copy_whatever_the_broker_sends(bindings, topic):
    routes = Routes()
    bound = [bind(routes, *filters) for filters in bindings]
    matching = [pattern for pattern in routes.filters if matches(pattern, topic)]
    wanted = {id(one) for one in bound if any(matches(pattern, topic) for pattern in one.filters)}

    separate = [target for pattern in matching for target in routes.targets(topic, [identifier_of(pattern)])]
    assert sorted(map(id, separate)) == sorted(wanted)
    if matching:
        merged = routes.targets(topic, [identifier_of(pattern) for pattern in matching])
        assert sorted(map(id, merged)) == sorted(wanted)
    assert sorted(map(id, routes.targets(topic))) == sorted(wanted)


@given(
    st.lists(
        st.one_of(
            st.lists(FILTERS, min_size=1, max_size=3, unique=True),  # somebody listens
            st.integers(0, 9),  # one of them leaves
            st.tuples(FILTERS, st.booleans()),  # the broker's word on a filter
        ),
        max_size=20,
    )
)
def test_whoever_came_and_went_before_routes_are_those_of_who_is_there(history):
    def collide(pattern: str) -> int:
        return len(pattern) % 3 + 1

    routes, there, refused = Routes(identify=collide), [], set()
    for one in history:
        if isinstance(one, list):
            there.append(bind(routes, *one))
        elif isinstance(one, tuple):
            routes.answered(*one)
            (refused.discard if one[1] else refused.add)(one[0])
        elif there:
            routes.remove(there.pop(one % len(there)))
    fresh = Routes(identify=collide)
    for binding in there:
        fresh.add(binding)
    for pattern in refused:
        fresh.answered(pattern, False)
    for topic, named in itertools.product(TOPICS, [(), (1,), (2,), (3,), (1, 3)]):
        assert routes.targets(topic, named) == fresh.targets(topic, named)


def test_identifiers_are_legal_and_the_same_in_every_process():
    assert identifier_of("node/+/up/presence") == 227547457
    assert all(1 <= identifier_of(f"x/{number}") <= 268_435_455 for number in range(1000))


def test_two_filters_that_share_an_identifier_are_told_apart_by_the_topic():
    routes = Routes(identify=lambda _: 7)
    one, two = bind(routes, "a/+"), bind(routes, "b/+")
    assert routes.targets("a/x", [7]) == (one,)
    assert routes.targets("b/x", [7]) == (two,)


def test_an_identifier_of_an_earlier_life_falls_back_to_the_filters():
    routes = Routes()
    one = bind(routes, "a/+")
    assert routes.targets("a/x", [12345]) == (one,)
    assert routes.targets("b/x", [12345]) == ()


def test_a_refused_filter_is_never_the_one_that_a_copy_waits_for():
    routes = Routes()
    one = bind(routes, "a/#", "a/+")
    routes.answered("a/#", granted=False)
    assert routes.targets("a/x", [identifier_of("a/+")]) == (one,)
    routes.answered("a/#", granted=True)
    assert routes.targets("a/x", [identifier_of("a/+")]) == ()
    assert routes.targets("a/x", [identifier_of("a/#")]) == (one,)


def test_a_shared_subscription_is_matched_without_its_group():
    routes = Routes()
    one = bind(routes, "$share/group/a/+")
    assert routes.targets("a/x", [identifier_of("$share/group/a/+")]) == (one,)
    assert routes.targets("a/x") == (one,)


def test_a_filter_stays_until_the_last_of_its_handlers_leaves():
    routes = Routes()
    one, two = bind(routes, "a", "b"), bind(routes, "a", qos=0)
    assert routes.qos("a") == 1
    assert routes.remove(one) == ["b"]
    assert routes.qos("a") == 0
    assert routes.filters == ("a",)
    assert routes.remove(two) == ["a"]
