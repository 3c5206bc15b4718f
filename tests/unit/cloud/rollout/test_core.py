"""The rollout core in stories."""

from dataclasses import replace

import pytest

from cloud.facts import NodeChanged, NodeFact, NodeForgotten, NodeStatus
from cloud.rollout.core import NEXT, WAITING_MAX, Phase, Rollout
from cloud.rollout.events import Deployed, Load, ModelAdded, NodeDesired, ReportedSeen, Restored, Save, Saved
from cloud.rollout.levels import BATCH_MAX, NUDGE_S, VERSION_MAX
from cloud.rollout.rules import Rule
from shared.core import Failed, Ignore, LinkDown, LinkUp, Publish, Tick
from shared.deploys import DeployResult
from shared.messages import (
    Deploy,
    DesiredModel,
    DesiredModels,
    ModelState,
    Reply,
    ReplyStatus,
    ReportedModel,
    ReportedModels,
)
from shared.wire import unpacked
from tests.transcript import Transcript


def node(name: str, status: NodeStatus = NodeStatus.IDLE, **labels: str) -> NodeChanged:
    return NodeChanged(NodeFact(node=name, epoch=1, status=status, labels=labels))


def deploy(model: str, target: str = "all", *, remove: bool = False, by: str = "cli-1") -> Deployed:
    correlation, app = by.rpartition("-")[2], by.rpartition("-")[0]
    request = Deploy(correlation=correlation, budget_s=5.0, model=model, target=target, remove=remove)
    return Deployed(app, request, at_unix_s=1_700_000_000.0)


def reports(name: str, version: int, **states: ModelState) -> ReportedSeen:
    models = {
        model: ReportedModel(digest=f"{model}-1", state=state, reason="out of memory")
        for model, state in states.items()
    }
    return ReportedSeen(name, ReportedModels(epoch=1, version=version, models=models))


def added(name: str, version: str = "1") -> ModelAdded:
    return ModelAdded(name, version, f"{name}-{version}")


def settled(*events: object) -> Rollout:
    """A core with nothing in its store and the link up, and ``events`` taken, each saved at once."""
    core = Rollout()
    for event in (Tick(), Restored((), ()), LinkUp(resumed=False), *events):
        taken(core, event)
    return core


def taken(core: Rollout, event: object, now: float = 0.0) -> list[object]:
    """Every effect of an event, the store being quick."""
    effects: list[object] = core.step(event, now)  # type: ignore[arg-type]
    core.check()
    while core.phase is Phase.SAVING:
        effects += core.step(Saved(), now)
        core.check()
    return effects


def orders(effects: list[object]) -> dict[str, DesiredModels]:
    """What was published, by node."""
    return {
        effect.to.name.split("/")[1]: effect.message
        for effect in effects
        if isinstance(effect, Publish) and isinstance(effect.message, DesiredModels)
    }


def replies(effects: list[object]) -> list[Reply]:
    return [
        effect.message
        for effect in effects
        if isinstance(effect, Publish) and isinstance(effect.message, Reply)
    ]


def test_a_model_goes_to_the_nodes_that_match_now_and_to_those_that_join_later():
    (
        Transcript("rollout/join-later", Rollout())
        .at(0.0, Tick(), node("berlin", region="eu"), Restored((), ()), LinkUp(resumed=False))
        .at(1.0, added("cat"), deploy("cat", "region=eu"))
        .at(1.1, Saved())
        .at(2.0, node("boston", region="us"), node("oslo", region="eu"))
        .at(2.1, Saved())
        .at(3.0, node("boston", region="eu"))
        .at(3.1, Saved())
        .at(4.0, deploy("cat", "region=eu", remove=True, by="cli-2"))
        .at(4.1, Saved())
        .matches()
    )


def test_nothing_is_told_or_answered_before_the_store_confirms_and_a_failed_save_is_tried_again():
    save = Save(
        rules=(Rule(1, "cat", "all", "1", "cat-1", 1_700_000_000.0, "cli"),),
        desired=(NodeDesired("n1", DesiredModels(version=1, models={"cat": cat()})),),
    )
    core = settled(node("n1"), added("cat"))
    assert core.step(deploy("cat"), 1.0) == [save]
    assert core.saving is not None
    (
        Transcript("rollout/full-disk", core)
        .at(2.0, Failed(core.saving, "disk full"), node("n2"), Tick())
        .at(2.1, Saved())
        .matches()
    )


def test_an_application_whose_time_runs_out_learns_that_it_may_still_happen():
    core = settled(node("n1"), added("cat"))
    (
        Transcript("rollout/too-slow", core)
        .at(1.0, deploy("cat"), deploy("cat"))
        .at(5.9, Tick())
        .at(6.0, Tick())
        .at(7.0, Saved())
        .matches()
    )


