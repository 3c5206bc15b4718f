"""What may be shown where the data themselves may not be: each write of an application, and its views.

    put patients/7 to n1, n2 ──n2 may not have it──> put study/patients/7 (reduced, with pseudonyms) to n2

A view is a key of its own, written once more from each new value: a reduced copy never comes back as the
original. Only writes of applications have views; what a device writes is its own affair.

Pseudonyms are made with a key that never leaves this cloud, and only of data that are at home where it is.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from cloud.artifacts.keys import secret_key
from cloud.residency.core import Residency
from cloud.residency.gate import Gate
from shared.classify import TooDeep, view_of
from shared.judged import effective_tag, stamped, unpacked_tag
from shared.parcels import parcel_in
from shared.residency import View, matches_any
from shared.sync import ConsistencyLevel, SyncAsk, SyncVerb, is_key
from shared.tags import ANY, within

KEY_FILE = "pseudonym.key"


class Views:
    """The writes that follow from a write. ``folder``: where the key of the pseudonyms is kept."""

    def __init__(self, core: Residency, gate: Gate, folder: Path) -> None:
        self._core, self._gate, self._folder = core, gate, folder
        self._secret = b""

    def prepared(self, ask: SyncAsk) -> list[SyncAsk]:
        """A write with the label of its fields, and its views behind it; anything else as it is."""
        if ask.verb is SyncVerb.ERASE:
            return [ask, *(_about(ask, view, b"", b"", ()) for view in self._views(ask))]
        if ask.verb is not SyncVerb.PUT:
            return [ask]
        try:
            value = msgspec.msgpack.decode(ask.value)
            key = ask.key if not ask.setting else f"{ask.setting}/{ANY}/{ask.key}"
            tag = stamped(self._core.policy.text, key, value, unpacked_tag(ask.tag))
            packed = b"" if tag is None else msgspec.msgpack.encode(tag)
            return [msgspec.structs.replace(ask, tag=packed), *self._shown(ask, value)]
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, TooDeep):
            return [ask]  # the core says what is wrong with it

    def _views(self, ask: SyncAsk) -> list[View]:
        if ask.setting or not is_key(ask.key):
            return []
        return [one for one in self._core.policy.text.view if matches_any(ask.key, one.keys)]

    def _shown(self, ask: SyncAsk, value: Any) -> Iterator[SyncAsk]:
        if not isinstance(value, dict) or parcel_in(value) is not None:
            return  # what has no fields, or has them elsewhere, can't be shown in part
        text, views = self._core.policy.text, self._views(ask)
        tag = effective_tag(text, ask.key, value, unpacked_tag(ask.tag)) if views else None
        if tag is None:
            return
        places = [self._core.place(node) for node in ask.targets]
        barred = [one for one in places if not self._gate.ask(one, ask.key, ask.tag, value).allowed]
        for view in views:
            if view.pseudonym and not within(self._core.cloud_region, tag.home):
                continue  # the key of these pseudonyms is not ours to have
            shown, lighter = view_of(view, tag, text, ask.key, value, self._key())
            packed, key = msgspec.msgpack.encode(lighter), view.prefix + ask.key
            allowed = tuple(one.node for one in barred if self._gate.ask(one, key, packed, shown).allowed)
            if is_key(key) and (allowed or not ask.targets):
                yield _about(ask, view, msgspec.msgpack.encode(shown), packed, allowed)

    def _key(self) -> bytes:
        if not self._secret:
            self._secret = secret_key(self._folder / KEY_FILE)
        return self._secret


def _about(ask: SyncAsk, view: View, value: bytes, tag: bytes, targets: tuple[str, ...]) -> SyncAsk:
    return SyncAsk(
        correlation=f"{ask.correlation[:60]}-{view.prefix[:12]}",
        budget_s=ask.budget_s,
        verb=ask.verb,
        key=view.prefix + ask.key,
        value=value,
        targets=targets,
        strategy=ask.strategy,
        level=ConsistencyLevel.EVENTUAL,
        priority=ask.priority,
        tag=tag,
    )
