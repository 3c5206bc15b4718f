"""What a job has to tell: derived from its state, said once, and again when the broker may have lost it.

Facts are levels. Whatever a job did, its facts are compared with what was published last, and the difference
is published. Nothing is said of a state that is not durable. How many have answered is said with the clock:
whoever watches is not told of each of a thousand devices.
"""

from math import inf

import msgspec

from cloud.federated.events import Offer, Settle, Withdraw
from cloud.federated.job import Job
from cloud.federated.round import ASKED
from shared.core import Clear, Effect, Publish
from shared.learning import JobFact, Phase, RoundFact
from shared.messages import Manifest
from shared.topics import JOB, MANIFEST, ROUND


def tell(job: Job, now: float, unix_s: float, *, tick: bool) -> list[Effect]:
    """Everything that the fleet does not know yet. Artifacts come before the round that needs them."""
    if not tick and job.state is job.told_state:
        return []
    job.told_state = job.state
    effects = _artifacts(job)
    fact = round_fact(job, now)
    news = job.told_round is None or _lasting(fact) != _lasting(job.told_round)
    if news and not _all_answered(job):
        job.told_round = fact
        effects.append(Publish(ROUND.at(job=job.name), fact))
    return [*effects, *tell_progress(job, unix_s)]


def _all_answered(job: Job) -> bool:
    """AGGREGATING says to the cohort that no answer is wanted any more. If everybody has given one, that is
    no news to anybody, and the next round's fact, which follows in a moment, is."""
    one = job.round
    if job.state.phase is not Phase.AGGREGATING or one is None or job.told_round is None:
        return False
    return all(one.rows[client].status != ASKED for client in one.at.opening.cohort)


def tell_progress(job: Job, unix_s: float) -> list[Effect]:
    """How the job is doing, where that is new."""
    fact = job_fact(job)
    if job.told_job is not None and fact == msgspec.structs.replace(job.told_job, at_unix_s=0.0):
        return []
    job.told_job = msgspec.structs.replace(fact, at_unix_s=unix_s)
    return [Publish(JOB.at(job=job.name), job.told_job)]


def tell_again(job: Job) -> None:
    """A broker may have lost what it had retained."""
    job.told_state, job.told_round, job.told_job, job.offered = None, None, None, {}


def silence(job: Job) -> list[Effect]:
    """The job is deleted: nothing of it stays on the broker."""
    effects: list[Effect] = [Clear(ROUND.at(job=job.name)), Clear(JOB.at(job=job.name))]
    for digest in (*_manifests(job), *job.gone):
        effects += [Clear(MANIFEST.at(artifact=digest)), Withdraw(digest)]
    return effects


def digests(job: Job) -> tuple[str, ...]:
    """Of all artifacts that the job has on the disk."""
    return (*_manifests(job), *job.gone)


def _artifacts(job: Job) -> list[Effect]:
    effects: list[Effect] = []
    wanted = _manifests(job)
    for digest, manifest in wanted.items():
        if digest not in job.offered:
            readers = _asked(job) if digest == job.state.version.ref.delta else 0
            effects += [Publish(MANIFEST.at(artifact=digest), manifest), Offer(manifest, readers)]
    gone = [digest for digest in job.gone if digest not in wanted]
    for digest in gone:
        effects += [Clear(MANIFEST.at(artifact=digest)), Withdraw(digest)]
    state, before = job.state, job.state.before
    if before is not None and wanted.keys() != job.offered.keys():
        newest, oldest = state.version.ref.version, before.ref.version
        effects.append(Settle(job.name, newest, oldest, state.round - 1, tuple(gone)))
    job.offered, job.gone = wanted, ()
    return effects


def _asked(job: Job) -> int:
    """How many hold the version before, as far as anybody knows: whoever is asked now was asked then."""
    return len(job.round.at.opening.cohort) if job.round is not None else 0


def _manifests(job: Job) -> dict[str, Manifest]:
    before = job.state.before
    manifests = (*job.state.version.manifests, *(before.manifests if before else ()))
    return {one.digest: one for one in manifests}


def round_fact(job: Job, now: float) -> RoundFact:
    """The open pass, or that nothing is asked."""
    state, spec, one = job.state, job.spec, job.round
    if state.phase is not Phase.TRAINING or one is None:
        return RoundFact(
            job=job.name, round=state.round, term=state.term, phase=state.phase, overlap=job.overlap
        )
    if one.opened_at == inf:
        one.start(now)
    return RoundFact(
        job=job.name,
        round=state.round,
        term=state.term,
        phase=Phase.TRAINING,
        task=one.at.opening.task,
        cohort=one.at.opening.cohort,
        package=spec.package,
        model=state.version.ref,
        plan=spec.plan,
        codec=spec.codec,
        link_codecs=spec.link_codecs,
        clip=spec.clip,
        seed=one.at.opening.seed,
        budget_s=max(0.0, one.deadline - now),
        overlap=job.overlap,
    )


def _lasting(fact: RoundFact) -> RoundFact:
    """Without the time that is left, which is another one each time."""
    return msgspec.structs.replace(fact, budget_s=0.0)


def job_fact(job: Job) -> JobFact:
    """For everybody who watches."""
    state, one = job.state, job.round
    return JobFact(
        job=job.name,
        term=state.term,
        phase=state.phase,
        round=state.round,
        rounds=job.spec.rounds,
        version=state.version.ref.version,
        task=state.task,
        asked=len(one.at.opening.cohort) if one else 0,
        accepted=one.accepted if one else 0,
        rejected=one.rejected if one else 0,
        metrics=state.metrics,
        detail=(job.note if state.phase is Phase.INITIALIZING else state.detail)[:500],
        model=state.model,
    )
