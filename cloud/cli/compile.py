"""``shoal compile``: a torch model becomes a ``.shoal`` file. The only command that needs torch."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from math import inf
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import typer

from cloud.cli.inspect import PackageView, described, package_page
from cloud.cli.options import JsonOption, emit, examples
from shared.errors import ConfigError, Unavailable

if TYPE_CHECKING:
    import torch
    from rich.console import RenderableType

    from cloud.compiler import Compiled

PrecisionName = Literal["exact", "fast"]
DIFFERENCE_MAX = 1e-3
NOT_TELLING = "but another input gets the same answer, so that says little (is the model trained?)"
_TIMED_RUNS = 5


class CompiledView(msgspec.Struct, frozen=True, kw_only=True):
    """What ``shoal compile --json`` prints.

    ``difference``: the largest one from torch's answer, relative to the output's scale. ``is_telling``: false
    if other floats get the same answer, as from deep layers without training: then agreement says little.
    ``run_ms``: batch size -> the time of one run on this machine.
    """

    file: str
    compile_s: float
    difference: float
    is_telling: bool
    run_ms: dict[int, float]
    package: PackageView


def compile_(app: typer.Typer) -> None:
    """Add the command."""
    epilog = examples(
        "shoal compile my_package.models:build --input 1x3x96x96 -o mobilenet.shoal",
        "shoal compile my_package.models:net --input 1x64 --batch 1 --batch 32 --precision fast -o net.shoal",
        "shoal compile my_package.text:build --input 1x32:int64 --name reader --version 2 -o reader.shoal",
    )
    app.command(name="compile", epilog=epilog)(_compile)


def _compile(
    model: Annotated[
        str, typer.Argument(help="module:name of a torch.nn.Module, or of a function that makes one.")
    ],
    input: Annotated[
        list[str],
        typer.Option("--input", "-i", help="Shape of an input, batch axis first; 1x32:int64 for integers."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .shoal file to write.")],
    batch: Annotated[
        list[int] | None,
        typer.Option(
            "--batch", min=1, help="A batch size; several share the parameters (default: the input's)."
        ),
    ] = None,
    name: Annotated[str, typer.Option(help="The model's name (default: the file's).")] = "",
    version: Annotated[str, typer.Option(help="The model's version.")] = "1",
    description: Annotated[str, typer.Option(help="One line about the model.")] = "",
    precision: Annotated[
        PrecisionName, typer.Option(help="exact: as torch computes; fast: quicker convolutions, within 5e-5.")
    ] = "exact",
    json: JsonOption = False,
) -> None:
    """Compile a torch model to WebAssembly, compare it with torch, and write the .shoal file."""
    from cloud.cli import torch_source

    for text in input:
        torch_source.parse_input(text)  # a slip is told before torch is loaded, which takes a while
    if not output.parent.is_dir():
        raise ConfigError(f"{output.parent} is no folder; make it first")
    with _stages(quiet=json) as stage:
        stage("loading torch")
        compile_model = _compiler()
        stage(f"building {model}")
        module = torch_source.load_model(model)
        inputs = tuple(torch_source.example_input(text) for text in input)
        answer = torch_source.answer(module, inputs)  # what torch itself refuses is no fault of the compiler
        others = tuple(torch_source.example_input(text, seed=1) for text in input)
        other = torch_source.answer(module, others)
        sizes = tuple(dict.fromkeys(batch or [len(inputs[0])]))
        stage(f"compiling for batch {', '.join(map(str, sizes))}")
        began = perf_counter()
        compiled = compile_model(
            module,
            inputs,
            name=name or output.stem,
            batch_sizes=sizes,
            precision=precision,
            version=version,
            description=description,
        )
        compile_s = perf_counter() - began
        stage("comparing with torch")
        difference, run_ms = _compared(module, compiled, input, sizes)
        _save(compiled, output)
    view = CompiledView(
        file=str(output),
        compile_s=round(compile_s, 3),
        difference=difference,
        is_telling=not any(one.is_floating_point() for one in inputs)
        or _difference(answer, other) > DIFFERENCE_MAX,
        run_ms=run_ms,
        package=described(output.read_bytes()),
    )
    emit(view, json, lambda: _page(view))


@contextmanager
def _stages(*, quiet: bool) -> Iterator[Callable[[str], None]]:
    """Gives a function that names the stage which begins; each stays on screen with its time."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(finished_text="✓"), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=quiet) as progress:

        def finish() -> None:
            for task in progress.task_ids:
                progress.update(task, total=1, completed=1)

        def stage(text: str) -> None:
            finish()
            progress.add_task(text, total=None)

        yield stage
        finish()


