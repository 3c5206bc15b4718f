"""When a device may train."""

import pytest

from edge.training.events import Conditions
from edge.training.policy import Policy, hours_of
from shared.errors import ConfigError
from shared.learning import Power


def test_a_battery_must_be_charged_and_mains_need_not_care():
    policy = Policy(battery_ratio_min=0.5)
    assert policy.refusal(Conditions(Power.BATTERY, 0.4)) == "battery at 40%; 50% is wanted"
    for fine in (Conditions(Power.BATTERY, 0.5), Conditions(Power.AC, 0.1), Conditions(Power.UNKNOWN, 0.1)):
        assert policy.refusal(fine) == ""
    assert Policy(ac_only=True).refusal(Conditions(Power.BATTERY, 1.0)) == "on battery"


def test_a_busy_machine_is_left_alone():
    policy = Policy(load_ratio_max=0.8)
    assert "0.90 per core" in policy.refusal(Conditions(load_ratio=0.9))
    assert policy.refusal(Conditions(load_ratio=0.8)) == ""
    assert Policy().refusal(Conditions(load_ratio=50.0)) == ""


@pytest.mark.parametrize(
    ("text", "minute", "inside"),
    [
        ("22:00-06:30", 23 * 60, True),
        ("22:00-06:30", 6 * 60 + 29, True),
        ("22:00-06:30", 6 * 60 + 30, False),
        ("22-6", 5 * 60, True),
        ("09:00-17:00", 12 * 60, True),
        ("09:00-17:00", 8 * 60, False),
        ("00:00-24:00", 700, True),
        ("", 700, True),
    ],
)
def test_hours_may_span_midnight(text: str, minute: int, inside: bool):
    refusal = Policy(hours=hours_of(text)).refusal(Conditions(minute=minute))
    assert (refusal == "") is inside


@pytest.mark.parametrize("text", ["22:00", "25:00-26:00", "a-b", "10:75-11:00", "-"])
def test_hours_that_are_none_are_refused(text: str):
    with pytest.raises(ConfigError, match="write for example 22:00-06:30"):
        hours_of(text)
