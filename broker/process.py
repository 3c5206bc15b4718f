"""What every long-running process does the same way: options, loop, signals, and how an error is shown."""

import argparse
import asyncio
import gc
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

from broker.logs import configure_logging
from broker.settings import read_config
from shared.config import Config
from shared.errors import ConfigError, ShoalError

EXIT_TROUBLE = 1
_HEARD_BYTES = 4096


def common_options(parser: argparse.ArgumentParser) -> None:
    """What all of them understand."""
    parser.add_argument("--config", "-c", type=Path, help="TOML file; SHOAL_<SECTION>_<KEY> overrides it")
    parser.add_argument(
        "--log-level", default="info", choices=("debug", "info", "warning", "error"), help="default: info"
    )
    parser.add_argument("--log-json", action="store_true", help="one JSON object a line")
    parser.add_argument(
        "--until-eof",
        action="store_true",
        help="end when standard input does, as it does when the program that holds its other end dies",
    )


def configured(arguments: argparse.Namespace, *overrides: dict[str, Any]) -> Config:
    """The settings of this process. Raises :class:`ConfigError`."""
    return read_config(arguments.config, *overrides)


def labels(pairs: list[str] | None) -> dict[str, str] | None:
    """``["region=eu"]`` -> a map; None stays None. Raises :class:`ConfigError`."""
    if pairs is None:
        return None
    bad = [pair for pair in pairs if "=" not in pair]
    if bad:
        raise ConfigError(f"--label {bad[0]!r}: write name=value")
    return dict(pair.split("=", 1) for pair in pairs)


def main(arguments: argparse.Namespace, work: Callable[[], Coroutine[Any, Any, None]]) -> int:
    """Run a process to its end; returns its exit code. Expected errors are one line, bugs a traceback."""
    configure_logging(arguments.log_level, json=arguments.log_json)
    try:
        with asyncio.Runner(loop_factory=fast_loop()) as runner:
            # What was loaded lives as long as the process: keep it out of every collection to come.
            gc.collect()
            gc.freeze()
            runner.run(_until_eof(work()) if arguments.until_eof else work())
    except ShoalError as error:
        sys.stderr.write(f"error: {error}\n")
        return EXIT_TROUBLE
    except ExceptionGroup as group:
        expected, bugs = group.split(ShoalError)
        if bugs is not None:
            raise
        assert expected is not None
        sys.stderr.writelines(f"error: {error}\n" for error in expected.exceptions)
        return EXIT_TROUBLE
    return 0


async def _until_eof(work: Awaitable[None]) -> None:
    """Turn the end of standard input into SIGTERM. A pipe's other end closes however its holder ends."""
    loop, standard_input = asyncio.get_running_loop(), sys.stdin.fileno()

    def heard() -> None:
        if not os.read(standard_input, _HEARD_BYTES):
            loop.remove_reader(standard_input)
            signal.raise_signal(signal.SIGTERM)

    loop.add_reader(standard_input, heard)
    await work


def fast_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it is installed; None means asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def on_signals(stop: Callable[[str], None]) -> None:
    """Call ``stop`` with the signal's name at SIGTERM and SIGINT."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number.name)


async def until(stopped: asyncio.Event, *services: Awaitable[None]) -> None:
    """Run services until ``stopped``; the first one that fails ends all, and its error is raised."""
    tasks = [asyncio.ensure_future(service) for service in services]
    end = asyncio.create_task(stopped.wait(), name="stop")
    try:
        done, _ = await asyncio.wait({end, *tasks}, return_when=asyncio.FIRST_COMPLETED)
        for task in done - {end}:
            task.result()
    finally:
        for task in (end, *tasks):
            task.cancel()
        await asyncio.gather(end, *tasks, return_exceptions=True)
