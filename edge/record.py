"""``python -m edge.record``: one telemetry sample for the agent on this device; no broker, no network.

A Python program calls :func:`edge.agent.local.ask_locally` with a :class:`edge.agent.local.LocalRecord`; any
other one writes four bytes of length and that map in MessagePack into the socket.
"""

import argparse
import asyncio
import sys
from pathlib import Path

from edge.agent.local import LocalRecord, ask_locally
from shared.errors import ShoalError
from shared.messages import Reply, ReplyStatus


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m edge.record",
        description="Record one sample: the agent keeps it through power cuts until the cloud has it.",
        epilog="example: python -m edge.record room celsius=21.5 humidity=0.4 --data .shoal/edge-1",
    )
    parser.add_argument("stream", help="name of the stream: 1 to 64 of a-z, 0-9 and '-'")
    parser.add_argument("values", nargs="+", metavar="NAME=NUMBER", type=named)
    parser.add_argument("--data", type=Path, default=Path(".shoal/edge"), help="the agent's data folder")
    parser.add_argument("--at", type=float, default=0.0, help="seconds since 1970 (default: now)")
    return parser.parse_args(argv)


def named(text: str) -> tuple[str, float]:
    """``celsius=21.5``. Raises ``ArgumentTypeError``."""
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: write name=number") from None


def record(options: argparse.Namespace) -> Reply:
    """Hand it in. Raises :class:`Unavailable` when no agent runs there."""
    sample = LocalRecord(stream=options.stream, values=dict(options.values), at_unix_s=options.at)
    return asyncio.run(ask_locally(options.data, sample))


def main() -> int:
    """The exit code says whether it is durable now."""
    try:
        reply = record(arguments())
    except ShoalError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    if reply.status is not ReplyStatus.OK:
        sys.stderr.write(f"error: {reply.code}: {reply.detail}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
