"""The life of one boot, as stories and as any history."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.agent.core import (
    NEXT,
    Agent,
    CloudSeen,
    CommandArrived,
    Exit,
    LoadSeen,
    Measure,
    Measured,
    Phase,
    PingRead,
    ReadForPing,
    ReadVitals,
    StopAsked,
    TroubleSeen,
    Vitals,
    VitalsRead,
)
from shared.core import Failed, LinkDown, LinkUp, Publish, Tick
from shared.errors import InvalidTransition
from shared.messages import Capabilities, CloudPresence, Command, Heartbeat, NodeState, Presence, ReplyStatus
from tests.transcript import Transcript

ABLE = Measured(Capabilities(cores=2, memory_bytes=1 << 30, wasm_gflops=20.0))
VITALS = Vitals(1000.0, 0.25, 0.5, 1 << 29, 0.1, 50 << 20)


def agent(**changes) -> Agent:
    return Agent("n1", 7, "0.1", random.Random(1), labels={"region": "eu"}, **changes)


def command(verb: str, epoch: int = 7) -> CommandArrived:
    return CommandArrived(verb, Command(correlation="c1", budget_s=5.0, caller="cli", epoch=epoch))


def published(effects, of):
    return [one.message for one in effects if isinstance(one, Publish) and isinstance(one.message, of)]


def test_a_device_boots_joins_and_leaves():
    (
        Transcript("agent/boots-joins-and-leaves", agent())
        .at(0.0, Tick(), LinkUp(resumed=False), VitalsRead(VITALS))
        .at(1.0, ABLE)
        .until(12.0)
        .at(12.0, VitalsRead(VITALS))
        .at(13.0, LoadSeen(1, 1, ("digits",)))
        .at(14.0, StopAsked("SIGTERM"))
        .at(14.1, VitalsRead(VITALS))
        .at(15.0, LoadSeen(0, 0, ()))
        .matches()
    )


def test_a_device_boots_with_no_broker_and_joins_when_it_appears():
    (
        Transcript("agent/offline-boot", agent())
        .at(0.0, Tick())
        .at(1.0, ABLE)
        .until(30.0)
        .at(30.0, LinkUp(resumed=False))
        .at(30.0, VitalsRead(VITALS))
        .at(31.0, LinkDown())
        .until(60.0)
        .at(61.0, LinkUp(resumed=True))
        .matches()
    )


def test_commands_are_fenced_by_the_boot_they_were_meant_for():
    (
        Transcript("agent/commands", agent())
        .at(0.0, LinkUp(resumed=False), ABLE)
        .at(1.0, command("ping"))
        .at(1.0, PingRead(command("ping").command, VITALS))
        .at(2.0, command("ping", epoch=6))
        .at(3.0, command("dance"))
        .at(4.0, command("announce", epoch=0))
        .at(5.0, command("drain"))
        .at(6.0, command("drain"))
        .matches()
    )


def test_a_device_that_never_gets_idle_stops_at_the_deadline_of_its_drain():
    core = agent(drain_s=10.0)
    core.step(ABLE, 0.0)
    core.step(LoadSeen(0, 1, ("slow",)), 1.0)
    assert not [one for one in core.step(StopAsked("SIGTERM"), 2.0) if isinstance(one, Exit)]
    assert core.step(Tick(), 11.9) == []
    assert Exit("SIGTERM") in core.step(Tick(), 12.0)


def test_a_new_cloud_hears_of_a_device_within_a_second_and_an_old_one_does_not_hurry_it():
    core = agent()
    core.step(LinkUp(False), 0.0)
    core.step(ABLE, 0.0)
    core.step(CloudSeen(CloudPresence(online=True, term=5)), 2.0)
    assert ReadVitals() in core.step(Tick(), 3.0)
    core.step(CloudSeen(CloudPresence(online=True, term=5)), 4.0)
    core.step(CloudSeen(CloudPresence(online=False, term=6)), 4.0)
    assert core.step(Tick(), 5.5) == []
    core.step(CloudSeen(CloudPresence(online=True, term=6)), 6.0)
    assert ReadVitals() in core.step(Tick(), 7.0)


def test_trouble_shows_in_the_next_heartbeat():
    core = agent()
    core.step(LinkUp(False), 0.0)
    core.step(ABLE, 0.0)
    core.step(TroubleSeen("the store fell back"), 1.0)
    assert ReadVitals() in core.step(Tick(), 1.0), "it does not wait for the interval"
    (beat,) = published(core.step(VitalsRead(VITALS), 1.0), Heartbeat)
    assert beat.state is NodeState.ERROR


def test_a_benchmark_that_fails_is_tried_again():
    core = agent()
    assert core.step(Tick(), 0.0) == [Measure()]
    assert core.step(Tick(), 0.5) == []
    core.step(Failed(Measure(), "no wasm here"), 1.0)
    assert core.step(Tick(), 1.5) == [Measure()]


def test_a_refused_command_says_so():
    core = agent()
    (reply,) = core.step(command("ping", epoch=3), 0.0)
    assert reply.message.status is ReplyStatus.REFUSED
    assert reply.message.code == "stale-epoch"
    assert core.step(command("ping"), 0.0) == [ReadForPing(command("ping").command)]


events = st.one_of(
    st.just(Tick()),
    st.just(ABLE),
    st.just(LinkUp(False)),
    st.just(LinkDown()),
    st.just(VitalsRead(VITALS)),
    st.just(StopAsked("SIGTERM")),
    st.builds(
        lambda online, term: CloudSeen(CloudPresence(online=online, term=term)),
        st.booleans(),
        st.integers(0, 3),
    ),
    st.just(TroubleSeen("disk")),
    st.just(TroubleSeen("")),
    st.just(Failed(Measure(), "x")),
    st.builds(LoadSeen, st.integers(0, 3), st.integers(0, 3), st.just(("m",))),
    st.builds(command, st.sampled_from(["ping", "announce", "drain", "dance"]), st.sampled_from([0, 6, 7])),
)


@given(st.lists(st.tuples(st.floats(0, 100), events), max_size=50))
def test_no_history_breaks_an_agent(history):
    core, online, exits, last = agent(), False, 0, None
    for now, event in sorted(history, key=lambda item: item[0]):
        online = {LinkUp: True, LinkDown: False}.get(type(event), online)
        effects = core.step(event, now)
        core.check()
        exits += sum(isinstance(effect, Exit) for effect in effects)
        presences = published(effects, Presence)
        last = presences[-1] if presences else last
    assert exits == (core.phase is Phase.STOPPED), "it stops once"
    if core.phase is Phase.STOPPED:
        assert last is not None
        assert not last.online, "the last word about a stopped device is that it is gone"


def test_every_phase_is_reachable_and_the_only_end_is_stopped():
    reachable, frontier = set(), {Phase.BOOTING}
    while frontier:
        reachable |= frontier
        frontier = {after for phase in frontier for after in NEXT[phase]} - reachable
    assert reachable == set(Phase)
    assert {phase for phase in Phase if not NEXT[phase]} == {Phase.STOPPED}


def test_a_move_that_the_table_forbids_is_a_bug():
    with pytest.raises(InvalidTransition):
        agent()._enter(Phase.STOPPED)
