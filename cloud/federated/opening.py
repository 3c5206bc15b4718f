"""How a pass begins: what it asks for, and by which rules its answers are judged."""

from hashlib import sha256

from cloud.federated.events import Pass
from cloud.federated.fleet import codecs_of
from cloud.federated.gate import Expected, Norms
from cloud.federated.progress import budget_s
from cloud.federated.records import JobState, Opening
from cloud.federated.round import Round
from cloud.federated.strategies import Strategy
from shared.learning import UPDATE_BYTES_MAX, Task

_ENCODED_BYTES = 9  # of a parameter, at the very most: a gateway's sum of eight, and what frames cost
_FRAME_BYTES = 4096
_SEED_BYTES = 7


def opening_of(state: JobState, cohort: tuple[str, ...]) -> Opening:
    """The pass that the state stands before. What a usual norm is stays fixed in it: a norm that followed the
    answers would make the model depend on their order."""
    seconds = state.evaluate_s if state.task is Task.EVALUATE else state.train_s
    return Opening(
        round=state.round,
        attempt=state.attempt,
        task=state.task,
        cohort=cohort,
        seed=_seed(state),
        budget_s=budget_s(state.spec, seconds),
        norm_median=Norms(state.norms).median,
    )


def _seed(state: JobState) -> int:
    """The job's; another one for each further attempt. A device that answered the one before, and did not
    hear that it came to nothing, so takes this for a new question and not for one that it has answered."""
    if not state.attempt:
        return state.spec.seed
    digest = sha256(f"{state.spec.seed}/{state.attempt}".encode()).digest()
    return int.from_bytes(digest[:_SEED_BYTES], "big")


def round_of(state: JobState, strategy: Strategy, opening: Opening) -> Round:
    """The pass as a core. An evaluation takes whatever comes until its deadline."""
    spec, ref, train = state.spec, state.version.ref, opening.task is Task.TRAIN
    gateways = spec.gateways if train and strategy.gateways else ()
    expected = Expected(
        task=opening.task,
        version=ref.version,
        layout_hash=ref.layout_hash,
        n_params=ref.n_params,
        codecs=codecs_of(spec, bool(gateways)),
        samples_max=spec.samples_max,
        size_bytes_max=min(UPDATE_BYTES_MAX, _ENCODED_BYTES * ref.n_params + _FRAME_BYTES),
        staleness_max=strategy.staleness_max if train else 0,
    )
    return Round(
        at=Pass(spec, ref, opening),
        expected=expected,
        wanted=spec.clients if train else len(opening.cohort),
        quorum=spec.quorum if train else 0,
        gateways=gateways,
        earlier={client: one.asked for client, one in state.clients.items()} if train else {},
    )
