"""Artifacts that another capability borrows."""

from edge.artifacts.events import (
    DeleteBlob,
    Land,
    Lend,
    Refuse,
    Released,
    Required,
    Restored,
    Unlisten,
    Verified,
    VerifyBlob,
)
from edge.artifacts.loans import LOANS_MAX
from shared.core import Failed, LinkUp, Publish, Tick
from shared.messages import ReportedModels
from tests.unit.edge.artifacts.test_models import A, B, desired, fetched, models, of_type, ready, run


def test_what_is_required_is_fetched_lent_and_collected_at_its_release():
    core = models()
    effects = run(core, LinkUp(False), Required(A.digest), *fetched(A))
    assert of_type(effects, Lend) == [Lend(A.digest)]
    assert run(core, Required(A.digest)) == [Lend(A.digest)], "asked again, answered again"
    assert run(core, Tick(), now=10_000.0) == [], "it is kept as long as it is required"
    assert run(core, Released(A.digest)) == [DeleteBlob(A.digest)]


def test_a_loan_is_not_reported_as_a_model():
    core = models()
    run(core, LinkUp(False))
    said = of_type(run(core, Required(A.digest), *fetched(A), now=100.0), Publish)
    assert not [one for one in said if isinstance(one.message, ReportedModels)]


def test_what_nobody_offers_is_refused_and_may_be_required_again():
    core = models()
    run(core, LinkUp(False), Required(A.digest))
    effects = run(core, Tick(), now=31.0)
    assert [one.digest for one in of_type(effects, Refuse)] == [A.digest]
    assert of_type(run(core, Required(A.digest), *fetched(A), now=40.0), Lend)


def test_a_release_ends_the_fetch():
    core = models()
    run(core, LinkUp(False), Required(A.digest), *fetched(A)[:3])
    assert Unlisten(A.digest) in run(core, Released(A.digest))


def test_a_blob_that_lies_here_is_checked_first():
    core = models()
    run(core, Restored(0, {}, {A.digest: A.size_bytes, B.digest: B.size_bytes}, {}))
    assert run(core, Required(A.digest), Required(B.digest)) == [VerifyBlob(A.digest), VerifyBlob(B.digest)]
    assert run(core, Verified(A.digest, True)) == [Lend(A.digest)]
    run(core, LinkUp(False), Verified(B.digest, False))
    assert of_type(run(core, *fetched(B)), Lend) == [Lend(B.digest)]


def test_a_disk_that_cannot_be_read_refuses():
    core = models()
    run(core, Restored(0, {}, {A.digest: A.size_bytes}, {}), Required(A.digest))
    (refused,) = run(core, Failed(VerifyBlob(A.digest), "I/O error"))
    assert refused == Refuse(A.digest, "I/O error")


def test_a_model_keeps_what_training_lets_go_of():
    core = models()
    ready(core, A)
    run(core, Required(A.digest), Verified(A.digest, True))
    assert run(core, Released(A.digest)) == []
    assert A.digest in core.shelf.blobs
    run(core, Required(A.digest), Verified(A.digest, True), desired(2))
    assert A.digest not in core.shelf.garbage, "and the other way round"


def test_loans_are_bounded_and_named_by_digests():
    core = models()
    run(core, *(Required(f"{n:064x}") for n in range(LOANS_MAX)))
    assert of_type(run(core, Required("f" * 64), Required("../etc/passwd")), Refuse)


def test_a_loan_does_not_wait_for_the_disk_unless_a_model_needs_the_same_bytes():
    core = models()
    effects = run(core, LinkUp(False), Required(A.digest), *fetched(A))
    assert of_type(effects, Land) == [Land(A.digest, durable=False)]
    effects = run(core, Required(B.digest), desired(1, b=B), *fetched(B))
    assert of_type(effects, Land) == [Land(B.digest)]
