"""Compiles torch models to standalone WebAssembly modules.

    compiled = compile_model(model, example_inputs=(x,), name="digits", batch_sizes=(1, 32))
    compiled.save("digits.shoal")
    y = compiled.load()(x.numpy())

The stages, each a file: ``frontend`` (torch.export) and ``aten`` (operator table) -> ``ir`` and ``ops`` (the
graph, its meaning) -> ``passes`` -> ``plan`` (addresses) -> ``backend`` and ``kernels`` (WebAssembly text).
``compile`` runs them into a package (parameters: ``shared.parameters``); ``runner`` runs the result.

Invariants: only ``frontend`` imports torch. A module imports nothing, its memory never grows, and its bytes
depend on shapes only. The same model gives the same bytes.
"""

from cloud.compiler.compile import Compiled, compile_model
from cloud.compiler.errors import CompileError, UnsupportedOperator
from cloud.compiler.runner import Runner

__all__ = ["CompileError", "Compiled", "Runner", "UnsupportedOperator", "compile_model"]
