"""One table of what each principal may do, kept by both brokers, judged by what really arrives.

Absence is proved by a fence: whoever must not have heard a message hears a later one, and only that.
"""

import itertools
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest

from broker.acl import Role
from shared.topics import (
    ALL,
    APP_INFER,
    APP_REPLY,
    BIRTH,
    CHUNK,
    CLOUD,
    COMMAND,
    DESIRED,
    INFER,
    MANIFEST,
    PRESENCE,
    REPLY,
    TELEMETRY,
    Topic,
    Writer,
    root,
)
from tests.integration.secured import FLEET, Client, Secured, embedded, mosquitto

ROOT = root(FLEET)
PRINCIPALS: Mapping[str, Role] = {
    "n1": Role.DEVICE,
    "n2": Role.DEVICE,
    "cloud": Role.CLOUD,
    "till": Role.APP,
    "desk": Role.APP,
    "ann": Role.OPERATOR,
}
BROKERS: Mapping[str, Callable[[Path, Mapping[str, Role]], AbstractContextManager[Secured]]] = {
    "mosquitto": mosquitto,
    "embedded": embedded,
}
_numbers = itertools.count()


@pytest.fixture(scope="module", params=[pytest.param("mosquitto", marks=pytest.mark.mosquitto), "embedded"])
def broker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    if request.param == "mosquitto":
        assert shutil.which("mosquitto"), "install Debian's mosquitto package; .ci/run does"
    with BROKERS[request.param](tmp_path_factory.mktemp(request.param), PRINCIPALS) as running:
        yield running


@pytest.fixture(scope="module")
def people(broker: Secured) -> Iterator[dict[str, Client]]:
    """Everybody connected once; the operator hears everything, the others what proves a fence."""
    clients = {name: Client(broker, name) for name in PRINCIPALS}
    assert clients["ann"].subscribe(f"{ROOT}/#") < 0x80
    for name in PRINCIPALS:
        if name != "ann":
            assert clients[name].subscribe(at(CLOUD)) < 0x80
    yield clients
    for client in clients.values():
        client.close()


def at(topic: Topic, **ids: str) -> str:
    return f"{ROOT}/{topic.at(**ids)}"


def token() -> bytes:
    return f"message {next(_numbers)}".encode()


def fence(people: dict[str, Client], hearer: str) -> None:
    """Return once ``hearer`` has heard something that was said after everything before."""
    payload = token()
    assert people["cloud"].publish(at(CLOUD), payload) < 0x80
    people[hearer].wait_for(payload)


# Writing: does the operator, who hears everything, hear it? -----------------------------------------


@dataclass(frozen=True)
class Writing:
    who: str
    topic: str
    allowed: bool

    def __str__(self) -> str:
        return f"{self.who} {'writes' if self.allowed else 'forges'} {self.topic.removeprefix(ROOT)}"


def own_topics() -> Iterator[Writing]:
    """Every topic of the table, tried by everybody: exactly its one writer gets through."""
    authors = {Writer.DEVICE: "n1", Writer.CLOUD: "cloud", Writer.APP: "till"}
    filled = {"node": "n1", "app": "till", "caller": "till"}
    for topic in ALL:
        holes = [level[1:-1] for level in topic.pattern.split("/") if level.startswith("{")]
        name = at(topic, **{hole: filled.get(hole, "x") for hole in holes})
        for who in PRINCIPALS:
            yield Writing(who, name, allowed=who == authors[topic.writer])


WRITINGS = [
    *own_topics(),
    Writing("n1", f"{ROOT}/node/n1/up/unheard-of", allowed=False),
    Writing("n1", f"{ROOT}/node/n1/up/presence/more", allowed=False),
    Writing("n1", f"{ROOT}/node/n1/up", allowed=False),
    Writing("n1", f"{ROOT}/all/unheard-of", allowed=False),
    Writing("cloud", f"{ROOT}/all/unheard-of", allowed=False),
    # A name is one principal: nobody is also a device, or an app, of that name.
    Writing("till", at(BIRTH, node="till"), allowed=False),
    Writing("cloud", at(TELEMETRY, node="cloud", stream="x"), allowed=False),
    Writing("ann", at(PRESENCE, node="ann"), allowed=False),
    Writing("n1", at(APP_INFER, app="n1"), allowed=False),
    Writing("cloud", at(APP_INFER, app="cloud"), allowed=False),
    Writing("ann", at(APP_INFER, app="ann"), allowed=True),
]


