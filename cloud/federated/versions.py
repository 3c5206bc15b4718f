"""The versions of a job's model: how one follows from the one before, and the artifacts of both ways to it.

    x ──server step──> target ──codec──> delta ──> x' = x + delta      as every device computes it, to the bit
                                            └── and x' whole, as a snapshot, for whoever lacks x

A snapshot is offered of every version, and nobody who follows along is made to take one: what x + delta gives
is compared with the version's check each time, so a device that drifted is found out in the same round, and
takes the snapshot then. Nor does the model drift from what the server wanted: see below.

The file of a version is written only after devices were told of it, since it is no more than what follows
from the version before and the log of updates, which both are durable: a process that dies, or a power cut,
costs a moment of work at the next start, and no round waits for megabytes to reach the disk.

What a delta's codec left out is kept with the version, and goes into the next one (error feedback). Rounding
is drawn from the job's seed and the version's number: a version that is made again has the same bits.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import msgspec
import numpy as np

from cloud.federated.journal import Sync, sync_folder, write_whole
from cloud.federated.records import Version
from cloud.federated.strategies import Strategy, apply
from shared.artifacts import make_manifest
from shared.codecs import decode, encode
from shared.errors import Unreadable
from shared.learning import Codec, CodecName, JobSpec, ModelRef
from shared.messages import Manifest
from shared.package import SUFFIX, ModuleKind
from shared.vectors import F32, Vector, VectorFile, check_of, pack_vector

NAME = "federated"  # of the artifacts, in their manifests

_REST = "downlink"
_RAW = Codec(name=CodecName.F32)
_INT8 = Codec(name=CodecName.INT8)

Sign = Callable[[Manifest], Manifest]


class _File(msgspec.Struct):
    """``version-<n>.state``: vectors by name, ``x`` the parameters."""

    version: int
    vectors: dict[str, memoryview]


_file_decoder = msgspec.msgpack.Decoder(_File)


@dataclass(frozen=True, slots=True)
class Model:
    """One version in memory. ``state``: vectors [n] that the server's step, or the downlink, remembers."""

    version: int
    x: Vector
    state: Mapping[str, Vector] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Made:
    """A version, and the delta that leads to it from the one before; empty: there is only a snapshot, as of
    the first one."""

    model: Model
    delta: bytes = b""
    codec: str = ""


def next_version(spec: JobSpec, strategy: Strategy, model: Model, change: Vector) -> Made:
    """The version after ``model``, from the round's change [n]."""
    number = model.version + 1
    target, state = apply(strategy, model.x, change, model.state)
    rest = model.state.get(_REST)
    codec = _RAW if spec.codec.name is CodecName.F32 else _INT8
    data, rest = encode(codec, target - model.x, rest, _generator(spec, number))
    x = model.x + decode(codec.name, data, model.x.size)
    if rest is not None:
        state = {**state, _REST: rest}
    return Made(Model(number, x, state), data, codec.name)


def _generator(spec: JobSpec, version: int) -> np.random.Generator:
    digest = sha256(f"{spec.seed}/{spec.job}/{version}/downlink".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))


# On the disk ------------------------------------------------------------------------------------------


def state_path(folder: Path, version: int) -> Path:
    """Where a version of the job of that folder lies."""
    return folder / f"version-{version}.state"


def save(folder: Path, model: Model, sync: Sync | None) -> None:
    """Durable when this returns, where ``sync`` is given. Raises ``OSError``."""
    vectors = {name: one.data for name, one in {**model.state, "x": model.x}.items()}
    data = msgspec.msgpack.encode(_File(model.version, vectors))
    write_whole(state_path(folder, model.version), data, sync)


def settle(folder: Path, version: int, sync: Sync) -> None:
    """What was saved without is durable when this returns. Raises ``OSError``."""
    descriptor = os.open(state_path(folder, version), os.O_RDONLY)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)
    sync_folder(folder, sync)


def load(folder: Path, ref: ModelRef) -> Model:
    """The version that was announced, to the bit. Raises :class:`Unreadable`."""
    try:
        file = _file_decoder.decode(state_path(folder, ref.version).read_bytes())
        vectors = {name: np.frombuffer(data, F32) for name, data in file.vectors.items()}
    except (OSError, msgspec.MsgspecError, ValueError) as error:
        raise Unreadable(f"version {ref.version} can't be read: {error}") from None
    x = vectors.pop("x", np.zeros(0, F32))
    if file.version != ref.version or check_of(x) != ref.check:
        raise Unreadable(f"version {ref.version} on the disk is not the one that was announced")
    return Model(ref.version, x, vectors)


# As artifacts -----------------------------------------------------------------------------------------


def offered(made: Made, layout_hash: str, folder: Path, sign: Sign) -> Version:
    """Write the artifacts of a version into ``folder`` and describe them.

    They are not synced: a snapshot can be made again from the state file, and a delta that is lost costs its
    readers no more than the way by the snapshot.
    """
    model = made.model
    snapshot, _ = encode(_RAW, model.x, None, np.random.default_rng(0))
    manifests = [_artifact(model, -1, _RAW.name, snapshot, layout_hash, folder)]
    if made.delta:
        manifests.append(_artifact(model, model.version - 1, made.codec, made.delta, layout_hash, folder))
    ref = ModelRef(
        version=model.version,
        layout_hash=layout_hash,
        n_params=model.x.size,
        check=check_of(model.x),
        snapshot=manifests[0].digest,
        delta=manifests[1].digest if made.delta else "",
        base=model.version - 1 if made.delta else -1,
    )
    return Version(ref=ref, manifests=tuple(map(sign, manifests)))


def _artifact(model: Model, base: int, codec: str, data: bytes, layout_hash: str, folder: Path) -> Manifest:
    file = VectorFile(
        version=model.version,
        base=base,
        codec=codec,
        n_params=model.x.size,
        layout_hash=layout_hash,
        data=data,
    )
    packed = pack_vector(file)
    manifest = make_manifest(packed, name=NAME, version=str(model.version), kind=ModuleKind.PLAIN)
    write_whole(artifact_path(folder, manifest.digest), packed, None)
    return manifest


def artifact_path(folder: Path, digest: str) -> Path:
    """Where the artifact lies: as in any folder of blobs."""
    return folder / f"{digest}{SUFFIX}"
