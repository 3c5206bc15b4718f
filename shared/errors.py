"""The error tree.

ShoalError
├── RemoteError            a peer sent nonsense: count it and go on
│   ├── Unreadable         bytes that are not the message the topic carries
│   └── TooLarge           more bytes than the topic allows; nobody decoded them
├── LocalError             our own bug: the service stops and prints its story
│   └── InvalidTransition  a core asked for a move that its table forbids
├── ConfigError            the operator's settings can't work; the message says which and why
├── Unavailable            try later: no link, no room
└── RequestFailed          a request has no result
    ├── Refused            definite: it did not happen, a retry is safe
    └── TimedOut           indefinite: it may have happened
"""


class ShoalError(Exception):
    """Base of everything the platform raises on purpose. ``str()`` is fit to be shown to a person."""


class RemoteError(ShoalError):
    """A peer's mistake. It never stops a service."""


class Unreadable(RemoteError):
    """The payload does not decode as the message type of its topic."""


class TooLarge(RemoteError):
    """The payload is over the limit of its topic; it was refused before decoding."""


class LocalError(ShoalError):
    """A bug in our own code. It stops the service."""


class InvalidTransition(LocalError):
    """A core asked for a move that its table of legal moves forbids."""


class ConfigError(ShoalError):
    """A setting is missing or can't work."""


class Unavailable(ShoalError):
    """Not now: the link is down or a bounded queue is full."""


class RequestFailed(ShoalError):
    """A request ended without a result."""

    definite: bool

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code, self.detail = code, detail


class Refused(RequestFailed):
    """Definite: the effect did not happen."""

    definite = True


class TimedOut(RequestFailed):
    """Indefinite: the effect may have happened. Retry only what is idempotent."""

    definite = False
