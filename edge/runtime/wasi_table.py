"""WASI preview 1 as a table: every function's signature, and what a function that we don't have answers.

Source: https://github.com/WebAssembly/WASI/blob/main/legacy/preview1/docs.md. All but ``proc_exit`` return
an errno. A module links against all of them; files and sockets answer "no such descriptor" or "not
capable", which every language's library understands.
"""

from collections.abc import Sequence

MODULE = "wasi_snapshot_preview1"
SUCCESS, BADF, INVAL, NOTCAPABLE, SPIPE = 0, 8, 28, 76, 70
STOP = -1  # no errno: tells the shim to trap

_I, _L = "i32", "i64"
SIGNATURES: dict[str, tuple[str, ...]] = {
    "args_get": (_I, _I),
    "args_sizes_get": (_I, _I),
    "clock_res_get": (_I, _I),
    "clock_time_get": (_I, _L, _I),
    "environ_get": (_I, _I),
    "environ_sizes_get": (_I, _I),
    "fd_advise": (_I, _L, _L, _I),
    "fd_allocate": (_I, _L, _L),
    "fd_close": (_I,),
    "fd_datasync": (_I,),
    "fd_fdstat_get": (_I, _I),
    "fd_fdstat_set_flags": (_I, _I),
    "fd_fdstat_set_rights": (_I, _L, _L),
    "fd_filestat_get": (_I, _I),
    "fd_filestat_set_size": (_I, _L),
    "fd_filestat_set_times": (_I, _L, _L, _I),
    "fd_pread": (_I, _I, _I, _L, _I),
    "fd_prestat_dir_name": (_I, _I, _I),
    "fd_prestat_get": (_I, _I),
    "fd_pwrite": (_I, _I, _I, _L, _I),
    "fd_read": (_I, _I, _I, _I),
    "fd_readdir": (_I, _I, _I, _L, _I),
    "fd_renumber": (_I, _I),
    "fd_seek": (_I, _L, _I, _I),
    "fd_sync": (_I,),
    "fd_tell": (_I, _I),
    "fd_write": (_I, _I, _I, _I),
    "path_create_directory": (_I, _I, _I),
    "path_filestat_get": (_I, _I, _I, _I, _I),
    "path_filestat_set_times": (_I, _I, _I, _I, _L, _L, _I),
    "path_link": (_I, _I, _I, _I, _I, _I, _I),
    "path_open": (_I, _I, _I, _I, _I, _L, _L, _I, _I),
    "path_readlink": (_I, _I, _I, _I, _I, _I),
    "path_remove_directory": (_I, _I, _I),
    "path_rename": (_I, _I, _I, _I, _I, _I),
    "path_symlink": (_I, _I, _I, _I, _I),
    "path_unlink_file": (_I, _I, _I),
    "poll_oneoff": (_I, _I, _I, _I),
    "proc_exit": (_I,),
    "proc_raise": (_I,),
    "random_get": (_I, _I),
    "sched_yield": (),
    "sock_accept": (_I, _I, _I),
    "sock_recv": (_I, _I, _I, _I, _I, _I),
    "sock_send": (_I, _I, _I, _I, _I),
    "sock_shutdown": (_I, _I),
}


def errno_of_missing(name: str) -> int:
    """What a function without an implementation answers."""
    return BADF if name.startswith("fd_") else NOTCAPABLE


def shim(names: Sequence[str]) -> str:
    """A module between the command and the host that turns a host's STOP into a trap (WAT).

    Why: wasmtime's Python package hands an exception of a host function on through one global for all
    threads, so under parallel calls a neighbour may be blamed. Our host functions therefore never raise;
    they note what happened, return STOP, and this module traps in the command's place.
    """
    functions = []
    for name in names:
        params = SIGNATURES[name]
        declared = "".join(f" (param {kind})" for kind in params)
        passed = "".join(f" (local.get {index})" for index in range(len(params)))
        functions.append(f'(import "host" "{name}" (func ${name}_host{declared} (result i32)))')
        functions.append(_wrapper(name, declared, f"(call ${name}_host{passed})", len(params)))
    imports = sorted(functions, key=lambda text: not text.startswith("(import"))
    return "(module\n" + "\n".join(imports) + ")"


def _wrapper(name: str, declared: str, call: str, answer: int) -> str:
    head = f'(func (export "{name}"){declared}'
    if name == "proc_exit":
        return f"{head} (drop {call}) unreachable)"
    check = f"(if (i32.eq (local.tee {answer} {call}) (i32.const {STOP})) (then unreachable))"
    return f"{head} (result i32) (local i32) {check} (local.get {answer}))"