def test_a_cloud_that_restarts_tells_everyone_what_it_had_saved_and_goes_on_counting():
    core = Rollout()
    rules = (Rule(7, "cat", "all", "1", "cat-1"),)
    saved = tuple(
        NodeDesired(name, DesiredModels(version=version, models={"cat": cat()}))
        for name, version in (("n1", 4), ("gone", 9))
    )
    (
        Transcript("rollout/restart", core)
        .at(0.0, LinkUp(resumed=False), node("n1"), node("n2"), deploy("cat"), Tick(), Tick())
        .at(0.1, Failed(Load(), "locked"), Tick(), Restored(rules, saved), Restored(rules, saved))
        .at(0.2, Saved())
        .at(1.0, added("cat", "2"), deploy("cat", "n1,n3"), Saved())
        .matches()
    )
    assert core.rules.number == 8


def cat(version: str = "1") -> DesiredModel:
    return DesiredModel(digest=f"cat-{version}", version=version)


def test_the_link_comes_back_and_everyone_is_told_again():
    core = settled(node("n1"), node("n2"), added("cat"), deploy("cat"))
    assert taken(core, LinkDown()) == []
    assert orders(taken(core, node("n3"))) == {}
    told = orders(taken(core, LinkUp(resumed=True)))
    assert told == {name: DesiredModels(version=1, models={"cat": cat()}) for name in ("n1", "n2", "n3")}


def test_a_heartbeat_of_a_node_that_did_not_change_its_labels_causes_nothing():
    core = settled(node("n1", a="b"), added("cat"), deploy("cat"))
    assert taken(core, node("n1", NodeStatus.BUSY, a="b")) == []
    assert taken(core, node("n1", NodeStatus.OFFLINE, a="b")) == []


def test_an_upload_alone_never_moves_the_fleet():
    core = settled(node("n1"), added("cat"), deploy("cat"))
    assert taken(core, added("cat", "2")) == []
    assert orders(taken(core, deploy("cat", by="cli-2")))["n1"].models == {"cat": cat("2")}
    assert orders(taken(core, deploy("cat@1", by="cli-3")))["n1"].models == {"cat": cat("1")}


def test_the_reply_says_what_was_done_and_what_looks_misspelt():
    core = settled(node("n1"), node("n2"), added("cat"))
    (reply,) = replies(taken(core, deploy("cat", "n2, n9,n1")))
    assert (reply.status, reply.correlation) == (ReplyStatus.OK, "1")
    assert unpacked(reply.body, DeployResult) == DeployResult(
        model="cat",
        version="1",
        digest="cat-1",
        target="n1,n2,n9",
        matched=2,
        nodes=("n1", "n2"),
        unknown_nodes=("n9",),
    )


