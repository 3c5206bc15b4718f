"""docs/compiler.md: how the compiler works, and a small model drawn at each stage by the compiler itself."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from cloud.compiler.backend import build_module
from cloud.compiler.frontend import export
from cloud.compiler.ir import Graph, Node
from cloud.compiler.kernels import EMITTERS
from cloud.compiler.lowering import LOWERINGS
from cloud.compiler.passes import PASSES, optimise
from cloud.compiler.plan import derived, plan_memory


class Small(nn.Module):
    """A convolution, its batch norm, an activation, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.head = nn.Linear(8 * 64, 5)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, 3, 8, 8] -> [batch, 5]."""
        return self.head(torch.relu(self.norm(self.conv(x))).flatten(1))


def page(note: str) -> str:
    """The page as Markdown."""
    torch.manual_seed(0)
    exported = export(Small(), (torch.zeros(1, 3, 8, 8),))
    after = optimise(exported.graph)
    wat = build_module({"run": after}).wat
    return TEXT.format(
        note=note,
        before=_drawn(exported.graph),
        after=_drawn(after),
        passes="\n".join(f"| `{one.__name__}` | {_first_line(one)} |" for one in PASSES),
        plan="\n".join(_planned(after)),
        run="\n".join(line.rstrip() for line in _exported(wat)),
        operators=len(LOWERINGS),
        operations=len(EMITTERS),
        names=", ".join(f"`{one}`" for one in sorted(LOWERINGS) if not one.startswith("_")),
    )


def _first_line(function: object) -> str:
    return (function.__doc__ or "").strip().splitlines()[0]


def _drawn(graph: Graph) -> str:
    """A mermaid flow chart: boxes are operations, arrows carry shapes; rounded is computed by prepare."""
    early = derived(graph)
    lines = ["flowchart TD"]
    for value in graph.inputs:
        lines.append(f"    {_id(value.name)}[/{value.name}/]")
    for parameter in graph.parameters:
        lines.append(f"    {_id(parameter.value.name)}[({parameter.key})]")
    for constant in graph.constants:
        lines.append(f"    {_id(constant.value.name)}[(constant)]")
    for node in graph.nodes:
        lines.append(f"    {_id(node.result.name)}{_box(node, node.result.name in early)}")
        for operand in node.operands:
            shape = "x".join(map(str, operand.shape)) or "1"
            lines.append(f"    {_id(operand.name)} -- {shape} --> {_id(node.result.name)}")
    for value in graph.outputs:
        lines.append(f"    {_id(value.name)} --> output_{_id(value.name)}[\\output\\]")
    return "\n".join(lines)


def _box(node: Node, early: bool) -> str:
    name = type(node.op).__name__
    return f"([{name}])" if early else f"[{name}]"


def _id(name: str) -> str:
    return "".join(one if one.isalnum() else "_" for one in name)


def _planned(graph: Graph) -> Iterable[str]:
    offsets = plan_memory({"run": graph}, {}).offsets["run"]
    early = derived(graph)
    sizes = {one.name: one for one in graph.inputs} | {node.result.name: node.result for node in graph.nodes}
    sizes |= {one.value.name: one.value for one in graph.parameters}
    kinds = {one.value.name: "parameter" for one in graph.parameters} | dict.fromkeys(early, "derived")
    kinds |= {one.name: "input" for one in graph.inputs}
    for name, value in sorted(sizes.items(), key=lambda pair: (offsets[pair[0]], pair[0])):
        yield f"| {offsets[name]} | {value.nbytes} | `{name}` | {kinds.get(name, 'arena')} |"


def _exported(wat: str) -> Iterable[str]:
    lines = iter(wat.splitlines())
    for line in lines:
        if line.startswith("  (func (export"):
            yield line
            for inner in lines:
                yield inner
                if inner == "  )":
                    break


TEXT = """{note}
# The compiler

`cloud/compiler` turns a `torch.nn.Module` into a WebAssembly module that stands alone: no imports, no
allocation, memory that never grows, and bytes that depend on shapes only. One file does each step:

```
nn.Module --frontend, reader--> ATen calls --lowering--> graph --passes--> graph --kernels, plan--> module
             torch.export         {operators} names        {operations} operations
```

| stage | file | knows |
|---|---|---|
| front end | `frontend.py`, `pieces.py`, `reader.py`, `items.py`, `training.py` | torch |
| lowering | `lowering/` | ATen's names and arguments, no torch |
| graph | `ir.py`, `ops/`, `expr.py` | what each operation means, in numpy |
| passes | `passes/` | the graph's shape; no operation's inside |
| kernels | `kernels/` | WebAssembly text for one operation and one set of shapes |
| plan | `plan.py` | lifetimes and addresses |
| back end | `backend.py` | the module around all this, and its ABI section |

The example below is a convolution of 3 to 8 channels with its batch norm and ReLU, and a linear layer. Every
picture on this page is drawn by the compiler itself.

## After the front end

Composite operators stay whole; an operator without a lowering comes in the pieces that torch knows of it.
A convolution is a product of windows over an image in NHWC; permutations
stand where torch's layout (NCHW) meets ours.

```mermaid
{before}
```

## After the passes

Rounded boxes depend on parameters only: `prepare` computes them once after the parameters have changed, and
they cost nothing in a run. So folding a batch norm, or bringing a weight into another layout, is nothing but
ordinary nodes on parameters.

```mermaid
{after}
```

| pass | what it does |
|---|---|
{passes}

## The memory plan

Every value has a fixed address; two values share bytes when they never live at the same time.

| address | bytes | value | region |
|---|---|---|---|
{plan}

## The module

A kernel is a function of addresses, named by everything its text depends on; equal layers share one.

```wat
{run}
```

## Precision

`precision="exact"` (the default) uses no relaxed instruction and our own exp, tanh and erf: the same bits on
every processor. `precision="fast"` also computes convolutions by Winograd's algorithms, where that is faster:
up to five times fewer multiplications, and results within 5e-5 of the scale.

## To add an operator in five steps

1. **Meaning.** Is it one function of each element? Then it is an expression of `expr.py`, and steps 1 and 3
   are done. Otherwise write a frozen dataclass in the family's file under `ops/`: `shape`, `dtype`,
   `evaluate` (numpy; this is the oracle).
2. **Lowering.** In the family's file under `lowering/`: a function from the ATen call to nodes, and its name
   in the table. Refuse with advice what the operation does not cover: `raise aten.refuse("...")`.
3. **Kernel.** In the family's file under `kernels/`: a function from the node to WebAssembly text, and its
   entry in `EMITTERS`. Only shapes may go into the text; the kernel's name must say all of them.
4. **Tests.** `agree(model, *inputs)` of `tests/unit/cloud/compiler/graphs.py` compares torch, the numpy
   meaning and WebAssembly; let Hypothesis draw the shapes.
5. **Speed.** If a model of `benchmarks/zoo.py` uses it, look at `make bench-wasm` before and after.

## Operators of ATen that are covered

{names}
"""
