"""What ``shoal infer`` reads and shows: arrays and JSON documents."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich.table import Table
from rich.text import Text

from cloud.client import Answer
from shared.errors import ConfigError
from shared.tensors import AnyArray

PREVIEW_NUMBERS = 16


def read_input(path: Path) -> tuple[AnyArray | None, bytes | None]:
    """An array of a .npy file, or the document of a .json file. Raises :class:`ConfigError`."""
    try:
        if path.suffix == ".json":
            document = path.read_bytes()
            msgspec.json.decode(document)
            return None, document
        array: AnyArray = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ConfigError(f"can't read {path}: {error}; write it with numpy.save, or as .json") from None
    if not isinstance(array, np.ndarray):
        raise ConfigError(f"{path} holds several arrays; save the one to send with numpy.save")
    return array, None


def write_output(path: Path, answer: Answer) -> None:
    """The first array as .npy, or a module's document as it is. Raises :class:`ConfigError`."""
    try:
        if isinstance(answer.outputs, bytes):
            path.write_bytes(answer.outputs)
        else:
            with path.open("wb") as file:  # given a name, numpy would append .npy to it
                np.save(file, answer.outputs[0])
    except OSError as error:
        raise ConfigError(f"can't write {path}: {error.strerror}") from None


def answer_json(answer: Answer) -> dict[str, Any]:
    """For ``--json``; numbers that JSON can't say (NaN, infinities) become null."""
    outputs: Any
    if isinstance(answer.outputs, bytes):
        outputs = msgspec.json.decode(answer.outputs)
    else:
        outputs = [one.tolist() for one in answer.outputs]
    return {
        "request": answer.request,
        "node": answer.node,
        "service_s": answer.service_s,
        "outputs": outputs,
    }


def answer_table(answer: Answer) -> Table:
    """For a person: a preview of each array and, where it looks like classes, the largest of each row."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    if isinstance(answer.outputs, bytes):
        table.add_row("output", Text(answer.outputs.decode("utf-8", "replace")))
    else:
        for one in answer.outputs:
            _add_array(table, one)
    table.add_row("node", f"{answer.node} ({answer.service_s * 1e3:.2f} ms on the device)")
    table.add_row("request", f"{answer.request}  (shoal why {answer.request})")
    return table


def _add_array(table: Table, one: AnyArray) -> None:
    numbers = np.array2string(one, precision=4, threshold=PREVIEW_NUMBERS, max_line_width=66)
    table.add_row("output", Text(f"{one.dtype.name} {one.shape}\n{numbers}"))
    if one.ndim == 2 and one.shape[1]:
        classes = one.argmax(axis=1)
        more = " ..." if len(classes) > PREVIEW_NUMBERS else ""
        table.add_row("argmax", " ".join(map(str, classes[:PREVIEW_NUMBERS])) + more)
