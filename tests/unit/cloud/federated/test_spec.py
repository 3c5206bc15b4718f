"""Every number of a job is looked at before it can do harm; the fleet is drawn from by a seed."""

from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.federated.fleet import LEARNERS_MAX, Fleet, draw
from cloud.federated.progress import better, budget_s, combined
from cloud.federated.spec import asked_for, checked
from shared.errors import ConfigError
from shared.learning import (
    ClientRow,
    Codec,
    CodecName,
    Criteria,
    JobSpec,
    Power,
    Source,
    Stop,
    TrainingPlan,
)
from tests.unit.cloud.federated.world import learner, spec

NUMBERS = st.one_of(st.integers(-(2**70), 2**70), st.floats(), st.sampled_from([0, 1, -1, nan, inf]))


def plan(**changes) -> TrainingPlan:
    return TrainingPlan(**{"source": "digits", **changes})


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"job": "Not An Id"}, "a name is 1 to 64"),
        ({"package": "digits-train.shoal"}, "digests of uploaded packages"),
        ({"rounds": 10**9}, "rounds 1000000000"),
        ({"clients": 0}, "clients 0"),
        ({"quorum": 4}, "quorum 4: 1 to the number of clients, 3"),
        ({"over_select": 0.5}, "over_select 0.5"),
        ({"over_select": nan}, "over_select nan"),
        ({"clients": 4096, "over_select": 1.3}, "at most 4096 clients are asked"),
        ({"deadline_s_min": 10.0, "deadline_s_max": 5.0}, "deadlines from 10 to 5 s"),
        ({"deadline_s_max": inf}, "deadlines from 5 to inf s"),
        ({"clip": nan}, "clip nan"),
        ({"samples_max": 1 << 39}, "lower the clip"),
        ({"norm_ratio_max": 0.0}, "norm_ratio_max 0"),
        ({"plan": plan(epochs=0)}, "1 to 10000 epochs"),
        ({"plan": plan(steps=-1)}, "1 to 1000000 steps"),
        ({"plan": plan(lr=nan)}, "plan.lr"),
        ({"plan": plan(budget_s=0)}, "plan.budget_s 0"),
        ({"plan": plan(source="")}, "plan.source names the examples"),
        ({"codec": Codec(ratio=0.0)}, "codec.ratio 0"),
        ({"link_codecs": {"lora": Codec(ratio=nan)}}, "codec.ratio nan"),
        ({"criteria": Criteria(battery_ratio_min=nan)}, "battery_ratio_min"),
        ({"stop": Stop(target=inf)}, "stop.target a number"),
        ({"seed": 2**64}, "64 bits"),
        ({"evaluate_every": -1}, "numbers from 0"),
        ({"gateways": ("a b",)}, "names of devices"),
        ({"strategy": "fedavg", "options": {"momentum": 0.5}}, "has no option 'momentum'"),
    ],
)
def test_a_setting_that_can_not_work_is_named(changes, complaint):
    with pytest.raises(ConfigError, match=complaint.replace(".", r"\.")):
        checked(spec(**changes))


FIELDS = ("rounds", "clients", "quorum", "over_select", "clip", "samples_max", "deadline_s_min", "seed")


@given(name=st.sampled_from(FIELDS), value=NUMBERS)
def test_whatever_a_number_is_it_is_taken_or_refused_with_a_reason(name, value):
    wanted, reason = spec(**{name: value}), ""
    try:
        checked(wanted)
    except ConfigError as error:
        reason = str(error)
    assert reason or 1 <= asked_for(wanted) <= 4096


def test_the_number_of_those_asked_is_what_a_person_would_count():
    assert asked_for(spec(clients=10, over_select=1.3)) == 13
    assert asked_for(spec(clients=3, over_select=1.0)) == 3
    assert asked_for(spec(clients=8, over_select=1.3)) == 11


# The fleet ----------------------------------------------------------------------------------------------


@given(
    names=st.sets(st.text("abcdef", min_size=1, max_size=4), max_size=30),
    count=st.integers(1, 10),
    seed=st.text(),
)
def test_a_draw_depends_on_the_names_and_the_seed_only(names, count, seed):
    weights = dict.fromkeys(sorted(names), 1.0)
    drawn = draw(weights, count, seed)
    assert drawn == draw(dict(reversed(list(weights.items()))), count, seed)
    assert len(drawn) == min(count, len(names)) == len(set(drawn))
    assert list(drawn) == sorted(drawn)
    assert set(drawn) <= names


