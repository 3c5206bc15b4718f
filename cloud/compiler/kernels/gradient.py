"""Kernels of :mod:`cloud.compiler.ops.gradient`."""

from collections.abc import Callable, Mapping

from cloud.compiler.ir import Node
from cloud.compiler.wat import Kernel

EMITTERS: Mapping[type, Callable[[Node], Kernel | None]] = {}
