"""``python -m edge.data``: the replica of the agent on this device, with no broker and no network.

A Python program calls :func:`edge.agent.local.ask_locally` with a :class:`edge.agent.local.LocalData`; any
other one writes four bytes of length and that map in MessagePack into the socket.
"""

import argparse
import asyncio
import sys
from pathlib import Path
from typing import Any

import msgspec

from edge.agent.local import LocalData, ask_locally
from shared.errors import ShoalError
from shared.messages import Reply, ReplyStatus
from shared.sync import ConsistencyLevel, Required, SyncStrategy

EXIT_TROUBLE, EXIT_INDETERMINATE, EXIT_INTERRUPTED = 1, 2, 130
WATCH_S = 30.0


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m edge.data",
        description="Read, write and watch replicated keys on this device; prints JSON.",
        epilog="examples: python -m edge.data put room/limits '{\"max\": 21.5}' --data .shoal/edge-1\n"
        "          python -m edge.data get room/limits --data .shoal/edge-1\n"
        "          python -m edge.data put lock '\"me\"' --level strong --expected 0 --data .shoal/edge-1\n"
        "          python -m edge.data watch room/ --data .shoal/edge-1",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb, about in (
        ("get", "what is here now"),
        ("read", "a STRONG key as it is now: asks the cloud"),
        ("put", "write; of a map only the fields that changed"),
        ("erase", "erase"),
        ("watch", "print every change of keys that begin so, a line each, until interrupted"),
        ("list", "the keys that begin so"),
        ("conflicts", "fields that were written by two who did not see each other"),
        ("status", "is the cloud there, and what has it not acknowledged"),
    ):
        one = verbs.add_parser(verb, help=about, description=about)
        _options(one, verb)
    return parser.parse_args(argv)


def _options(parser: argparse.ArgumentParser, verb: str) -> None:
    if verb in ("get", "read", "put", "erase"):
        parser.add_argument("key")
    elif verb != "status":
        parser.add_argument("key", nargs="?", default="", help="how the keys begin (default: all)")
    if verb == "put":
        parser.add_argument("value", help="JSON")
        parser.add_argument("--strategy", choices=[one.value for one in SyncStrategy])
    if verb in ("put", "erase"):
        parser.add_argument("--level", choices=[one.value for one in ConsistencyLevel])
        parser.add_argument("--required", choices=[one.value for one in Required], default="majority")
        parser.add_argument("--expected", type=int, default=-1, help="only at this revision (STRONG); 0: new")
    parser.add_argument("--data", type=Path, default=Path(".shoal/edge"), help="the agent's data folder")
    parser.add_argument("--deadline", type=float, default=10.0, help="seconds (default: 10)")


def request_of(options: argparse.Namespace) -> LocalData:
    """What the options ask. Raises ``ValueError`` for a value that is not JSON."""
    given = vars(options)
    value = b""
    if given.get("value") is not None:
        try:
            value = msgspec.msgpack.encode(msgspec.json.decode(given["value"]))
        except msgspec.DecodeError as error:
            raise ValueError(f"the value is not JSON ({error}); a text needs quotes: '\"on\"'") from None
    return LocalData(
        verb=options.verb,
        key=given.get("key") or "",
        value=value,
        level=ConsistencyLevel(given["level"]) if given.get("level") else None,
        strategy=SyncStrategy(given["strategy"]) if given.get("strategy") else None,
        required=Required(given.get("required") or "majority"),
        expected=given.get("expected", -1),
        budget_s=options.deadline,
    )


async def run(options: argparse.Namespace) -> int:
    """One request; watching: one after the other."""
    request = request_of(options)
    reply = await ask_locally(options.data, request)
    if options.verb != "watch" or reply.status is not ReplyStatus.OK:
        return _shown(reply)
    after = msgspec.msgpack.decode(reply.body)["after"]
    while True:
        asked = msgspec.structs.replace(request, after=after, budget_s=WATCH_S)
        body: Any = msgspec.msgpack.decode((await ask_locally(options.data, asked)).body)
        after = body["after"]
        for change in body["changes"]:
            _print(change)


def _shown(reply: Reply) -> int:
    if reply.status is ReplyStatus.OK:
        _print(msgspec.msgpack.decode(reply.body))
        return 0
    sys.stderr.write(f"error: {reply.code}: {reply.detail}\n")
    return EXIT_INDETERMINATE if reply.status is ReplyStatus.FAILED else EXIT_TROUBLE


def _print(value: object) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(value) + b"\n")
    sys.stdout.buffer.flush()


def main() -> int:
    """The exit code: 0 done, 1 certainly not, 2 nobody knows."""
    try:
        return asyncio.run(run(arguments()))
    except (ShoalError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        return EXIT_TROUBLE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
