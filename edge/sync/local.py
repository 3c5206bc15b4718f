"""The replica behind the device's local socket."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from edge.agent.local import LocalData
from edge.sync.data import Data
from shared.entries import is_value, level_of, strategy_of
from shared.errors import Refused, RequestFailed
from shared.messages import Reply, ReplyStatus
from shared.sync import Outcome
from shared.wire import packed

WATCH_S_MAX = 60.0
LISTED_MAX = 10_000


async def answer_data(data: Data, request: LocalData) -> Reply:
    """One request, one reply."""
    verb = _VERBS.get(request.verb)
    try:
        if verb is None:
            raise Refused("bad-request", f"{request.verb[:40]!r} is none of {', '.join(_VERBS)}")
        return Reply(correlation="", body=packed(await verb(data, request)))
    except RequestFailed as failed:
        status = ReplyStatus.REFUSED if failed.definite else ReplyStatus.FAILED
        return Reply(correlation="", status=status, code=failed.code, detail=failed.detail)


async def _get(data: Data, request: LocalData) -> Any:
    found = data.entry(request.key)
    if found is None:
        raise Refused("no-such-key", f"there is no {request.key[:80]!r} here")
    return {
        "key": request.key,
        "value": data.get(request.key),
        "level": level_of(found).value,
        "strategy": strategy_of(found).value,
        "revision": found.revision,
        "conflicts": data.conflicts(request.key),
    }


async def _read(data: Data, request: LocalData) -> Any:
    outcome = await data.read(request.key, request.budget_s)
    value = None if outcome.value is None else msgspec.msgpack.decode(outcome.value)
    return {"key": request.key, "value": value, "level": "strong", "revision": outcome.revision}


async def _put(data: Data, request: LocalData) -> Any:
    if not is_value(request.value):
        raise Refused("bad-value", "the value is not one MessagePack value")
    return _done(request, await _write(data, request, msgspec.msgpack.decode(request.value)))


async def _erase(data: Data, request: LocalData) -> Any:
    return _done(request, await _write(data, request, None))


async def _write(data: Data, request: LocalData, value: Any) -> Outcome:
    return await data.put(
        request.key,
        value,
        level=request.level,
        strategy=request.strategy,
        required=request.required,
        expected=request.expected,
        budget_s=request.budget_s,
    )


def _done(request: LocalData, outcome: Outcome) -> Any:
    return {"key": request.key, "status": outcome.status.value, "revision": outcome.revision}


async def _watch(data: Data, request: LocalData) -> Any:
    """What changed after a number, as soon as something has; ``after`` -1: only tells the newest number."""
    if request.after < 0:
        return {"after": data.number, "changes": []}
    changes = await data.wait(request.key, request.after, min(request.budget_s, WATCH_S_MAX))
    return {"after": changes[-1].number if changes else request.after, "changes": changes}


async def _list(data: Data, request: LocalData) -> Any:
    return data.keys(request.key)[:LISTED_MAX]


async def _status(data: Data, _: LocalData) -> Any:
    return data.status()


async def _conflicts(data: Data, request: LocalData) -> Any:
    return {key: found for key in data.keys(request.key) if (found := data.conflicts(key))}


_VERBS: Mapping[str, Callable[[Data, LocalData], Awaitable[Any]]] = {
    "get": _get,
    "read": _read,
    "put": _put,
    "erase": _erase,
    "watch": _watch,
    "list": _list,
    "status": _status,
    "conflicts": _conflicts,
}
