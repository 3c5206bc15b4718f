"""Entropy coding of a few int8 codes: asymmetric numeral systems with tables that nobody has to send.

A range of numbers stands for what was read so far; each code takes it to a part as wide as the code is
likely (rANS: Duda 2009, arXiv:1311.2540; bytewise as in Giesen 2014, arXiv:1402.3392). It comes within four
bytes of the entropy. Zstandard's Huffman table costs 60 bytes, a tenth of an update of 600 parameters; for
thousands of codes that is nothing, and Zstandard is a hundred times faster than these loops.

The codes of a block that was scaled by its largest value are spread like Student's t. A table is a width
and an exponent of its density, made with whole numbers only, so that it is the same everywhere.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shared.errors import Unreadable

Codes = NDArray[np.int8]

CODE_MAX = 127
COUNT_MAX = 2048  # codes: one takes half a microsecond
SHAPES = ((6, 1), (11, 1), (18, 1), (22, 2), (30, 2), (26, 3), (35, 4), (40, 8))  # width, exponent
_BITS = 12  # of a probability
_WHOLE = 1 << _BITS
_LOWEST = 1 << 23  # the state stays in [2**23, 2**31)
_STATE_BYTES = 4
_PEAK = 4  # parts more for 127 and for -127: every block has one of them


class _Table(NamedTuple):
    """By code + 127: how many of 4096 parts it has and where they begin; and whose each part is."""

    widths: list[int]
    starts: list[int]
    owners: bytes


def encode(codes: Codes) -> bytes:
    """The number of a table, then the codes, each in -127..127; at most ``COUNT_MAX`` of them."""
    symbols = (codes.astype(np.int16) + CODE_MAX).tolist()
    best = int(np.argmin(_prices() @ np.bincount(symbols, minlength=2 * CODE_MAX + 1)))
    table, state, out = _table(best), _LOWEST, bytearray()
    for symbol in reversed(symbols):
        width = table.widths[symbol]
        while state >= width << 31 - _BITS:
            out.append(state & 0xFF)
            state >>= 8
        state = (state // width << _BITS) + state % width + table.starts[symbol]
    return bytes([best]) + state.to_bytes(_STATE_BYTES, "big") + bytes(reversed(out))


def bytes_max(count: int) -> int:
    """More than :func:`encode` makes of so many: a table's number, the state, 12 bits of each, rounding."""
    return 1 + _STATE_BYTES + -(-_BITS * count // 8) + 1


def decode(data: bytes, count: int) -> Codes:
    """``count`` codes. Raises :class:`Unreadable` for everything that :func:`encode` did not write."""
    if not data or data[0] >= len(SHAPES):
        raise Unreadable("codes with a table that is not known")
    if not 0 <= count <= COUNT_MAX:
        raise Unreadable(f"{count} codes; {COUNT_MAX} is the most that is coded this way")
    widths, starts, owners = _table(data[0])
    state, rest = int.from_bytes(data[1 : 1 + _STATE_BYTES], "big"), iter(data[1 + _STATE_BYTES :])
    symbols = bytearray()
    for _ in range(count):
        part = state & _WHOLE - 1
        symbol = owners[part]
        symbols.append(symbol)
        state = widths[symbol] * (state >> _BITS) + part - starts[symbol]
        while state < _LOWEST:
            byte = next(rest, None)
            if byte is None:
                raise Unreadable(f"the codes end after {len(symbols)} of {count}")
            state = state << 8 | byte
    if state != _LOWEST or next(rest, None) is not None:
        raise Unreadable("the codes don't end where they should")
    return (np.frombuffer(symbols, np.uint8).astype(np.int16) - CODE_MAX).astype(np.int8)


@cache
def _table(index: int) -> _Table:
    width, exponent = SHAPES[index]
    core = (2 * exponent - 1) * width * width
    codes = range(-CODE_MAX, CODE_MAX + 1)
    shares = [(core**exponent << 40) // (core + code * code) ** exponent for code in codes]
    free = _WHOLE - len(shares) - 2 * _PEAK
    widths = [1 + share * free // sum(shares) for share in shares]
    widths[0] += _PEAK
    widths[-1] += _PEAK
    widths[CODE_MAX] += _WHOLE - sum(widths)  # what rounding left goes to zero
    starts = [sum(widths[:symbol]) for symbol in range(len(widths))]
    owners = bytes(symbol for symbol, parts in enumerate(widths) for _ in range(parts))
    return _Table(widths, starts, owners)


@cache
def _prices() -> NDArray[np.float64]:
    """Bits of each code by each table: [tables, 255]."""
    prices: NDArray[np.float64] = _BITS - np.log2([_table(index).widths for index in range(len(SHAPES))])
    return prices
