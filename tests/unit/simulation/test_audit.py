"""The audit of a simulated federation finds what it is there to find: bugs that are planted here."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from cloud.federated.collected import Collected, Fresh
from cloud.federated.events import Aggregate, PassId
from cloud.federated.executor import Executor
from cloud.federated.journal import answer_record
from cloud.learning.jobfile import read_job
from shared.core import Work
from shared.learning import Receipt, ReceiptStatus, Stop
from simulation.federation.audit import Audit, Made
from simulation.federation.troubles import Troubles
from simulation.federation.world import Outcome, Setting
from simulation.learn import play

DIGITS = Path(__file__).parents[3] / "examples" / "digits"
Perform = Callable[[Executor, list[Work]], list[object]]


def complaints(troubles: Troubles | None = None) -> str:
    job = read_job(DIGITS).replace(rounds=3, clients=5, quorum=3, stop=Stop(), deadline_s_max=30.0)
    setting = Setting(spec=job.spec, devices=12, seed=1, troubles=troubles or Troubles())
    outcome: Outcome = play(setting, job, None, None)
    assert outcome.phase == "completed"
    return "\n".join(outcome.complaints)


def test_an_honest_coordinator_gives_it_nothing_to_say() -> None:
    assert complaints() == ""


def test_an_update_that_is_added_twice_makes_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    original: Perform = Executor.perform

    def perform(self: Executor, works: list[Work]) -> list[object]:
        if isinstance(works[0], Aggregate):
            collected = self._collected(works[0].at)
            collected._sum._sum += 1 << 20
        return original(self, works)

    monkeypatch.setattr(Executor, "perform", perform)
    assert "the version is not what its updates give" in complaints()


def test_a_receipt_without_an_entry_in_the_journal_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Audit, "judged", lambda self, answer: None)  # as if nothing had been written
    assert "told that an update was accepted which no journal has" in complaints()


def test_an_update_that_counts_and_is_not_logged_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def keep(self: Collected, new: Sequence[Fresh]) -> None:
        for one in new:
            self.answers[one.answer.client, one.answer.asked] = one.answer
            self._add(one.answer, one.content)
        if len(self.answers) != 2:
            self._log.append([answer_record(one.answer, one.data) for one in new])

    monkeypatch.setattr(Collected, "keep", keep)
    said = complaints()
    assert "was accepted, and the log of the pass lacks it" in said
    assert "the version is not what its updates give" in said


def test_a_receipt_that_says_late_of_an_update_that_counts_is_found(tmp_path: Path) -> None:
    audit = Audit(tmp_path)
    audit._made[1] = Made(PassId("digits", 1, "train", 0), "c", (("n1", 1, "d1"), ("n2", 1, "d2")))
    audit._journal |= {("n1", "d1"), ("n2", "d2")}
    audit.told("n1", Receipt(round=1, digest="d1", status=ReceiptStatus.DUPLICATE))
    audit.told("n2", Receipt(round=1, digest="d2", status=ReceiptStatus.LATE))
    assert audit.close() == ("n2, round 1: it counts, and the receipt says late",)


def test_a_client_that_counts_twice_in_a_round_is_found(tmp_path: Path) -> None:
    audit = Audit(tmp_path)
    for version in (1, 2):
        audit._made[version] = Made(PassId("digits", 1, "train", 0), "c", (("n1", 1, "d1"),))
    audit._journal.add(("n1", "d1"))
    audit.told("n1", Receipt(round=1, digest="d1", status=ReceiptStatus.ACCEPTED))
    assert audit.close() == ("n1 counts 2 times in round 1",)
