"""Our end of web.mjs: onnxruntime-web in a node process, one command and one answer a line."""

import json
import select
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).parent
ANSWER_S_MAX = 300.0
INSTALL = "`make bench-wasm` installs it with npm"


class Node:
    """Starts node when it is first needed, and again if it died. A context manager; one session at a time."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def load(self, onnx: Path, x: NDArray[Any], like: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Open the model and run it once: its outputs, in the shapes of ``like``."""
        values = onnx.with_suffix(".f32")
        x.astype("<f4").tofile(values)
        answer = self._ask(load=str(onnx), input=str(values), shape=x.shape)
        pairs = zip(answer["outputs"], like, strict=True)
        return [np.asarray(one).reshape(other.shape) for one, other in pairs]

    def seconds(self, runs: int) -> float:
        """By node's own clock."""
        return float(self._ask(runs=runs)["seconds"])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def _ask(self, **command: object) -> dict[str, Any]:
        if self._process is None:
            self._process = self._start()
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(command) + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            raise self._died() from None
        # There is at most one answer on its way, so nothing of it can be in Python's buffer yet.
        if not select.select([process.stdout], [], [], ANSWER_S_MAX)[0]:
            self.__exit__(None, None, None)
            raise TimeoutError(f"node did not answer within {ANSWER_S_MAX:.0f} s")
        line = process.stdout.readline()
        if not line:
            raise self._died()
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def _start(self) -> "subprocess.Popen[str]":
        if not (HERE / "node_modules" / "onnxruntime-web").exists():
            raise FileNotFoundError(f"onnxruntime-web is not installed; {INSTALL}")
        pipe = subprocess.PIPE
        return subprocess.Popen(
            ["node", "web.mjs"], cwd=HERE, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True
        )

    def _died(self) -> RuntimeError:
        process, self._process = self._process, None
        code = process.wait(10) if process is not None else None
        return RuntimeError(f"node ended with exit code {code}")