def _compiler() -> Callable[..., "Compiled"]:
    try:
        import_module("torch")
        from cloud.compiler import compile_model
    except ModuleNotFoundError as error:
        raise Unavailable(f"{error.name} is not installed; pip install 'shoal[compiler]'") from None
    return compile_model


def _compared(
    model: "torch.nn.Module", compiled: "Compiled", shapes: Sequence[str], sizes: Sequence[int]
) -> tuple[float, dict[int, float]]:
    """The largest relative difference from torch, and milliseconds a run by batch size.

    Raises :class:`CompileError` when the module computes something else: that is never written to a file.
    """
    from cloud.cli import torch_source
    from cloud.compiler import CompileError

    run, worst, run_ms = compiled.load(), 0.0, {}
    for size in sizes:
        inputs = [torch_source.example_input(text, size) for text in shapes]
        arrays = [one.numpy() for one in inputs]
        worst = max(worst, _difference(run(*arrays), torch_source.answer(model, inputs)))
        run_ms[size] = round(_median_ms(partial(run, *arrays)), 4)
    if worst > DIFFERENCE_MAX:
        raise CompileError(
            f"the compiled model is {worst:.1e} of the output's scale away from torch: a mistake of the "
            "compiler, so no file was written"
        )
    return worst, run_ms


def _difference(found: object, expected: object) -> float:
    """The largest one over all outputs, relative to the output's largest magnitude.

    Where torch gives an infinity or no number, so must the module: else the difference is infinite. Integers
    are left out, for they may turn on the last bit (argmax of two that are equal).
    """
    import numpy as np

    worst = 0.0
    several = [one if isinstance(one, tuple | list) else (one,) for one in (found, expected)]
    for ours, theirs in zip(*several, strict=True):
        a, b = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
        finite = np.isfinite(b)
        if not np.array_equal(a[~finite], b[~finite], equal_nan=True) or not np.isfinite(a[finite]).all():
            return inf
        if np.asarray(theirs).dtype.kind == "f" and finite.any():
            worst = max(worst, float(np.abs(a[finite] - b[finite]).max() / (np.abs(b[finite]).max() or 1.0)))
    return worst


def _median_ms(call: Callable[[], object]) -> float:
    call()
    samples = []
    for _ in range(_TIMED_RUNS):
        began = perf_counter()
        call()
        samples.append((perf_counter() - began) * 1e3)
    return median(samples)


def _save(compiled: "Compiled", path: Path) -> None:
    try:
        compiled.save(path)
    except OSError as error:
        raise ConfigError(f"can't write {path}: {error.strerror}") from None


def _page(view: CompiledView) -> "RenderableType":
    from rich.console import Group
    from rich.text import Text

    from cloud.cli.show import facts_table

    runs = ", ".join(f"{time_ms:.3g} ms at batch {size}" for size, time_ms in view.run_ms.items())
    facts: list[tuple[str, str | Text]] = [
        ("written", f"{view.file} (compiled in {view.compile_s:.1f} s)"),
        ("agreement", f"within {view.difference:.1e} of torch, relative to the output's scale"),
        *([] if view.is_telling else [("", Text(NOT_TELLING, style="yellow"))]),
        ("speed here", runs),
        ("next", f"shoal deploy {view.file} --to all"),
    ]
    return Group(package_page(view.package), Text(), facts_table(facts))
