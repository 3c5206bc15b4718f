"""How a vector of changes is written for the wire, and read back with distrust.

    f32    every coordinate as it is                                                4 bytes each
    int8   per block of 256 coordinates one scale (bfloat16), then a
           code in -127..127 each                                                   1 byte each
    topk   only the coordinates of largest |value|: the gaps between their
           indices, then as int8                                                    about 2 bytes each kept
    sum    a gateway's exact integer total of many devices

All of them end in whatever is shortest, and the first byte tells which it is:

    0x28      one Zstandard frame that names its content's size
    1         int8 only, up to 2,048 codes: scales, then the codes by tables that both sides have (``rans``)
    0         the content as it is, behind this byte
    another   the content as it is: a frame costs some ten bytes, a quarter of a small update

A reader knows how long the content may be from the number of parameters *it* expects, so what a sender claims
never decides what is allocated.

Rounding to int8 is stochastic and unbiased: the mean over many devices is off by the mean of many small
independent errors (QSGD, Alistarh et al. 2017). What a codec left out comes back as ``residual``, for the
sender to add to its next vector (error feedback, Seide et al. 2014; Karimireddy et al. 2019): top-k needs
that, int8 gains a little.

A vector with a coordinate that isn't finite is written so that it is read as not finite, block by block:
the receiver's gate shall see it.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, TypeVar

import numpy as np
import zstandard
from numpy.typing import NDArray

from shared import rans
from shared.errors import Unreadable
from shared.learning import Codec, CodecName
from shared.vectors import F32, Vector

BLOCK = 256  # coordinates that share a scale
PIECE = 256 * BLOCK  # coordinates that go through all steps of a codec, in the cache, before the next ones do
CODE_MAX = rans.CODE_MAX
SCALE_BYTES = 2
SUM = "sum"
LEVEL = 3  # of Zstandard: codes are noise to it, higher levels cost time and save under 1 %
LEVEL_F32 = 1  # of floats: a quarter faster than level 3, and no longer
WINDOW_BYTES_MAX = 8 << 20  # what a frame may make its reader keep; ours ask for at most 2 MiB
_VARINT_BYTES_MAX = 5  # of a 32-bit number
_DRAWS = 4  # of 16 bits, in what a generator gives at a time
_PART = np.float32(2.0**-16)
_MIDDLES = np.uint64(0x0001_0001_0001_0001)

Bytes = NDArray[np.uint8]
Codes = NDArray[np.int8]
Total = NDArray[np.int64]
T = TypeVar("T", bound=np.generic)


class Encoded(NamedTuple):
    """``residual`` [n]: what ``data`` leaves out, to be added to the next vector; None: nothing to keep."""

    data: bytes
    residual: Vector | None


def encode(codec: Codec, delta: Vector, residual: Vector | None, rng: np.random.Generator) -> Encoded:
    """Write ``delta`` [n], with what the last call left out.

    Without ``codec.feedback`` a residual is neither used nor returned; f32 leaves nothing out, and returns
    none. Nor does a vector that isn't finite: one bad round must not spoil those after it.
    Raises ``ValueError`` when the residual has another length.
    """
    if residual is not None and residual.shape != delta.shape:
        raise ValueError(f"a residual of {residual.shape} for a vector of {delta.shape}")
    left: Vector | None = None
    wanted = delta
    if residual is not None and codec.feedback:
        left = wanted = np.add(delta, residual, dtype=F32)  # what is left may replace the sum
    if codec.name is CodecName.F32:
        return Encoded(_compressed(np.ascontiguousarray(wanted, F32).tobytes(), LEVEL_F32), None)
    write = _write_int8 if codec.name is CodecName.INT8 else _write_topk
    if codec.feedback and left is None:
        left = np.array(wanted, F32)
    return Encoded(*write(wanted, codec.ratio, rng, left))


def decode(name: str, data: bytes, n_params: int) -> Vector:
    """A new vector [n_params]. Raises :class:`Unreadable` for every input that no ``encode`` wrote.

    Allocates at most about three vectors of ``n_params``, whatever ``data`` says.
    """
    read = _READERS.get(name)
    if read is None:
        raise Unreadable(f"codec {name[:32]!r} is not known; {', '.join(_READERS)} are")
    return read(data, n_params)


# int8 -----------------------------------------------------------------------------------------------


def quantise(values: Vector, scales: Vector, rng: np.random.Generator, left: Vector | None = None) -> Codes:
    """Codes [n] with ``code * scale`` equal to the value on average over ``rng``, to 2**-16 of a scale.

    ``scales``: one for each ``BLOCK`` values. Secure aggregation, where codes of many devices are added
    before anybody sees them, needs *one* scale that all agreed on before: pass the same ``clip / 127`` for
    every block, and send no scales. Beyond 127 scales a value is cut off.
    ``left``: becomes what the codes leave out [n]; it may be ``values`` itself.

    A piece goes through all steps while it is in the cache. Chance comes in 16 bits a value, the middle of
    one of 32,768 equal parts of [0, 1): a fourth of what floats take, and whole codes stay what they are.
    """
    usable = scales > 0  # one that isn't finite is not, or gives 0
    divisors, whole = np.where(usable, scales, F32.type(1)), bool(usable.all())
    codes = np.empty(values.size, np.int8)
    steps_of, chance_of = np.empty((2, min(values.size, PIECE)), F32)
    for part, blocks in _pieces(values.size):
        piece = values[part]
        steps, chance = steps_of[: piece.size], chance_of[: piece.size]
        drawn = rng.bit_generator.random_raw(-(-piece.size // _DRAWS)) | _MIDDLES
        np.multiply(drawn.view("<u2")[: piece.size], _PART, out=chance, dtype=F32)
        np.divide(piece, _spread(divisors[blocks], piece.size), out=steps)
        if not whole:  # division with ``where`` costs ten times as much as this
            steps[_spread(~usable[blocks], piece.size)] = 0
        np.add(steps, chance, out=steps)
        np.floor(steps, out=steps)
        np.clip(steps, -CODE_MAX, CODE_MAX, out=steps)
        np.copyto(codes[part], steps, casting="unsafe")
        if left is not None:
            with np.errstate(invalid="ignore", over="ignore"):
                np.multiply(steps, _spread(scales[blocks], piece.size), out=steps)
                np.subtract(piece, steps, out=left[part])
    return codes


def restore(codes: Codes, scales: Vector) -> Vector:
    """The values [n] that the codes stand for; not finite where a sender's scale makes them so."""
    values = np.empty(codes.size, F32)
    with np.errstate(invalid="ignore", over="ignore"):
        for part, blocks in _pieces(codes.size):
            piece: Vector = values[part]
            np.copyto(piece, codes[part])
            np.multiply(piece, _spread(scales[blocks], piece.size), out=piece)
    return values


