"""The registry's stories, as golden transcripts."""

from cloud.registry.core import Registry
from cloud.registry.events import Enrol, Forget
from shared.core import LinkDown, LinkUp, Tick
from shared.messages import NodeState
from tests.transcript import Transcript
from tests.unit.cloud.registry.devices import ABLE, beat, birth, presence, reported, told


def story(name: str, core: Registry | None = None) -> Transcript:
    return Transcript(f"registry/{name}", core or Registry(), told)


def test_a_device_goes_into_service() -> None:
    (
        story("a-device-goes-into-service")
        .at(0.0, LinkUp(False), Tick())
        .at(1.0, presence("pi"), birth("pi"), beat("pi", 0), reported("pi", "digits"))
        .at(11.0, beat("pi", 1, state=NodeState.BUSY, in_flight=2))
        .at(21.0, beat("pi", 2, state=NodeState.DRAINING))
        .matches()
    )


def test_silence_becomes_suspicion_and_then_a_verdict() -> None:
    (
        story("silence-becomes-suspicion-and-then-a-verdict")
        .at(0.0, LinkUp(False), Tick())
        .at(1.0, birth("pi"), beat("pi", 0))
        .until(70.0)
        .at(71.0, presence("pi"))
        .at(72.0, beat("pi", 7))
        .matches()
    )


def test_a_will_of_an_old_epoch_is_ignored() -> None:
    (
        story("a-will-of-an-old-epoch-is-ignored")
        .at(0.0, LinkUp(False), Tick())
        .at(1.0, birth("pi", 1), beat("pi", 0, 1))
        .at(4.0, presence("pi", 2), birth("pi", 2), beat("pi", 0, 2))
        .at(6.0, presence("pi", 1, online=False, reason="will"))
        .at(7.0, beat("pi", 1, 1), birth("pi", 1), reported("pi", "digits", epoch=1))
        .at(9.0, presence("pi", 2, online=False, reason="will"))
        .matches()
    )


def test_a_blackout_of_the_cloud_makes_nobody_offline() -> None:
    """The verdict on the node that really died comes a whole window after the cloud can see again."""
    (
        story("blackout-of-the-cloud-makes-nobody-offline")
        .at(0.0, LinkUp(False), Tick())
        .at(1.0, birth("lives"), beat("lives", 0), birth("dies"), beat("dies", 0))
        .until(2.0)
        .at(2.0, LinkDown())
        .until(602.0)
        .at(602.0, LinkUp(False), presence("lives"), birth("lives"), presence("dies"), birth("dies"))
        .at(605.0, beat("lives", 60))
        .until(628.0)
        .at(628.0, beat("lives", 62))
        .until(655.0)
        .at(655.0, beat("lives", 65))
        .until(664.0)
        .matches()
    )


def test_a_blink_of_our_own_link_changes_nothing() -> None:
    (
        story("a-blink-of-our-own-link-changes-nothing")
        .at(0.0, LinkUp(False), Tick())
        .at(1.0, birth("pi"), beat("pi", 0))
        .at(5.0, LinkDown())
        .until(20.0)
        .at(20.0, LinkUp(False), presence("pi"), birth("pi"))
        .at(21.0, beat("pi", 2))
        .matches()
    )


def test_a_cloud_that_starts_knows_its_nodes_but_vouches_for_none() -> None:
    (
        story("a-cloud-that-starts-vouches-for-none")
        .at(0.0, presence("old"), birth("old"), presence("gone", online=False, reason="will"))
        .at(0.1, LinkUp(False), Tick())
        .at(4.0, beat("old", 1234))
        .until(40.0)
        .matches()
    )


def test_a_process_that_slept_does_not_blame_the_devices() -> None:
    (
        story("a-process-that-slept-does-not-blame-the-devices")
        .at(0.0, LinkUp(False), Tick())
        .at(1.0, birth("pi"), beat("pi", 0))
        .until(2.0)
        .at(300.0, Tick(), beat("pi", 29))
        .matches()
    )


def test_a_missing_birth_is_asked_for() -> None:
    (
        story("a-missing-birth-is-asked-for")
        .at(0.0, LinkUp(False), Tick())
        .at(1.0, beat("pi", 0))
        .at(11.0, beat("pi", 1))
        .at(21.0, beat("pi", 2))
        .at(41.0, beat("pi", 3))
        .at(42.0, birth("pi"))
        .at(51.0, beat("pi", 4))
        .matches()
    )


def test_the_books_are_kept_by_operators_too() -> None:
    (
        story("the-books-are-kept-by-operators-too", Registry(nodes_max=2))
        .at(0.0, LinkUp(False), Tick())
        .at(1.0, Enrol("planned", "10.0.0.9", ABLE), Enrol("planned", "", ABLE), Enrol("Not an id", "", ABLE))
        .at(2.0, birth("planned"), beat("planned", 0), Forget("planned"), Forget("nobody"))
        .at(3.0, presence("second", online=False), presence("third"), Forget("second"), presence("third"))
        .matches()
    )


def test_claims_that_cannot_be_true_are_refused_whole() -> None:
    nan = float("nan")
    (
        story("claims-that-cannot-be-true")
        .at(0.0, LinkUp(False), Tick())
        .at(1.0, birth("pi", heartbeat_s=nan), birth("pi", heartbeat_s=1e9), birth("pi", slots=0))
        .at(2.0, beat("pi", 0, cpu_ratio=nan), beat("pi", 0, in_flight=-1), beat("pi", -1))
        .at(3.0, reported("pi", "../../etc"), reported("pi", *(f"m{n}" for n in range(257))))
        .matches()
    )
