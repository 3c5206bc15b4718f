"""One model at one batch size, as every candidate sees it."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.zoo import ZooModel

Arrays = tuple[NDArray[np.float64], ...]
OPSET = 17
WRONG_FROM = 1e-3  # relative to the output's scale: no candidate that is timed computes something else


@dataclass(frozen=True)
class Case:
    """``folder``: for files; its owner deletes it."""

    zoo: ZooModel
    batch: int
    folder: Path

    @cached_property
    def network(self) -> nn.Module:
        return self.zoo.build()

    @cached_property
    def x(self) -> Tensor:
        return self.zoo.inputs(self.batch)

    @cached_property
    def expected(self) -> Arrays:
        """What torch computes in float32."""
        with torch.inference_mode():
            return arrays(self.network(self.x))

    @cached_property
    def true(self) -> Arrays:
        """What torch computes in float64."""
        with torch.inference_mode():
            return arrays(self.zoo.build().double()(self.x.double()))

    @cached_property
    def onnx(self) -> Path:
        """The model as an ONNX file of fixed shapes."""
        path = self.folder / f"{self.zoo.name}-{self.batch}.onnx"
        # The exporter can't trace the fused kernel that eager mode takes for a transformer's layer.
        fused = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that the old exporter is old, and that shapes are fixed
                torch.onnx.export(self.zoo.build(), (self.x,), path, dynamo=False, opset_version=OPSET)
        finally:
            torch.backends.mha.set_fastpath_enabled(fused)
        return path

    def check(self, outputs: Arrays) -> None:
        """Raises ``ValueError`` for another answer than torch's."""
        error = relative_error(outputs, self.expected)
        if not error < WRONG_FROM:
            raise ValueError(f"its answer is {error:.1e} from torch's")


def arrays(outputs: object) -> Arrays:
    """One output or several, of torch or numpy, in float64: differences are then exact."""
    several: Sequence[object] = outputs if isinstance(outputs, tuple | list) else (outputs,)
    return tuple(np.asarray(one, dtype=np.float64) for one in several)


def relative_error(outputs: Arrays, expected: Arrays) -> float:
    """The largest difference, relative to the largest magnitude of that output. NaN where there is a NaN."""
    pairs = zip(outputs, expected, strict=True)
    return max(
        float(np.abs(one - other.reshape(one.shape)).max() / np.abs(other).max()) for one, other in pairs
    )
