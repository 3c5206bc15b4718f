"""The body of the reply to :class:`shared.messages.Deploy`. Data only."""

import msgspec


class DeployResult(msgspec.Struct, frozen=True, kw_only=True):
    """The rule is durable (or durably withdrawn); ``target`` in its canonical form.

    ``nodes``: the nodes it applies to now, at most the first 1,000 of ``matched``; others follow when they
    join. ``unknown_nodes``: ids in the target that nobody has seen yet, perhaps misspelt.
    """

    model: str
    version: str
    digest: str
    target: str
    matched: int
    nodes: tuple[str, ...] = ()
    unknown_nodes: tuple[str, ...] = ()
    removed: bool = False
