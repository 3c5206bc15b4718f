"""The peers that run in this process. Each takes what it is fastest with, on one thread."""

from collections.abc import Callable, Mapping

import torch

from benchmarks.wasm.cases import Case, arrays
from benchmarks.wasm.timing import Call, Candidate
from benchmarks.wasm.web import Node

TORCH, TORCH_COMPILE, ORT, ORT_WEB = "torch", "torch.compile", "onnxruntime", "onnxruntime-web"

Peer = Callable[[Case, Node], Candidate]


def eager(case: Case, _: Node) -> Candidate:
    """Tensors in and out; torch is set to one thread by whoever measures."""
    return _torch(case, case.network)


def compiled(case: Case, _: Node) -> Candidate:
    """Inductor with static shapes. Raises what it raises where there is no C++ compiler."""
    torch._dynamo.reset()  # models share code objects, and after eight of those it would quietly run eagerly
    return _torch(case, torch.compile(case.network, dynamic=False))


def _torch(case: Case, network: Callable[[torch.Tensor], object]) -> Candidate:
    x = case.x

    def run() -> object:
        with torch.inference_mode():
            return network(x)

    case.check(arrays(run()))
    return Call(run)


def onnxruntime(case: Case, _: Node) -> Candidate:
    """Arrays in and out, the processor's widest vectors."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(case.onnx, options, providers=["CPUExecutionProvider"])
    feeds = {session.get_inputs()[0].name: case.x.numpy()}
    case.check(arrays(session.run(None, feeds)))
    return Call(lambda: session.run(None, feeds))


def onnxruntime_web(case: Case, node: Node) -> Candidate:
    """The same file in node: WebAssembly with SIMD."""
    case.check(arrays(node.load(case.onnx, case.x.numpy(), case.expected)))
    return node


PEERS: Mapping[str, Peer] = {
    TORCH: eager,
    TORCH_COMPILE: compiled,
    ORT: onnxruntime,
    ORT_WEB: onnxruntime_web,
}
