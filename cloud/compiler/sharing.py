"""Kernels that differ in numbers only become one function, and those numbers its further parameters.

    $copy_16.8  .. (i32.const 16) .. (i32.const 512)       $copy_4f1c  .. (local.get $n0) .. (local.get $n1)
    $copy_48.8  .. (i32.const 48) .. (i32.const 1536)  ->    called with 16 512, and with 48 1536

A deep network repeats a layer in many sizes, and its trip counts and steps are numbers that a loop reads just
as well from a parameter. Offsets of loads and stores stay in the text: they cost nothing there, and as
parameters an addition each. Only functions that ``prepare`` alone calls give up theirs, too.

The result depends on the kernels' texts alone: the same graph gives the same bytes.
"""

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from cloud.compiler.wat import Kernel, const, get

_HEAD = re.compile(r"  \(func \$\S+((?: \(param \$\w+ i32\))*)(.*)\n")
_NUMBER = re.compile(r"\(i32\.const (-?\d+)\)")
_NUMBER_OR_OFFSET = re.compile(r"\(i32\.const (-?\d+)\)|offset=(\d+)((?: \d+)?) \(local\.get \$(\w+)\)")
_GROUPS = 4  # of the second pattern
CHARACTERS_PER_BYTE = 7  # of text for a byte of code, about
ARGUMENT_BYTES = 4


@dataclass(frozen=True, slots=True)
class Target:
    """What to call in a kernel's place: ``numbers`` follow the addresses."""

    name: str
    numbers: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class _Form:
    """What must be equal. ``pieces``: the text between the numbers. ``offsets``: "" for a constant, else the
    lane and the pointer of an access to memory.
    """

    parameters: str
    variables: str
    pieces: tuple[str, ...]
    offsets: tuple[tuple[str, str], ...]
    helpers: tuple[Kernel, ...]
    name: str  # of a kernel that must not change


@dataclass(frozen=True, slots=True)
class _Member:
    kernel: Kernel
    numbers: tuple[int, ...]


def share(
    kernels: Iterable[Kernel], early: Collection[str], kept: Collection[str]
) -> tuple[list[Kernel], dict[str, Target]]:
    """The functions to write, and by each kernel's name what to call in its place.

    ``early``: names of those that ``prepare`` alone calls. ``kept``: of those that other functions call.
    """
    groups: dict[_Form, list[_Member]] = {}
    for kernel in kernels:
        form, member = _taken_apart(kernel, kernel.name in early, kernel.name in kept)
        groups.setdefault(form, []).append(member)
    functions: dict[str, Kernel] = {}  # of two groups the texts may become equal
    targets: dict[str, Target] = {}
    for form, members in groups.items():
        columns = [*zip(*(one.numbers for one in members), strict=True)]
        changing = [*dict.fromkeys(one for one in columns if len(set(one)) > 1)]
        if _pays(members, len(changing)):
            function = _function(form, members[0], columns, changing)
            functions[function.name] = function
            for index, one in enumerate(members):
                targets[one.kernel.name] = Target(function.name, tuple(column[index] for column in changing))
        else:
            functions |= {one.kernel.name: one.kernel for one in members}
            targets |= {one.kernel.name: Target(one.kernel.name) for one in members}
    return [*functions.values()], targets


def _taken_apart(kernel: Kernel, early: bool, kept: bool) -> tuple[_Form, _Member]:
    head = _HEAD.search(kernel.wat)
    assert head is not None, kernel.name
    body = kernel.wat[head.end() :]
    name = kernel.name if kept else ""
    if early:
        parts = _NUMBER_OR_OFFSET.split(body)
        pieces, *found = (parts[index :: _GROUPS + 1] for index in range(_GROUPS + 1))
        constants, offsets, lanes, pointers = found
        numbers = [int(x if x is not None else y) for x, y in zip(constants, offsets, strict=True)]
        places = tuple((x or "", y or "") for x, y in zip(lanes, pointers, strict=True))
    else:
        parts = _NUMBER.split(body)
        pieces, numbers = parts[::2], [int(one) for one in parts[1::2]]
        places = (("", ""),) * len(numbers)
    form = _Form(head.group(1), head.group(2), tuple(pieces), places, kernel.helpers, name)
    return form, _Member(kernel, tuple(numbers))


def _pays(members: Sequence[_Member], changing: int) -> bool:
    """Whether the functions saved are more bytes than the arguments of the calls."""
    saved = (len(members) - 1) * len(members[0].kernel.wat) // CHARACTERS_PER_BYTE
    return saved > len(members) * changing * ARGUMENT_BYTES


def _function(
    form: _Form, first: _Member, columns: Sequence[tuple[int, ...]], changing: Sequence[tuple[int, ...]]
) -> Kernel:
    names: Mapping[tuple[int, ...], str] = {one: f"n{index}" for index, one in enumerate(changing)}
    text = [form.pieces[0]]
    for piece, column, (lane, pointer) in zip(form.pieces[1:], columns, form.offsets, strict=True):
        number = get(names[column]) if column in names else ""
        if not pointer:
            text.append(number or const(column[0]))
        elif number:
            text.append(f"{lane} (i32.add {get(pointer)} {number})")
        else:
            text.append(f"offset={column[0]}{lane} {get(pointer)}")
        text.append(piece)
    parameters = form.parameters + "".join(f" (param ${one} i32)" for one in names.values())
    body = f"{parameters}{form.variables}\n{''.join(text)}"
    kind = first.kernel.name.split("_")[0]
    name = f"{kind}_{hashlib.sha256(body.encode()).hexdigest()[:12]}"
    return Kernel(name, f"  (func ${name}{body}", first.kernel.scratch_bytes, form.helpers)