@pytest.mark.parametrize("case", WRITINGS, ids=str)
def test_a_topic_takes_messages_from_its_writer_only(people: dict[str, Client], case: Writing) -> None:
    payload = token()
    code = people[case.who].publish(case.topic, payload)
    if case.allowed:
        people["ann"].wait_for(payload)
    else:
        fence(people, "ann")
        assert not people["ann"].heard(payload)
    assert (code < 0x80) is case.allowed


@pytest.mark.parametrize(
    ("who", "topic"),
    [
        ("n1", at(PRESENCE, node="n2")),
        ("n1", at(DESIRED, node="n1")),
        ("n1", at(MANIFEST, artifact="model")),
        ("till", at(CLOUD)),
        ("ann", at(DESIRED, node="n1")),
    ],
)
def test_a_forgery_is_not_kept_for_those_who_come_later(
    people: dict[str, Client], who: str, topic: str
) -> None:
    payload = token()
    assert people[who].publish(topic, payload, retain=True) >= 0x80
    people["ann"].subscribe(f"{ROOT}/#")  # again: whatever is kept arrives now
    fence(people, "ann")
    assert not people["ann"].heard(payload)


@pytest.mark.parametrize(
    ("topic", "allowed"),
    [(at(PRESENCE, node="n2"), True), (at(PRESENCE, node="n1"), False), (at(CLOUD), False)],
)
def test_a_will_speaks_only_for_the_dead(
    broker: Secured, people: dict[str, Client], topic: str, allowed: bool
) -> None:
    payload = token()
    people["n2"].close()
    Client(broker, "n2", will=(topic, payload, False)).cut()
    people["n2"] = Client(broker, "n2")  # admitted after the end of the one before was dealt with
    people["n2"].subscribe(at(CLOUD))
    if allowed:
        people["ann"].wait_for(payload)
    else:
        fence(people, "ann")
        assert not people["ann"].heard(payload)


# Hearing: does it arrive? ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Hearing:
    who: str
    filter: str
    writer: str
    topic: str
    allowed: bool

    def __str__(self) -> str:
        verb = "hears" if self.allowed else "can't hear"
        return f"{self.who} {verb} {self.topic.removeprefix(ROOT)} by {self.filter.replace(ROOT, '')}"


INFER_N1, INFER_N2 = at(INFER, node="n1", model="m"), at(INFER, node="n2", model="m")
TOLD_BY_N1, TOLD_BY_N2 = at(TELEMETRY, node="n1", stream="s"), at(TELEMETRY, node="n2", stream="s")
TO_TILL, TO_DESK = at(REPLY, node="n1", caller="till"), at(REPLY, node="n1", caller="desk")