def _pieces(count: int) -> Iterator[tuple[slice, slice]]:
    """Values, and their blocks."""
    for start in range(0, count, PIECE):
        yield slice(start, min(start + PIECE, count)), slice(start // BLOCK, (start + PIECE) // BLOCK)


def _spread(of_blocks: NDArray[T], count: int) -> NDArray[T]:
    """For each value what its block has [count]."""
    return np.repeat(of_blocks, BLOCK)[:count]


def scales_of(values: Vector) -> Vector:
    """Of each block, the largest |value| / 127: [ceil(n / 256)]. Not a number where a value isn't finite."""
    peaks = np.maximum.reduceat(np.abs(values), np.arange(0, values.size, BLOCK)) if values.size else values
    return _rounded_up(np.where(np.isfinite(peaks), peaks / F32.type(CODE_MAX), F32.type(np.nan)))


def _rounded_up(scales: Vector) -> Vector:
    """To a bfloat16, the upper half of a float32. Never down: a code would have to exceed 127."""
    bits = np.ascontiguousarray(scales, F32).view("<u4")
    up: Vector = (bits + np.uint32(0xFFFF) & np.uint32(0xFFFF0000)).view(F32)
    return np.where(np.isnan(scales), scales, up)


def _packed(scales: Vector) -> bytes:
    return (np.ascontiguousarray(scales, F32).view("<u4") >> np.uint32(16)).astype("<u2").tobytes()


def _unpacked(raw: bytes) -> Vector:
    scales: Vector = (np.frombuffer(raw, "<u2").astype("<u4") << np.uint32(16)).view(F32)
    if (scales < 0).any():
        raise Unreadable("a scale is negative")
    return scales


def _blocks(count: int) -> int:
    return -(-count // BLOCK)


def _write_int8(
    values: Vector, _ratio: float, rng: np.random.Generator, left: Vector | None
) -> tuple[bytes, Vector | None]:
    """The bytes, and ``left`` with what they leave out; None for one that isn't finite."""
    scales = scales_of(values)
    codes = quantise(values, scales, rng, left)
    data = _compressed(_packed(scales) + codes.tobytes())
    if codes.size <= rans.COUNT_MAX:
        data = min(_RANS + _packed(scales) + rans.encode(codes), data, key=len)
    return data, left if _bounded(scales) else None


def _bounded(scales: Vector) -> bool:
    """Whether every code stands for a finite number."""
    with np.errstate(invalid="ignore", over="ignore"):
        return bool(np.isfinite(scales * F32.type(CODE_MAX)).all())


def _read_int8(data: bytes, n_params: int) -> Vector:
    scales_bytes = SCALE_BYTES * _blocks(n_params)
    if data[:1] == _RANS:
        begin = len(_RANS) + scales_bytes
        if len(data) - begin > rans.bytes_max(n_params):
            raise Unreadable(f"{len(data)} bytes are too many for {n_params} codes")
        return restore(rans.decode(data[begin:], n_params), _unpacked(data[len(_RANS) : begin]))
    return _restored(_decompressed_exactly(data, scales_bytes + n_params), n_params)


def _restored(raw: bytes, count: int) -> Vector:
    """``raw``: scales, then ``count`` codes, and nothing else."""
    begin = SCALE_BYTES * _blocks(count)
    return restore(np.frombuffer(raw, np.int8, count, begin), _unpacked(raw[:begin]))


# topk -----------------------------------------------------------------------------------------------
#
#   varint k | k varint gaps (index - index before - 1) | scales of the k values | k codes


def _write_topk(
    values: Vector, ratio: float, rng: np.random.Generator, left: Vector | None
) -> tuple[bytes, Vector | None]:
    """As :func:`_write_int8`."""
    indices = _largest(values, ratio)
    kept = values[indices]
    scales = scales_of(kept)
    codes = quantise(kept, scales, rng, kept)
    gaps = np.diff(indices, prepend=-1) - 1
    heads = pack_varints(np.concatenate(([indices.size], gaps)).astype(np.uint64))
    if left is not None:
        left[indices] = kept
    return _compressed(heads + _packed(scales) + codes.tobytes()), left if _bounded(scales) else None


def _largest(values: Vector, ratio: float) -> NDArray[np.int64]:
    """Ascending indices of the share ``ratio`` of largest |value|, at least one, but none that is zero."""
    keep = min(values.size, max(1, round(values.size * ratio)))
    sizes = np.abs(values)
    found = np.argpartition(sizes, values.size - keep)[values.size - keep :]  # NaN counts as largest
    found = found[sizes[found] != 0]
    return np.sort(found).astype(np.int64)


def _read_topk(data: bytes, n_params: int) -> Vector:
    # A gap g takes at most 1 + g // 128 bytes and all gaps are together less than n.
    heads_max = _VARINT_BYTES_MAX + n_params + n_params // 128
    raw = _decompressed(data, heads_max + SCALE_BYTES * _blocks(n_params) + n_params)
    kept = _count_of(raw, n_params)
    body = len(raw) - SCALE_BYTES * _blocks(kept) - kept
    indices = _indices(raw[: max(body, 0)], kept, n_params)
    vector = np.zeros(n_params, F32)
    vector[indices] = _restored(raw[body:], kept)
    return vector


def _count_of(raw: bytes, n_params: int) -> int:
    """How many were kept: the first varint."""
    head = np.frombuffer(raw[:_VARINT_BYTES_MAX], np.uint8)
    ends = np.flatnonzero(head < 0x80)
    if not ends.size:
        raise Unreadable("the number of coordinates is missing")
    kept = int(unpack_varints(head[: ends[0] + 1])[0])
    if kept > n_params:
        raise Unreadable(f"{kept} coordinates of {n_params}")
    return kept


def _indices(heads: bytes, kept: int, n_params: int) -> NDArray[np.int64]:
    numbers = unpack_varints(np.frombuffer(heads, np.uint8))
    if numbers.size != kept + 1:
        raise Unreadable(f"{numbers.size - 1} gaps for {kept} coordinates")
    gaps = numbers[1:].astype(np.int64)
    if kept and int(gaps.max()) >= n_params:  # before they are added up: the sum must not overflow
        raise Unreadable("a gap is larger than the vector")
    indices: NDArray[np.int64] = np.cumsum(gaps + 1) - 1
    if kept and int(indices[-1]) >= n_params:
        raise Unreadable("an index is behind the end of the vector")
    return indices


# Varints (LEB128), all at once: the loops are over the bytes of one number, never over numbers -----------


def pack_varints(numbers: NDArray[np.uint64]) -> bytes:
    """Seven bits a byte, low ones first; the highest bit says that more follow. ``numbers`` below 2**35."""
    places = np.arange(_VARINT_BYTES_MAX, dtype=np.uint64)
    lengths = 1 + (numbers[:, None] >> (7 * places[1:]) > 0).sum(axis=1)
    ends = np.cumsum(lengths)
    out = np.empty(int(ends[-1]) if numbers.size else 0, np.uint8)
    for place in range(_VARINT_BYTES_MAX):
        has = lengths > place
        more = (lengths[has] > place + 1).astype(np.uint64) << np.uint64(7)
        out[(ends - lengths)[has] + place] = (numbers[has] >> np.uint64(7 * place)) & np.uint64(0x7F) | more
    return out.tobytes()


def unpack_varints(raw: Bytes) -> NDArray[np.uint64]:
    """The other direction. Raises :class:`Unreadable` for one cut off, or longer than five bytes."""
    ends = np.flatnonzero(raw < 0x80)
    if raw.size and (not ends.size or ends[-1] != raw.size - 1):
        raise Unreadable("a number is cut off")
    lengths = np.diff(ends, prepend=-1)
    if ends.size and lengths.max() > _VARINT_BYTES_MAX:
        raise Unreadable("a number is too long")
    starts = ends - lengths + 1
    numbers = np.zeros(ends.size, np.uint64)
    for place in range(_VARINT_BYTES_MAX):
        has = lengths > place
        numbers[has] |= (raw[starts[has] + place].astype(np.uint64) & np.uint64(0x7F)) << np.uint64(7 * place)
    return numbers


# f32 and sum -----------------------------------------------------------------------------------------


def _read_f32(data: bytes, n_params: int) -> Vector:
    return np.frombuffer(_decompressed_exactly(data, 4 * n_params), F32).copy()


def encode_sum(total: Total) -> bytes:
    """A gateway's total [n], exactly.

    Zigzag makes small negative numbers small; then all lowest bytes stand together, all second ones, and so
    on: the upper ones are almost all zero, and Zstandard makes them vanish.
    """
    zigzag = (total << 1) ^ (total >> 63)
    return _compressed(zigzag.astype("<i8").view(np.uint8).reshape(-1, 8).T.tobytes())


def decode_sum(data: bytes, n_params: int) -> Total:
    """The total [n_params]. Raises :class:`Unreadable`."""
    raw = np.frombuffer(_decompressed_exactly(data, 8 * n_params), np.uint8)
    zigzag = np.ascontiguousarray(raw.reshape(8, n_params).T).view("<u8").ravel()
    return ((zigzag >> np.uint64(1)) ^ (np.uint64(0) - (zigzag & np.uint64(1)))).astype(np.int64)


# The frame ------------------------------------------------------------------------------------------


_FRAME = b"\x28"  # every frame begins with it: RFC 8878, section 3.1.1
_RANS = b"\x01"
_STORED = b"\0"


def _compressed(raw: bytes, level: int = LEVEL) -> bytes:
    frame = zstandard.ZstdCompressor(level=level).compress(raw)
    stored = _STORED + raw if raw[:1] in (_FRAME, _RANS, _STORED) else raw
    return frame if len(frame) <= len(stored) else stored


def _decompressed(data: bytes, bytes_max: int) -> bytes:
    """The content. Raises :class:`Unreadable` before anything of another size is allocated."""
    if data[:1] != _FRAME:
        begin = int(data[:1] == _STORED)
        if len(data) - begin > bytes_max:
            raise Unreadable(f"content of {len(data) - begin} bytes where at most {bytes_max} are possible")
        return data[begin:]
    try:
        size = zstandard.frame_content_size(data)
        if not 0 <= size <= bytes_max:
            raise Unreadable(f"content of {size} bytes where at most {bytes_max} are possible")
        reader = zstandard.ZstdDecompressor(max_window_size=WINDOW_BYTES_MAX)
        raw = reader.decompress(data, max_output_size=max(size, 1), allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise Unreadable(f"not a Zstandard frame: {error}") from None
    return raw


def _decompressed_exactly(data: bytes, size: int) -> bytes:
    raw = _decompressed(data, size)
    if len(raw) != size:
        raise Unreadable(f"content of {len(raw)} bytes instead of {size}")
    return raw


_READERS: Mapping[str, Callable[[bytes, int], Vector]] = {
    CodecName.F32: _read_f32,
    CodecName.INT8: _read_int8,
    CodecName.TOPK: _read_topk,
}
