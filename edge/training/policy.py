"""When a device may train: it must not drain its battery or get in the way of what it is there for."""

from dataclasses import dataclass

from edge.training.events import Conditions
from shared.errors import ConfigError
from shared.learning import Power

DAY_MINUTES = 24 * 60


@dataclass(frozen=True, slots=True)
class Policy:
    """``load_ratio_max``: load per core, 0 for any. ``hours``: (first, last) minute of the day, which may
    span midnight; None for any."""

    battery_ratio_min: float = 0.3
    ac_only: bool = False
    load_ratio_max: float = 0.0
    hours: tuple[int, int] | None = None

    def refusal(self, now: Conditions) -> str:
        """Why not now; empty: go on. On mains the charge does not matter; what is unknown does not forbid."""
        if self.ac_only and now.power is Power.BATTERY:
            return "on battery"
        if now.power is Power.BATTERY and now.battery_ratio < self.battery_ratio_min:
            return f"battery at {now.battery_ratio:.0%}; {self.battery_ratio_min:.0%} is wanted"
        if self.load_ratio_max and now.load_ratio > self.load_ratio_max:
            return f"load of {now.load_ratio:.2f} per core; at most {self.load_ratio_max:g} is wanted"
        if self.hours is not None and not _within(now.minute, *self.hours):
            return "outside of the hours for training"
        return ""


def hours_of(text: str) -> tuple[int, int] | None:
    """``"22:00-06:30"`` -> (1320, 390); empty: None. Raises :class:`ConfigError`."""
    if not text:
        return None
    first, dash, last = text.partition("-")
    try:
        if not dash:
            raise ValueError
        return _minute(first), _minute(last)
    except ValueError:
        raise ConfigError(f"training.hours = {text!r}: write for example 22:00-06:30") from None


def _minute(text: str) -> int:
    hour, colon, minute = text.strip().partition(":")
    value = int(hour) * 60 + (int(minute) if colon else 0)
    if not 0 <= value <= DAY_MINUTES or not 0 <= int(minute or 0) < 60:
        raise ValueError
    return value % DAY_MINUTES


def _within(minute: int, first: int, last: int) -> bool:
    if first == last:
        return True
    if first < last:
        return first <= minute < last
    return minute >= first or minute < last
