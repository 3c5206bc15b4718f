"""Many calls at once: grouped where the module has a batch axis, spread over its instances, order kept.

    members ──check──> errors at once | calls ──> one contiguous chunk per instance ──> merged, or one by one

A chunk whose merged call is stopped runs again member by member, so that only the guilty one fails.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from edge.runtime.errors import DeadlineExceeded, Stopped, WasmError
from edge.runtime.loaded import Loaded
from edge.runtime.program import Result
from edge.runtime.tensor import TensorCall, TensorProgram

CallOne = Callable[[object], Awaitable[Result]]
_LATE_MAX = 3  # a module that hangs on everything holds the batch for so many deadlines, not for all
_NOT_RUN = Stopped("not run yet")


class Member(NamedTuple):
    """A call whose arguments fit, and where its answer goes."""

    at: int
    call: object


@dataclass(slots=True)
class Plan:
    """``answers``: one per member of the batch, filled in by :meth:`run`; bad arguments are in already."""

    program: object
    chunks: Sequence[Sequence[Member]]
    answers: list[Result | WasmError]

    async def run(self, call_one: CallOne) -> None:
        """Run the chunks side by side."""
        async with asyncio.TaskGroup() as group:
            for number, chunk in enumerate(self.chunks):
                group.create_task(self._run_chunk(chunk, call_one), name=f"wasm-chunk-{number}")

    async def _run_chunk(self, chunk: Sequence[Member], call_one: CallOne) -> None:
        merged = _merged(self.program, chunk)
        if merged is not None and await self._run_merged(merged, chunk, call_one):
            return
        late = 0
        for member in chunk:
            try:
                if late >= _LATE_MAX:
                    raise DeadlineExceeded(
                        f"not run: {late} calls before it in the batch passed their deadline"
                    )
                self.answers[member.at] = await call_one(member.call)
            except WasmError as error:
                late += isinstance(error, DeadlineExceeded)
                self.answers[member.at] = error
            await asyncio.sleep(0)  # members that run on the loop leave it to others in between

    async def _run_merged(self, merged: TensorCall, chunk: Sequence[Member], call_one: CallOne) -> bool:
        try:
            result = await call_one(merged)
        except WasmError:
            return False
        assert isinstance(result, list)
        start = 0
        for at, call in chunk:
            assert isinstance(call, TensorCall)
            end = start + call.items
            self.answers[at] = [array[start:end] for array in result]
            start = end
        return True


def plan_many(loaded: Loaded, batch: Sequence[object], function: str) -> Plan:
    """Check every member and cut the good ones into chunks."""
    answers: list[Result | WasmError] = [_NOT_RUN] * len(batch)
    good: list[Member] = []
    for index, inputs in enumerate(batch):
        try:
            good.append(Member(index, loaded.program.check(function, inputs)))
        except WasmError as error:
            answers[index] = error
    length = _chunk_length(loaded, len(good))
    chunks = [good[start : start + length] for start in range(0, len(good), length)]
    return Plan(loaded.program, chunks, answers)


def _chunk_length(loaded: Loaded, members: int) -> int:
    """An equal share for each instance, in whole batches of the largest module."""
    share = max(1, -(-members // loaded.slots))
    sizes = loaded.program.modules if isinstance(loaded.program, TensorProgram) else (1,)
    return -(-share // max(sizes)) * max(sizes)


def _merged(program: object, chunk: Sequence[Member]) -> TensorCall | None:
    if not isinstance(program, TensorProgram) or len(chunk) < 2:
        return None
    try:
        return program.merged([member.call for member in chunk if isinstance(member.call, TensorCall)])
    except WasmError:  # together they pass a bound that each keeps
        return None
