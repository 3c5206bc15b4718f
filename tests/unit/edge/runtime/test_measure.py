from importlib import metadata

from edge.runtime import measure


def test_the_device_tells_what_it_can_do() -> None:
    found = measure(0.1)
    assert 0.01 < found.gflops < 10_000
    assert 0 < found.call_overhead_us < 10_000
    assert found.wasmtime_version == metadata.version("wasmtime")
