"""Who may connect, and who may say or hear what: two hooks, called on the event loop.

Both are plain synchronous calls in the middle of packet handling, so neither may block: look a token up in a
dictionary, don't ask a database. Answers of the authorizer are cached per client and topic (publish) and with
the routing answer of a topic (receive); after a change of rules call ``EmbeddedBroker.access_changed()``.
"""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a client is for as long as it is connected. ``client_id`` names its session."""

    username: str | None
    client_id: str


class Authenticator(Protocol):
    """Turns what a CONNECT claims into an identity, or None to refuse it."""

    def __call__(
        self, username: str | None, password: bytes | None, client_id: str, certificate_name: str | None
    ) -> Identity | None:
        """Say who this is. The ``client_id`` of the answer may differ from the claim.

        A broker that keys sessions on the user name is safe from a stranger who guesses a client id.
        ``certificate_name`` is the common name of the verified client certificate, if there is one.
        """
        ...


class Authorizer(Protocol):
    """The access rules. ``unconditional`` says that every answer is yes, so nobody needs to ask."""

    unconditional: bool = False

    def may_publish(self, identity: Identity, topic: str, retain: bool) -> bool:
        """Refusal: PUBACK or PUBREC 0x87; for QoS 0 a counted drop. Asked for wills when they fire."""
        ...

    def may_subscribe(self, identity: Identity, filter: str) -> bool:
        """Refusal: 0x87 in SUBACK. ``filter`` is whole: a shared one begins with ``$share/``."""
        ...

    def may_receive(self, identity: Identity, topic: str) -> bool:
        """Refusal: this session gets no message of this topic, whatever its filters match."""
        ...


class AllowAll:
    """The authorizer of a broker nobody else can reach."""

    unconditional: bool = True

    def may_publish(self, identity: Identity, topic: str, retain: bool) -> bool:  # noqa: ARG002
        """Always."""
        return True

    def may_subscribe(self, identity: Identity, filter: str) -> bool:  # noqa: ARG002
        """Always."""
        return True

    def may_receive(self, identity: Identity, topic: str) -> bool:  # noqa: ARG002
        """Always."""
        return True


def accept_anyone(
    username: str | None,
    password: bytes | None,  # noqa: ARG001
    client_id: str,
    certificate_name: str | None,  # noqa: ARG001
) -> Identity:
    """Believe every claim: the authenticator of a broker nobody else can reach."""
    return Identity(username, client_id)
