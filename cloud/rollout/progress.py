"""How far the fleet is with each rule."""

from cloud.rollout.levels import Levels
from cloud.rollout.rules import Rule, RuleBook
from shared.messages import ModelState, ReportedModel
from shared.views import DeploymentView

REASON_CHARACTERS_MAX = 200


def progress(rules: RuleBook, levels: Levels) -> list[DeploymentView]:
    """One view per rule. A node counts only for the rule that governs it: the newest of a model's."""
    governed: dict[Rule, list[str]] = {rule: [] for rule in rules}
    for node, fact in levels.nodes.items():
        for model in rules.models:
            rule = rules.governing(model, node, fact.labels)
            if rule is not None:
                governed[rule].append(node)
    return [_view(rule, sorted(nodes), levels) for rule, nodes in governed.items()]


def _view(rule: Rule, nodes: list[str], levels: Levels) -> DeploymentView:
    ready, failures = 0, {}
    for node in nodes:
        report = _reported(rule, node, levels)
        if report is not None and report.state is ModelState.READY:
            ready += 1
        elif report is not None and report.state is ModelState.FAILED:
            failures[node] = report.reason[:REASON_CHARACTERS_MAX] or "no reason given"
    return DeploymentView(
        model=rule.model,
        version=rule.version,
        digest=rule.digest,
        target=rule.target,
        nodes=tuple(nodes),
        ready=ready,
        pending=len(nodes) - ready - len(failures),
        failures=failures,
    )


def _reported(rule: Rule, node: str, levels: Levels) -> ReportedModel | None:
    """What the node says about the very artifact of the rule; an older version's state says nothing."""
    report = levels.reported.get(node)
    model = None if report is None else report.models.get(rule.model)
    return model if model is not None and model.digest == rule.digest else None
