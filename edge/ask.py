"""``python -m edge.ask``: inference from the agent on this device, with no broker and no network."""

import argparse
import asyncio
import sys
from pathlib import Path

import msgspec
import numpy as np

from edge.agent.local import LocalInfer, ask_locally
from shared.errors import ShoalError
from shared.messages import Reply, ReplyStatus
from shared.tensors import pack_inputs, unpack_inputs


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m edge.ask",
        description="Ask the agent on this device; it answers without any broker.",
        epilog="example: python -m edge.ask digits --input digit.npy --data .shoal/edge-1",
    )
    parser.add_argument("model", help="the model's name")
    parser.add_argument("--input", "-i", type=Path, required=True, help=".npy with its batch axis, or .json")
    parser.add_argument("--data", type=Path, default=Path(".shoal/edge"), help="the agent's data folder")
    parser.add_argument("--function", default="run", help="the function of the module (default: run)")
    parser.add_argument("--deadline", type=float, default=10.0, help="seconds (default: 10)")
    return parser.parse_args(argv)


def ask(options: argparse.Namespace) -> Reply:
    """One question. Raises :class:`Unavailable` when no agent runs there, ``OSError`` for a bad file."""
    json = options.input.suffix == ".json"
    inputs = options.input.read_bytes() if json else [np.load(options.input, allow_pickle=False)]
    request = LocalInfer(
        model=options.model,
        inputs=pack_inputs(inputs),
        function=options.function,
        budget_s=options.deadline,
    )
    return asyncio.run(ask_locally(options.data, request))


def main() -> int:
    """Print the outputs as one JSON object; the exit code says whether there are any."""
    try:
        reply = ask(arguments())
        if reply.status is not ReplyStatus.OK:
            sys.stderr.write(f"error: {reply.code}: {reply.detail}\n")
            return 1
        outputs = unpack_inputs(reply.body)
    except (ShoalError, OSError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    body = msgspec.Raw(outputs) if isinstance(outputs, bytes) else [one.tolist() for one in outputs]
    sys.stdout.buffer.write(msgspec.json.encode({"service_s": reply.service_s, "outputs": body}) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
