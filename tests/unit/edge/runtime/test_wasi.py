import pytest

from edge.runtime import (
    BadInput,
    BadModule,
    BadOutput,
    CapabilityDenied,
    ExitFailure,
    Grants,
    Limits,
    ModuleHost,
    Stopped,
    Unreachable,
)
from tests.unit.edge.runtime.modules import ECHO, wasi, wasi_import, wasi_package, wasm
from tests.unit.edge.runtime.stories import story

LIMITS = Limits(deadline_s=10)
# Writes the two decimal digits of $size, in quotes.
ANSWER = """
  (i32.store8 (i32.const 699) (i32.const 34)) (i32.store8 (i32.const 702) (i32.const 34))
  (i32.store8 (i32.const 700) (i32.add (i32.const 48) (i32.div_u (local.get $size) (i32.const 10))))
  (i32.store8 (i32.const 701) (i32.add (i32.const 48) (i32.rem_u (local.get $size) (i32.const 10))))
  (call $out (i32.const 699) (i32.const 4))"""
OPEN = "(i32.const 3)(i32.const 0)(i32.const 0)(i32.const 1)(i32.const 0)(i64.const 0)(i64.const 0)"


async def output(binary: bytes, stdin: bytes = b"null", grants: Grants | None = None) -> bytes:
    async with ModuleHost(limits=LIMITS, grants=grants) as host:
        await host.load("command", binary)
        result = await host.run("command", stdin)
        assert isinstance(result, bytes)
        return result


@story
async def test_json_goes_in_and_comes_out() -> None:
    assert await output(ECHO, b'{"a": [1, 2.5, "x"]}') == b'{"a": [1, 2.5, "x"]}'


@story
async def test_every_run_is_a_fresh_process() -> None:
    count = wasi("""
      (i32.store (i32.const 600) (i32.add (i32.load (i32.const 600)) (i32.const 49)))
      (call $out (i32.const 600) (i32.const 1))""")
    async with ModuleHost(limits=LIMITS) as host:
        await host.load("count", wasi_package(count))
        assert [await host.run("count", b"") for _ in range(3)] == [b"1", b"1", b"1"]


@story
async def test_a_long_input_is_read_in_pieces() -> None:
    copy = wasi("""(loop $again
      (local.set $size (call $in))
      (call $out (i32.const 1024) (local.get $size))
      (br_if $again (local.get $size)))""")
    text = b'"' + b"x" * 100_000 + b'"'
    assert await output(copy, text) == text


@story
async def test_an_exit_status_is_an_error_with_the_last_words_of_stderr() -> None:
    fails = wasi("""(local.set $size (call $in))
      (call $err (i32.const 1024) (local.get $size)) (call $exit (i32.const 3))""")
    with pytest.raises(ExitFailure, match="status 3: no such model"):
        await output(fails, b"no such model")


@story
async def test_exit_status_zero_is_a_success_wherever_it_happens() -> None:
    assert (
        await output(wasi("(call $out (i32.const 1024) (call $in)) (call $exit (i32.const 0))"), b"7") == b"7"
    )


@story
async def test_stderr_is_kept_short() -> None:
    chatty = wasi("""(loop $again (local.set $size (i32.add (local.get $size) (i32.const 1)))
      (call $err (i32.const 1024) (i32.const 32768))
      (br_if $again (i32.lt_u (local.get $size) (i32.const 50)))) (call $exit (i32.const 1))""")
    with pytest.raises(ExitFailure) as caught:
        await output(chatty)
    assert len(str(caught.value)) < 3000


@story
async def test_what_is_not_json_is_not_passed_on() -> None:
    with pytest.raises(BadOutput):
        await output(ECHO, b'{"a":')


@story
async def test_the_clock_is_denied_until_it_is_granted() -> None:
    clock = wasi(
        """(local.set $size (call $clock_time_get (i32.const 1) (i64.const 0) (i32.const 640)))
        (if (i64.eqz (i64.load (i32.const 640))) (then unreachable))"""
        + ANSWER,
        wasi_import("clock_time_get", "i32 i64 i32"),
    )
    with pytest.raises(CapabilityDenied, match="the clock"):
        await output(clock)
    assert await output(clock, grants=Grants(clock=True)) == b'"00"'