@pytest.mark.parametrize(
    ("request_", "code", "detail"),
    [
        (deploy("dog"), "no-such-model", "no model 'dog'; the catalog holds cat"),
        (deploy("cat@7"), "no-such-model", "no version '7' of cat; there is 1"),
        (deploy("cat", "Not An Id"), "bad-target", "'Not An Id' is neither"),
        (deploy("cat", "n1", remove=True), "no-such-deployment", "'cat' is deployed to 'all'"),
        (deploy("dog", remove=True), "no-such-deployment", "'dog' is deployed to no target"),
        (deploy("../x", remove=True), "no-such-deployment", "no target"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_with_advice_and_changes_nothing(request_, code, detail):
    core = settled(node("n1"), added("cat"), deploy("cat"))
    effects = taken(core, request_)
    (reply,) = replies(effects)
    assert len(effects) == 1
    assert (reply.status, reply.code) == (ReplyStatus.REFUSED, code)
    assert detail in reply.detail


def test_removing_from_all_withdraws_every_rule_of_the_model():
    core = settled(node("n1", site="a"), added("cat"), added("dog"), deploy("cat"), deploy("cat", "site=a"))
    taken(core, deploy("dog"))
    effects = taken(core, deploy("cat", remove=True))
    assert orders(effects)["n1"].models.keys() == {"dog"}
    (reply,) = replies(effects)
    assert unpacked(reply.body, DeployResult).removed
    assert [view.model for view in core.deployments()] == ["dog"]


def test_a_burst_of_deployments_shares_a_few_saves():
    core = settled(node("n1"), *(added(f"m{n}") for n in range(100)))
    saves = [effect for n in range(100) for effect in core.step(deploy(f"m{n}", by=f"cli-{n}"), 1.0)]
    assert len(saves) == 1
    effects = taken(core, Saved(), 1.1)
    assert len([effect for effect in effects if isinstance(effect, Save)]) == 1
    assert len(replies(effects)) == 100
    assert len(orders(effects)["n1"].models) == 100


def test_too_many_waiting_applications_are_refused():
    core = settled(added("cat"))
    for n in range(WAITING_MAX):
        core.step(deploy("cat", by=f"cli-{n}"), 1.0)
    (reply,) = replies(core.step(deploy("cat", by="cli-more"), 1.0))
    assert (reply.status, reply.code) == (ReplyStatus.REFUSED, "overloaded")
    core.check()


@pytest.mark.parametrize("budget_s", [float("nan"), float("inf"), -1.0, 1e300])
def test_no_budget_makes_an_application_wait_for_ever(budget_s):
    core = settled(added("cat"))
    request = deploy("cat")
    core.step(replace(request, deploy=Deploy(correlation="1", budget_s=budget_s, model="cat")), 0.0)
    (reply,) = replies(core.step(Tick(), 60.0))
    assert (reply.status, reply.code) == (ReplyStatus.FAILED, "not-saved")


def test_an_application_that_cannot_be_addressed_is_ignored():
    core = settled(added("cat"))
    (effect,) = taken(core, replace(deploy("cat"), app="Not/An/App"))
    assert isinstance(effect, Ignore)


def test_a_node_that_missed_its_orders_is_told_again_until_its_report_shows_them():
    core = settled(node("n1"), node("away", NodeStatus.OFFLINE), node("n3"), added("cat"), deploy("cat"))
    taken(core, reports("n3", 1))
    assert taken(core, Tick(), NUDGE_S - 1) == []
    assert orders(taken(core, Tick(), NUDGE_S)).keys() == {"n1"}
    assert taken(core, Tick(), NUDGE_S + 1) == []
    assert orders(taken(core, Tick(), 2 * NUDGE_S)).keys() == {"n1"}
    taken(core, reports("n1", 1))
    assert taken(core, Tick(), 3 * NUDGE_S) == []


def test_a_device_that_remembers_more_than_our_store_is_overtaken():
    core = settled(node("n1"), reports("n1", 57), added("cat"))
    assert orders(taken(core, deploy("cat")))["n1"].version == 58
    assert orders(taken(core, reports("n1", 99)))["n1"] == DesiredModels(version=100, models={"cat": cat()})
    (effect,) = taken(core, reports("n1", VERSION_MAX))
    assert isinstance(effect, Ignore)


def test_a_lost_store_does_not_empty_the_fleet():
    assert orders(taken(settled(), node("n1"))) == {}


def test_a_forgotten_node_keeps_its_count_for_the_day_it_comes_back():
    core = settled(node("n1"), added("cat"), deploy("cat"))
    assert taken(core, NodeForgotten("n1")) == []
    assert orders(taken(core, deploy("cat", remove=True))) == {}
    assert core.deployments() == []
    assert orders(taken(core, node("n1"))) == {"n1": DesiredModels(version=2, models={})}


def test_a_large_fleet_is_saved_and_told_in_batches():
    names = [f"n{n}" for n in range(2 * BATCH_MAX + 1)]
    core = settled(*(node(name) for name in names), added("cat"))
    effects = taken(core, deploy("cat"))
    saves = [len(effect.desired) for effect in effects if isinstance(effect, Save)]
    assert saves == [BATCH_MAX, BATCH_MAX, 1]
    assert orders(effects).keys() == set(names)
    assert len(orders(taken(core, LinkUp(resumed=False)))) == BATCH_MAX
    assert len(orders(taken(core, Tick()))) == BATCH_MAX
    assert len(orders(taken(core, Tick()))) == 1
    assert orders(taken(core, Tick())) == {}


def test_progress_counts_each_node_for_the_rule_that_governs_it():
    fleet = [node(f"n{n}", site="a" if n < 2 else "b") for n in range(5)]
    core = settled(*fleet, added("cat"), deploy("cat"), deploy("cat", "site=a", by="cli-2"))
    for name, state in (("n0", ModelState.FAILED), ("n2", ModelState.READY), ("n3", ModelState.FETCHING)):
        taken(core, reports(name, 1, cat=state))
    everyone, site_a = core.deployments()
    assert (everyone.target, everyone.nodes) == ("all", ("n2", "n3", "n4"))
    assert (everyone.ready, everyone.pending, everyone.failures) == (1, 2, {})
    assert (site_a.target, site_a.nodes) == ("site=a", ("n0", "n1"))
    assert (site_a.ready, site_a.pending, site_a.failures) == (0, 1, {"n0": "out of memory"})
    taken(core, added("cat", "2"))
    taken(core, deploy("cat", by="cli-3"))  # what n2 said was about another artifact
    (newest,) = [view for view in core.deployments() if view.version == "2"]
    assert (newest.ready, newest.pending) == (0, 5)


def test_every_phase_is_reachable_and_none_is_an_end():
    reachable, frontier = set(), {Phase.NEW}
    while frontier:
        reachable |= frontier
        frontier = {after for phase in frontier for after in NEXT[phase]} - reachable
    assert reachable == set(Phase)
    assert all(NEXT[phase] for phase in Phase)