def test_a_weight_is_how_often_one_is_drawn():
    weights = {"heavy": 3.0, **{f"light-{number}": 1.0 for number in range(3)}}
    drawn = [draw(weights, 1, str(seed))[0] for seed in range(2000)]
    assert drawn.count("heavy") / 2000 == pytest.approx(0.5, abs=0.05)


def test_who_has_not_taken_part_for_long_is_drawn_sooner_and_an_empty_battery_later():
    fleet = Fleet()
    fleet.learn("mains", learner(power=Power.AC), 0.0)
    fleet.learn("empty", learner(power=Power.BATTERY, battery_ratio=0.2), 0.0)
    assert fleet.weight("mains", 1) == 1.0
    assert fleet.weight("mains", 3) == 3.0
    assert fleet.weight("mains", 1000) == 4.0
    assert fleet.weight("empty", 1) == 0.2


def test_power_and_data_decide_who_may_be_asked():
    fleet = Fleet()
    fleet.learn("ac", learner(power=Power.AC), 0.0)
    fleet.learn("full", learner(power=Power.BATTERY, battery_ratio=0.9), 0.0)
    fleet.learn("empty", learner(power=Power.BATTERY, battery_ratio=0.1), 0.0)
    fleet.learn("other", learner(sources={"sounds": Source(samples=100)}), 0.0)

    def may(**criteria) -> list[str]:
        return fleet.candidates(spec(criteria=Criteria(**criteria)), {})

    assert may() == ["ac", "empty", "full"]
    assert may(battery_ratio_min=0.5) == ["ac", "full"]
    assert may(ac_only=True) == ["ac"]
    assert may(nodes=("full", "nobody")) == ["full"]
    assert may(samples_min=101) == []
    assert may(labels={"site": "x"}) == [], "the registry knows nothing of them"
    fleet.learn("full", learner(power=Power.BATTERY, battery_ratio=0.9, codecs=("f32",), link="lora"), 1.0)
    assert may() == ["ac", "empty"], "it can't write what the job asks for"
    raw = {"lora": Codec(name=CodecName.F32)}
    assert fleet.candidates(spec(link_codecs=raw), {}) == ["ac", "empty", "full"]
    assert fleet.candidates(spec(link_codecs=raw), {"ac": 1}) == ["empty", "full"], "it has room for one"


def test_the_books_of_the_fleet_are_bounded():
    fleet = Fleet()
    for number in range(LEARNERS_MAX):
        assert fleet.learn(f"n{number}", learner(), 0.0) == ""
    assert "no room for more" in fleet.learn("more", learner(), 0.0)
    assert fleet.learn("n1", learner(epoch=2), 0.0) == ""
    fleet.forget("n0")
    assert fleet.learn("more", learner(), 0.0) == ""


# Progress -----------------------------------------------------------------------------------------------


def row(client: str, status: str = "accepted", **metrics: float) -> ClientRow:
    return ClientRow(client=client, status=status, metrics=metrics)


@given(order=st.permutations(range(5)))
def test_metrics_count_every_example_once_and_in_no_order(order):
    rows = [row(f"c{n}", hits=0.1 * n, loss=1e16 if n == 3 else 0.3, count=float(n)) for n in order]
    found = combined([*rows, row("late", "late", hits=9.0, count=9.0), row("silent")])
    assert found == combined(sorted(rows, key=lambda one: one.client))
    assert found["count"] == 10.0
    assert found["accuracy"] == pytest.approx(0.1)


def test_nothing_measured_is_nothing_said():
    assert combined([]) == combined([row("a", hits=0.0, count=0.0)]) == {}


@pytest.mark.parametrize(
    ("metric", "value", "best", "expected"),
    [
        ("accuracy", 0.5, None, True),
        ("accuracy", 0.5, 0.4, True),
        ("accuracy", 0.4, 0.4, False),
        ("loss", 0.4, 0.5, True),
        ("loss", nan, None, False),
    ],
)
def test_of_a_loss_less_is_better(metric, value, best, expected):
    assert better(Stop(metric=metric), value, best) is expected


def test_a_deadline_is_one_and_a_half_times_the_median_within_bounds():
    wanted: JobSpec = spec(deadline_s_min=2.0, deadline_s_max=9.0)
    assert budget_s(wanted, ()) == 9.0
    assert budget_s(wanted, (1.0, 4.0, 100.0)) == 6.0
    assert budget_s(wanted, (0.1,)) == 2.0
    assert budget_s(wanted, (100.0,)) == 9.0
