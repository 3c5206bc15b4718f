"""What may stand in one level of a topic, and so what may name anything in the platform."""

import re

_ID = re.compile(r"[a-z0-9-]{1,64}")


def is_id(text: str) -> bool:
    """True for 1 to 64 of ``a-z``, ``0-9`` and ``-``: safe in a topic, a file name and a URL."""
    return _ID.fullmatch(text) is not None


def checked_id(text: str, what: str = "id") -> str:
    """Return ``text``; raise ``ValueError`` with advice when it can't name a ``what``."""
    if not is_id(text):
        raise ValueError(f"{text!r} is not a usable {what}: 1 to 64 of a-z, 0-9 and '-'")
    return text
