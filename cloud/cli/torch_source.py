"""What ``shoal compile`` is given: a torch model as ``package.module:name``, an input as ``1x3x96x96``."""

import importlib
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from shared.errors import ConfigError

if TYPE_CHECKING:
    import torch

_SHAPE = re.compile(r"(?P<shape>[1-9]\d*(x[1-9]\d*)*)(:(?P<dtype>\w+))?")
_DTYPES = ("float32", "int64", "int32", "bool")
_EXAMPLE = "give the shape with its batch axis, as in 1x3x96x96 or 1x32:int64"


def load_model(reference: str) -> "torch.nn.Module":
    """The module that ``reference`` names, or that the function of that name makes; in evaluation mode.

    Modules of the current folder are found, as with ``python -m``. Raises :class:`ConfigError`, which for a
    failure in the model's own code has the line where it happened.
    """
    import torch

    module, colon, name = reference.partition(":")
    if not (module and colon and name):
        raise ConfigError(f"{reference!r}: give module:name, as in my_package.models:build")
    found = _attribute(_imported(module), name)
    if not isinstance(found, torch.nn.Module) and callable(found):
        try:
            found = found()
        except Exception as error:
            raise ConfigError(f"{reference}() failed: {_told(error)}") from error
    if not isinstance(found, torch.nn.Module):
        raise ConfigError(f"{reference} is a {type(found).__name__}, not a torch.nn.Module")
    return found.eval()


def answer(model: "torch.nn.Module", inputs: "Sequence[torch.Tensor]") -> object:
    """What torch computes. Raises :class:`ConfigError` for inputs that the model does not take."""
    import torch

    try:
        with torch.inference_mode():
            return model(*inputs)
    except Exception as error:
        shapes = " ".join("x".join(map(str, one.shape)) for one in inputs)
        raise ConfigError(f"the model does not run with --input {shapes}: {_told(error)}") from error


def example_input(text: str, batch_size: int | None = None, seed: int = 0) -> "torch.Tensor":
    """Numbers of that shape: normal ones, the same for the same seed; zeros where they may be indices.

    ``batch_size``: instead of the first dimension of ``text``.
    """
    import torch

    shape, dtype = parse_input(text)
    shape = shape if batch_size is None else (batch_size, *shape[1:])
    if dtype != "float32":
        return torch.zeros(shape, dtype=getattr(torch, dtype))
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def parse_input(text: str) -> tuple[tuple[int, ...], str]:
    """``1x32:int64`` -> ((1, 32), "int64"). Raises :class:`ConfigError`."""
    match = _SHAPE.fullmatch(text)
    if match is None:
        raise ConfigError(f"--input {text}: {_EXAMPLE}")
    dtype = match["dtype"] or _DTYPES[0]
    if dtype not in _DTYPES:
        raise ConfigError(f"--input {text}: the numbers are one of {', '.join(_DTYPES)}")
    return tuple(int(size) for size in match["shape"].split("x")), dtype


def _imported(module: str) -> object:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module}.".startswith(f"{error.name}."):
            raise ConfigError(
                f"there is no module {error.name} here; looked in {here} and in Python's path"
            ) from None
        raise ConfigError(f"{module} can't be imported: {_told(error)}") from error
    except Exception as error:
        raise ConfigError(f"{module} can't be imported: {_told(error)}") from error


def _attribute(module: object, path: str) -> object:
    found = module
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise ConfigError(f"{getattr(found, '__name__', type(found).__name__)} has no {name}") from None
    return found


def _told(error: Exception) -> str:
    """The error, and the last line of the caller's own code on the way to it, in one line."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [one for one in frames if "site-packages" not in one.filename]
    last = (own or frames)[-1]
    reason = " ".join(str(error).split())
    return f"{type(error).__name__}: {reason} ({last.filename}:{last.lineno})"
