"""What stands in the ``body`` of a reply; which one follows from the request.

Bodies are packed with :func:`shared.wire.packed` and read with :func:`shared.wire.unpacked`.
"""

import msgspec


class UploadProgress(msgspec.Struct, frozen=True, kw_only=True):
    """Answers :class:`shared.messages.Upload`. The next piece starts at offset ``bytes_have``.

    ``done``: the artifact is stored, signed and announced under ``name`` and ``version``. The version is
    the package's own, or the next free one where that was taken by different bytes.
    """

    digest: str
    bytes_have: int
    done: bool = False
    name: str = ""
    version: str = ""