HEARINGS = [
    Hearing("n1", f"{ROOT}/node/n1/down/#", "cloud", INFER_N1, True),
    Hearing("n1", f"{ROOT}/node/n1/down/infer/+", "cloud", INFER_N1, True),
    Hearing("n1", f"{ROOT}/all/#", "cloud", at(CHUNK, artifact="m", index="0"), True),
    Hearing("n1", f"{ROOT}/node/n2/down/#", "cloud", INFER_N2, False),
    Hearing("n1", INFER_N2, "cloud", INFER_N2, False),
    Hearing("n1", f"{ROOT}/node/+/down/#", "cloud", at(COMMAND, node="n2", verb="ping"), False),
    Hearing("n1", f"{ROOT}/node/+/up/#", "n2", TOLD_BY_N2, False),
    Hearing("n1", f"{ROOT}/node/n2/up/telemetry/s", "n2", TOLD_BY_N2, False),
    Hearing("n1", f"{ROOT}/#", "n2", TOLD_BY_N2, False),
    Hearing("n1", "#", "n2", TOLD_BY_N2, False),
    Hearing("n1", "+/+/+/node/+/up/telemetry/+", "n2", TOLD_BY_N2, False),
    Hearing("n1", f"$share/workers/{ROOT}/node/+/up/#", "n2", TOLD_BY_N2, False),
    Hearing("n1", f"$share/workers/{ROOT}/app/+/request/#", "till", at(APP_INFER, app="till"), False),
    Hearing("n1", f"{ROOT}/app/till/reply", "cloud", at(APP_REPLY, app="till"), False),
    Hearing("cloud", f"{ROOT}/node/+/up/#", "n1", TOLD_BY_N1, True),
    Hearing("cloud", f"$share/workers/{ROOT}/node/+/up/telemetry/+", "n1", TOLD_BY_N1, True),
    Hearing("cloud", f"{ROOT}/app/+/request/#", "till", at(APP_INFER, app="till"), True),
    Hearing("till", f"{ROOT}/app/till/reply", "cloud", at(APP_REPLY, app="till"), True),
    Hearing("till", f"{ROOT}/node/+/up/reply/till", "n1", TO_TILL, True),
    Hearing("till", f"{ROOT}/app/desk/reply", "cloud", at(APP_REPLY, app="desk"), False),
    Hearing("till", f"{ROOT}/node/+/up/reply/+", "n1", TO_DESK, False),
    Hearing("till", f"{ROOT}/node/+/up/#", "n1", TOLD_BY_N1, False),
    Hearing("till", f"{ROOT}/node/n1/down/#", "cloud", INFER_N1, False),
    Hearing("till", f"{ROOT}/all/#", "cloud", at(CHUNK, artifact="m", index="0"), False),
    Hearing("till", f"{ROOT}/app/+/request/#", "desk", at(APP_INFER, app="desk"), False),
    Hearing("till", "#", "n1", TO_DESK, False),
    Hearing("ann", f"{ROOT}/#", "cloud", INFER_N1, True),
    Hearing("ann", f"{ROOT}/#", "till", at(APP_INFER, app="till"), True),
]


@pytest.mark.parametrize("case", HEARINGS, ids=str)
def test_a_message_reaches_whom_it_is_for_and_nobody_else(people: dict[str, Client], case: Hearing) -> None:
    hearer, payload = people[case.who], token()
    hearer.subscribe(case.filter)  # Mosquitto grants it in any case, and filters at delivery
    try:
        assert people[case.writer].publish(case.topic, payload) < 0x80
        if case.allowed:
            hearer.wait_for(payload)
        else:
            fence(people, case.who)
            assert not hearer.heard(payload)
    finally:
        if case.who != "ann":
            hearer.unsubscribe(case.filter)


# Identity -------------------------------------------------------------------------------------------


def test_a_borrowed_client_id_borrows_nothing(broker: Secured, people: dict[str, Client]) -> None:
    """n2 calls itself n1: it is still n2, and n1 is neither cut off nor overheard."""
    people["n1"].subscribe(at(INFER, node="n1", model="m"))
    people["n2"].close()
    impostor = people["n2"] = Client(broker, "n2", client_id="n1")
    impostor.subscribe(at(CLOUD))
    impostor.subscribe(at(INFER, node="n1", model="m"))
    payload = token()
    assert people["cloud"].publish(at(INFER, node="n1", model="m"), payload) < 0x80
    people["n1"].wait_for(payload)
    fence(people, "n2")
    assert people["n1"].connected
    assert not impostor.heard(payload)
    assert impostor.publish(at(PRESENCE, node="n1"), token()) >= 0x80


@pytest.mark.parametrize(
    ("user", "password"), [("n1", "guess"), ("n1", ""), ("stranger", "guess"), ("+", "guess"), ("#", "guess")]
)
def test_nobody_gets_in_without_the_right_password(
    broker: Secured, people: dict[str, Client], user: str, password: str
) -> None:
    stranger = Client(broker, user, client_id="stranger", password=password)
    assert stranger.refused is not None
    stranger.close()
    assert people["n1"].connected
