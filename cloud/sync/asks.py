"""Requests of applications: which write they mean, or what they want to read."""

from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import msgspec

from cloud.sync.events import Asked
from cloud.sync.records import SyncKind, SyncTask
from cloud.sync.tasks import Waiter
from cloud.sync.views import conflict_views, key_view, task_view
from cloud.sync.writer import BUDGET_S_MAX, WAITING_MAX, Put
from shared.core import Effect, Ignore, Publish
from shared.entries import is_value, level_of
from shared.ids import is_id
from shared.messages import Reply, ReplyStatus
from shared.sync import TAG_BYTES_MAX, ConsistencyLevel, SyncStrategy, SyncVerb, is_key, is_name
from shared.sync_views import KeyView
from shared.topics import APP_REPLY
from shared.versions import conflicts_of, fields_in
from shared.wire import packed

if TYPE_CHECKING:
    from cloud.sync.core import Sync

PAGE_BYTES_MAX = APP_REPLY.bytes_max - 16 * 1024
PAGE_MAX = 500


class Refused(Exception):
    """Why a request has no answer. Definite."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code, self.detail = code, detail


def answer(core: "Sync", event: Asked, now: float) -> list[Effect]:
    """What follows from one request."""
    if not is_id(event.app):
        return [Ignore(f"{event.app[:80]!r} can't be answered")]
    try:
        if core.closed:
            raise Refused("starting", core.closed)
        return _VERBS[event.ask.verb](core, event, now)
    except Refused as refused:
        return [_refused(event, refused.code, refused.detail)]


# Writes ---------------------------------------------------------------------------------------------


def _put(core: "Sync", event: Asked, now: float) -> list[Effect]:
    ask = event.ask
    if not is_value(ask.value):
        raise Refused("bad-value", "the value is not one MessagePack value")
    return core.writer.put(_write(event, fields_in(msgspec.msgpack.decode(ask.value)), now), now)


def _erase(core: "Sync", event: Asked, now: float) -> list[Effect]:
    write = _write(event, {}, now)
    if not any(name in core.fleet.sharing or core.weak.get(name) for name in write.names):
        raise Refused("no-such-key", f"there is no {event.ask.key[:80]!r}")
    return core.writer.put(write, now)


def _write(event: Asked, fields: Mapping[str, bytes], now: float) -> Put:
    ask = event.ask
    setting = ask.setting == "desired"
    if ask.setting not in ("", "desired"):
        raise Refused("bad-request", "an application writes desired state; reported state is the device's")
    if not (is_id(ask.key) and ask.key != "models" if setting else is_key(ask.key)):
        raise Refused(
            "bad-key", f"{ask.key[:80]!r} is not a key: a-z, 0-9 and . _ / - (configuration: - only)"
        )
    if setting and not ask.targets:
        raise Refused("bad-request", "configuration is of a node: name the targets")
    if not all(map(is_id, ask.targets)) or not 0 <= ask.priority <= 9 or len(ask.tag) > TAG_BYTES_MAX:
        raise Refused("bad-request", "targets are node ids, a priority is 0 to 9, a tag at most 2 KiB")
    return Put(
        _task_id(event),
        event.app,
        ask.key,
        fields,
        event.unix_ms,
        _waiter(event, now),
        kind=SyncKind.CONFIG if setting else SyncKind.DATA,
        level=ask.level,
        strategy=ask.strategy,
        targets=tuple(dict.fromkeys(ask.targets)),
        required=ask.required,
        expected=ask.expected,
        priority=ask.priority,
        tag=ask.tag,
    )


def _model(core: "Sync", event: Asked, now: float) -> list[Effect]:
    ask = event.ask
    task_id = _task_id(event)
    if task_id in core.tasks:
        return core.tasks.repeated(task_id, _waiter(event, now))
    if not ask.targets or not all(map(is_id, ask.targets)):
        raise Refused("bad-request", "name the nodes that are to hold the model")
    task = SyncTask(
        task_id=task_id,
        sync_type=ask.strategy or SyncStrategy.PUSH,
        level=ask.level or ConsistencyLevel.EVENTUAL,
        kind=SyncKind.MODEL,
        key=ask.key,
        source=event.app,
        targets=tuple(dict.fromkeys(ask.targets)),
        required=ask.required,
        priority=ask.priority,
        created_at_unix_ms=event.unix_ms,
    )
    return core.writer.model(task, ask.tag, _waiter(event, now))


def _task_id(event: Asked) -> str:
    """The operation's own name, or one made from the correlation: a database can't keep every text."""
    epoch, sequence = event.ask.operation
    correlation = event.ask.correlation
    if not epoch and not is_id(correlation):
        correlation = blake2b(correlation.encode(), digest_size=16).hexdigest()
    return f"{event.app}.{epoch}.{sequence}" if epoch else f"{event.app}.{correlation}"


def _waiter(event: Asked, now: float) -> Waiter:
    budget_s = event.ask.budget_s if 0 < event.ask.budget_s < BUDGET_S_MAX else BUDGET_S_MAX
    return Waiter(now + budget_s, app=event.app, correlation=event.ask.correlation)


# Reads ----------------------------------------------------------------------------------------------


def _get(core: "Sync", event: Asked, _: float) -> list[Effect]:
    name = event.ask.key
    entry = core.weak.get(name) or core.journal.newest(name) if is_name(name) else None
    if entry is None:
        raise Refused("no-such-key", f"there is no {name[:80]!r}; 'shoal sync list' shows what there is")
    if level_of(entry) is ConsistencyLevel.STRONG:
        if len(core.journal.next.then) >= WAITING_MAX:
            raise Refused("overloaded", "too many reads and writes wait; try again")
        core.journal.then(_reply(event, key_view(entry, core.fleet)))
        return []
    return [_reply(event, _view(core, name))]


def _list(core: "Sync", event: Asked, _: float) -> list[Effect]:
    prefix, after = event.ask.key, event.ask.after
    entries = core.journal.replica.entries
    names = sorted({*entries, *core.weak.values})
    wanted = (name for name in names if name.startswith(prefix) and name > after)
    return [_page(event, (_view(core, name) for name in wanted))]


def _view(core: "Sync", name: str) -> KeyView:
    if name in core.weak.values:
        return key_view(core.weak.values[name][0], core.fleet, core.weak.values[name][1])
    durable = core.journal.replica.entries.get(name)
    return key_view(durable or core.journal.read(name), core.fleet)


def _status(core: "Sync", event: Asked, _: float) -> list[Effect]:
    task = core.tasks.tasks.get(event.ask.key)
    if task is None:
        raise Refused("no-such-task", f"no task {event.ask.key[:80]!r}; they are kept for an hour")
    return [_reply(event, task_view(task, core.fleet, event.unix_ms))]


def _tasks(core: "Sync", event: Asked, _: float) -> list[Effect]:
    newest = sorted(core.tasks.tasks.values(), key=lambda one: one.created_at_unix_ms, reverse=True)
    return [_page(event, (task_view(task, core.fleet, event.unix_ms) for task in newest))]


def _conflicts(core: "Sync", event: Asked, _: float) -> list[Effect]:
    after = event.ask.after
    found = (
        view
        for name, entry in sorted(core.journal.replica.entries.items())
        if name > after and name.startswith(event.ask.key) and conflicts_of(entry)
        for view in conflict_views(entry)
    )
    return [_page(event, found)]


def _page(event: Asked, views: Any) -> Effect:
    """As many as fit; the caller goes on ``after`` the last one."""
    found: list[object] = []
    size = 0
    for view in views:
        size += len(bytes(packed(view)))
        if found and (size > PAGE_BYTES_MAX or len(found) >= PAGE_MAX):
            break
        found.append(view)
    return _reply(event, found)


def _reply(event: Asked, body: object) -> Effect:
    reply = Reply(correlation=event.ask.correlation, body=packed(body))
    return Publish(APP_REPLY.at(app=event.app), reply)


def _refused(event: Asked, code: str, detail: str) -> Effect:
    reply = Reply(
        correlation=event.ask.correlation, status=ReplyStatus.REFUSED, code=code, detail=detail[:500]
    )
    return Publish(APP_REPLY.at(app=event.app), reply)


_VERBS: Mapping[SyncVerb, Callable[["Sync", Asked, float], list[Effect]]] = {
    SyncVerb.PUT: _put,
    SyncVerb.ERASE: _erase,
    SyncVerb.GET: _get,
    SyncVerb.LIST: _list,
    SyncVerb.MODEL: _model,
    SyncVerb.STATUS: _status,
    SyncVerb.TASKS: _tasks,
    SyncVerb.CONFLICTS: _conflicts,
}
