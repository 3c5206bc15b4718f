"""Whether a job can work at all: its numbers are strangers', and every one of them is looked at here."""

from collections.abc import Callable
from math import ceil, isfinite

from cloud.federated.accumulator import check_bounds
from cloud.federated.strategies import Strategy, resolve, weight_max
from shared.artifacts import is_digest
from shared.errors import ConfigError
from shared.ids import is_id
from shared.learning import COHORT_MAX, Codec, JobSpec, TrainingPlan

ROUNDS_MAX = 100_000
DEADLINE_S_MAX = 24 * 3600.0
DEADLINE_S_MIN = 0.1
NAMES_MAX = 1024
TEXT_CHARS_MAX = 64
EPOCHS_MAX = 10_000
STEPS_MAX = 1_000_000
_63_BITS = 2**63


def asked_for(spec: JobSpec) -> int:
    """How many clients a round asks: more than it needs, since some always sleep."""
    return ceil(spec.clients * spec.over_select - 1e-9)


def checked(spec: JobSpec) -> Strategy:
    """The job's strategy. Raises :class:`ConfigError` that says which setting can't work, and why."""
    for check in _CHECKS:
        complaint = check(spec)
        if complaint:
            raise ConfigError(complaint)
    strategy = resolve(spec.strategy, spec.options)
    check_bounds(weight_max(strategy, spec.samples_max) * asked_for(spec), spec.clip)
    if spec.gateways and not strategy.gateways:
        raise ConfigError(f"{spec.strategy} looks at single updates: gateways can't add them up for it")
    return strategy


def _names(spec: JobSpec) -> str:
    if not is_id(spec.job):
        return f"job {spec.job[:80]!r}: a name is 1 to 64 of a-z, 0-9 and '-'"
    if not is_digest(spec.package) or (spec.serve and not is_digest(spec.serve)):
        return "package and serve are digests of uploaded packages: SHA-256 in lower-case hex"
    if spec.version_name and not is_id(spec.version_name):
        return f"version_name {spec.version_name[:80]!r}: 1 to 64 of a-z, 0-9 and '-'"
    if not 0 < len(spec.plan.source) <= TEXT_CHARS_MAX:
        return "plan.source names the examples, as devices do under [training.sources]"
    if not all(map(is_id, (*spec.gateways, *spec.criteria.nodes))):
        return "gateways and criteria.nodes are names of devices"
    if (
        max(map(len, (spec.gateways, spec.criteria.nodes, spec.criteria.labels, spec.link_codecs)))
        > NAMES_MAX
    ):
        return f"a list of more than {NAMES_MAX} names"
    return ""


def _counts(spec: JobSpec) -> str:
    if not 1 <= spec.rounds <= ROUNDS_MAX:
        return f"rounds {spec.rounds}: 1 to {ROUNDS_MAX} are possible"
    if not 1 <= spec.clients <= COHORT_MAX:
        return f"clients {spec.clients}: 1 to {COHORT_MAX} are possible"
    if not 1 <= spec.quorum <= spec.clients:
        return f"quorum {spec.quorum}: 1 to the number of clients, {spec.clients}"
    if not 1 <= spec.over_select <= COHORT_MAX or asked_for(spec) > COHORT_MAX:
        return f"over_select {spec.over_select:g}: from 1, and at most {COHORT_MAX} clients are asked"
    if not 1 <= spec.samples_max <= 1 << 40:
        return f"samples_max {spec.samples_max}: 1 to {1 << 40} are possible"
    if not (spec.evaluate_every >= 0 and 0 <= spec.evaluators <= COHORT_MAX and spec.stop.patience >= 0):
        return "evaluate_every, evaluators and stop.patience are numbers from 0"
    return "" if -_63_BITS <= spec.seed < _63_BITS else "seed: a number of 64 bits"


def _limits(spec: JobSpec) -> str:
    low, high = spec.deadline_s_min, spec.deadline_s_max
    if not DEADLINE_S_MIN <= low <= high <= DEADLINE_S_MAX:
        return (
            f"deadlines from {low:g} to {high:g} s: {DEADLINE_S_MIN:g} to {DEADLINE_S_MAX:g} s are possible"
        )
    if not 1 < spec.norm_ratio_max <= 1e6:
        return f"norm_ratio_max {spec.norm_ratio_max:g}: more than 1"
    if not isfinite(spec.stop.target) or len(spec.stop.metric) > TEXT_CHARS_MAX:
        return "stop.metric is a name, stop.target a number"
    if not (0 <= spec.criteria.battery_ratio_min <= 1 and spec.criteria.samples_min >= 0):
        return "criteria.battery_ratio_min is 0 to 1, criteria.samples_min a number from 0"
    return ""


def _plan(spec: JobSpec) -> str:
    plan: TrainingPlan = spec.plan
    if not (0 <= plan.steps <= STEPS_MAX and (plan.steps or 1 <= plan.epochs <= EPOCHS_MAX)):
        return f"plan: 1 to {EPOCHS_MAX} epochs, or 1 to {STEPS_MAX} steps"
    if not 0 < plan.budget_s <= DEADLINE_S_MAX:
        return f"plan.budget_s {plan.budget_s:g}: more than 0, at most {DEADLINE_S_MAX:g}"
    if not (0 < plan.lr <= 1e6 and 0 < plan.lr_decay <= 10 and 0 <= plan.proximal <= 1e6):
        return "plan.lr and plan.lr_decay are more than 0, plan.proximal is 0 or more"
    return ""


def _codecs(spec: JobSpec) -> str:
    codecs: tuple[Codec, ...] = (spec.codec, *spec.link_codecs.values())
    wrong = [one.ratio for one in codecs if not 0 < one.ratio <= 1]
    return f"codec.ratio {wrong[0]:g}: more than 0, at most 1" if wrong else ""


_CHECKS: tuple[Callable[[JobSpec], str], ...] = (_names, _counts, _limits, _plan, _codecs)