@story
async def test_random_numbers_can_be_denied() -> None:
    chance = wasi(
        """(local.set $size (call $random_get (i32.const 640) (i32.const 32)))
        (if (i64.eqz (i64.load (i32.const 640))) (then unreachable))"""
        + ANSWER,
        wasi_import("random_get", "i32 i32"),
    )
    assert await output(chance) == b'"00"'
    with pytest.raises(CapabilityDenied, match="random"):
        await output(chance, grants=Grants(random=False))


@story
async def test_the_environment_is_only_what_was_granted() -> None:
    environment = wasi(
        """(drop (call $environ_sizes_get (i32.const 640) (i32.const 644)))
        (drop (call $environ_get (i32.const 1024) (i32.const 2048)))
        (call $err (i32.const 2048) (i32.load (i32.const 644)))
        (call $exit (i32.add (i32.const 1) (i32.load (i32.const 640))))""",
        wasi_import("environ_sizes_get", "i32 i32") + wasi_import("environ_get", "i32 i32"),
    )
    with pytest.raises(ExitFailure, match="status 1: no word"):
        await output(environment)
    with pytest.raises(ExitFailure, match="status 3: MODE=1\0TEXT=a b"):
        await output(environment, grants=Grants(environment=(("MODE", "1"), ("TEXT", "a b"))))


@pytest.mark.parametrize(
    ("name", "params", "call", "errno"),
    [
        ("path_open", "i32 i32 i32 i32 i32 i64 i64 i32 i32", OPEN + "(i32.const 0)(i32.const 0)", 76),
        ("fd_prestat_get", "i32 i32", "(i32.const 3)(i32.const 640)", 8),
        ("sock_accept", "i32 i32 i32", "(i32.const 3)(i32.const 0)(i32.const 640)", 76),
        ("fd_close", "i32", "(i32.const 9)", 8),
        ("fd_close", "i32", "(i32.const 1)", 0),
        ("fd_seek", "i32 i64 i32 i32", "(i32.const 1)(i64.const 0)(i32.const 0)(i32.const 640)", 70),
        ("fd_fdstat_get", "i32 i32", "(i32.const 1)(i32.const 640)", 0),
        ("sched_yield", "", "", 0),
    ],
)
@story
async def test_there_are_no_files_and_no_network(name: str, params: str, call: str, errno: int) -> None:
    body = f"(local.set $size (call ${name} {call}))" + ANSWER
    declared = wasi_import(name, params) if params else wasi_import(name, "").replace("(param )", "")
    assert await output(wasi(body, declared)) == b'"%02d"' % errno


@story
async def test_an_address_outside_the_memory_stops_the_command() -> None:
    with pytest.raises(Stopped, match="outside its memory"):
        await output(wasi("(call $out (i32.const -8) (i32.const 64))"))


@story
async def test_an_abort_of_the_command_is_told_as_such() -> None:
    with pytest.raises(Unreachable):
        await output(wasi("unreachable"))


@story
async def test_a_command_has_memory_and_an_entry() -> None:
    with pytest.raises(BadModule, match="_start"):
        await output(wasm('(module (import "wasi_snapshot_preview1" "sched_yield" (func (result i32))))'))


@story
async def test_only_bytes_and_only_run() -> None:
    async with ModuleHost(limits=LIMITS) as host:
        await host.load("echo", ECHO)
        with pytest.raises(BadInput, match="bytes"):
            await host.run("echo", [1])
        with pytest.raises(BadInput, match="one function"):
            await host.run("echo", b"1", "other")


@story
async def test_no_store_outlives_its_run() -> None:
    import wasmtime._func

    async with ModuleHost(limits=LIMITS) as host:
        await host.load("echo", ECHO)
        before = len(wasmtime._func.FUNCTIONS.handles)
        for _ in range(5):
            await host.run("echo", b"1")
        assert len(wasmtime._func.FUNCTIONS.handles) == before
