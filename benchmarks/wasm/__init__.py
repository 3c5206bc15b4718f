"""The parts of ``python -m benchmarks.bench_wasm``.

timing      candidates, interleaved; a failure is a result like any other
cases       one model at one batch size: its input, torch's answer, its ONNX file
peers       torch eager, torch.compile, onnxruntime; web (and web.mjs): onnxruntime-web in node
inference   ours and the peers, and how far ours is from torch
training    train steps, ours and torch's
modules     bytes, emission, compilation on a device, cached start, the price of interruption
tables      all of it for a person; the goals are in benchmarks/goals.py
"""
