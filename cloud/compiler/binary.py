"""The binary's custom section of names, cut down to the names of functions.

The assembler also writes the name of every local and label: a tenth of a module's bytes, which nobody reads.
Names of functions stay: a trap's backtrace and a profiler show them.

Source: WebAssembly core specification 2.0, sections 5.5 and 7.4.1.
"""

from collections.abc import Iterator

_HEADER_BYTES = 8
_CUSTOM = 0
_NAME = b"\x04name"
_FUNCTION_NAMES = 1


def without_locals(binary: bytes) -> bytes:
    """The module with names of functions only."""
    parts = [binary[:_HEADER_BYTES]]
    for kind, body in _sections(binary, _HEADER_BYTES):
        if kind == _CUSTOM and body.startswith(_NAME):
            names = [one for one in _sections(body, len(_NAME)) if one[0] == _FUNCTION_NAMES]
            body = _NAME + b"".join(_section(*one) for one in names)
        parts.append(_section(kind, body))
    return b"".join(parts)


def _sections(binary: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    """(kind, body) of each section from ``at`` on; subsections of names have the same form."""
    while at < len(binary):
        kind, size, at = binary[at], 0, at + 1
        for shift in range(0, 35, 7):
            byte = binary[at]
            size, at = size | (byte & 0x7F) << shift, at + 1
            if byte < 0x80:
                break
        yield kind, binary[at : at + size]
        at += size


def _section(kind: int, body: bytes) -> bytes:
    size, rest = bytearray([kind]), len(body)
    while rest >= 0x80:
        size.append(rest & 0x7F | 0x80)
        rest >>= 7
    size.append(rest)
    return bytes(size) + body
