"""The balancer's stories, as golden transcripts."""

from cloud.balancer.core import Balancer
from cloud.facts import NodeForgotten, NodeStatus
from shared.config import BalancerSection
from shared.core import LinkDown, LinkUp, Tick
from shared.messages import ReplyStatus
from tests.transcript import Transcript
from tests.unit.cloud.balancer.nodes import ask, declined, fact, reply, told


def story(name: str, core: Balancer | None = None) -> Transcript:
    core = core or Balancer(BalancerSection())
    return Transcript(f"balancer/{name}", core, told).at(0.0, LinkUp(False), Tick())


def test_a_request_goes_to_the_fastest_idle_node_and_the_next_to_the_other() -> None:
    (
        story("fastest-idle-first")
        .at(1.0, fact("fast", gflops=8.0), fact("slow", gflops=1.0))
        .at(2.0, ask("c1"), ask("c2"), ask("c3"))
        .at(2.02, reply("fast", "c1"), reply("fast", "c1"), reply("slow", "c2", service_s=0.02))
        .matches()
    )


def test_a_node_dies_and_the_request_goes_elsewhere_with_what_is_left_of_its_budget() -> None:
    (
        story("node-dies-request-goes-elsewhere")
        .at(1.0, fact("a"), fact("b"))
        .at(2.0, ask("c1", budget_s=2.0))
        .at(2.3, fact("a", status=NodeStatus.OFFLINE))
        .at(2.4, reply("b", "c1"))
        .matches()
    )


def test_a_declined_request_goes_elsewhere_and_when_all_decline_the_app_hears_it() -> None:
    (
        story("declined-goes-elsewhere")
        .at(1.0, fact("a"), fact("b"))
        .at(2.0, ask("c1"))
        .at(2.1, declined("b", "c1"), declined("a", "c1"))
        .at(2.2, declined("b", "c1", code="draining"))
        .at(3.0, ask("c2", idempotent=False))
        .at(3.1, declined("a", "c2"), declined("b", "c2"))
        .matches()
    )


def test_a_request_that_must_not_be_repeated_fails_when_its_node_reboots() -> None:
    (
        story("not-idempotent-and-the-node-reboots")
        .at(1.0, fact("a"), fact("b"))
        .at(2.0, ask("c1", idempotent=False))
        .at(2.2, fact("a", epoch=2, status=NodeStatus.UNKNOWN, heartbeat=-1))
        .at(2.3, reply("a", "c1"), NodeForgotten("nobody"))
        .matches()
    )


def test_there_is_only_one_second_try() -> None:
    (
        story("only-one-second-try")
        .at(1.0, fact("a"), fact("b"), fact("c"))
        .at(2.0, ask("c1"))
        .at(2.1, fact("a", status=NodeStatus.OFFLINE))
        .at(2.2, fact("b", status=NodeStatus.OFFLINE))
        .matches()
    )


def test_a_killed_node_is_given_up_long_before_its_will_arrives() -> None:
    (
        story("silent-node-request-is-rescued")
        .at(1.0, fact("a"), fact("b"))
        .until(2.0, every_s=0.1)
        .at(2.0, ask("c1", budget_s=5.0))
        .until(2.6, every_s=0.1)
        .at(2.7, reply("b", "c1"))
        .at(2.8, ask("c2"))
        .at(2.81, reply("b", "c2"))
        .at(3.0, reply("a", "c1"))
        .at(9.0, fact("a", status=NodeStatus.OFFLINE))
        .matches()
    )


def test_the_only_node_is_asked_again_and_repeats_its_answer() -> None:
    (
        story("the-only-node-is-asked-again")
        .at(1.0, fact("a"))
        .until(2.0, every_s=0.1)
        .at(2.0, ask("c1", budget_s=5.0))
        .until(2.6, every_s=0.1)
        .at(2.65, reply("a", "c1"))
        .until(8.0, every_s=1.0)
        .matches()
    )


def test_the_first_node_lived_after_all_and_its_answer_counts() -> None:
    (
        story("the-first-node-lived-after-all")
        .at(1.0, fact("a"), fact("b"))
        .until(2.0, every_s=0.1)
        .at(2.0, ask("c1", budget_s=5.0))
        .until(2.6, every_s=0.1)
        .at(2.65, reply("a", "c1"), reply("b", "c1"))
        .matches()
    )


def test_nobody_is_called_silent_while_we_cannot_listen() -> None:
    (
        story("no-silence-while-our-link-is-down")
        .at(1.0, fact("a"), fact("b"))
        .until(2.0, every_s=0.1)
        .at(2.0, ask("c1", budget_s=5.0))
        .at(2.1, LinkDown())
        .until(4.0, every_s=0.1)
        .at(4.0, LinkUp(True))
        .until(4.4, every_s=0.1)
        .at(4.45, reply("a", "c1"))
        .matches()
    )


def test_a_deadline_that_cannot_be_met_is_refused_at_once() -> None:
    (
        story("cannot-meet-the-deadline")
        .at(1.0, fact("a"))
        .at(2.0, ask("c1"))
        .at(2.5, reply("a", "c1", service_s=0.4))
        .at(3.0, ask("c2", budget_s=0.3), ask("c3", budget_s=1.0), ask("c4", budget_s=0.6))
        .matches()
    )


def test_a_refusal_says_why() -> None:
    (
        story("a-refusal-says-why", Balancer(BalancerSection(waiting_max=1)))
        .at(1.0, fact("a", status=NodeStatus.UNKNOWN), fact("b", draining=True), fact("c", models=()))
        .at(1.0, fact("d", memory_available_bytes=1000), fact("e", models=("other",)))
        .at(2.0, ask("c1"), ask("c2", model="nothing"), ask("c3", node="b"), ask("c4", node="zz"))
        .at(3.0, ask("c5", budget_s=float("nan")), ask("c6", app="Not an id"))
        .at(4.0, ask("c7", model="other"), ask("c8", model="other"), ask("c7", model="other"))
        .matches()
    )


def test_a_deadline_that_passes_is_forgotten_here_and_counted_against_the_node() -> None:
    (
        story("a-deadline-passes")
        .at(1.0, fact("a"))
        .at(2.0, ask("c1", budget_s=0.4, idempotent=False))
        .until(2.5, every_s=0.1)
        .at(2.6, reply("a", "c1"))
        .at(2.7, ask("c2"))
        .at(2.71, reply("a", "c2", status=ReplyStatus.FAILED, code="trap"))
        .matches()
    )
