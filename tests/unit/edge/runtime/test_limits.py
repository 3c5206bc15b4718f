import resource
from dataclasses import fields

import pytest

from edge.runtime.limits import KIB, Limits, thread_stack_bytes
from shared.errors import ConfigError


@pytest.mark.parametrize("name", [field.name for field in fields(Limits) if field.type in (int, float)])
@pytest.mark.parametrize("value", [0, -1, True, float("nan")])
def test_no_limit_can_be_switched_off(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=name):
        Limits(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [1, (4 << 30) + 1])
def test_a_memory_limit_that_wasm_can_not_have_is_refused(size: int) -> None:
    with pytest.raises(ConfigError, match="64 KiB to 4 GiB"):
        Limits(memory_bytes_max=size)


def test_the_stack_limit_leaves_half_of_the_threads_stack_to_the_host() -> None:
    Limits(stack_bytes_max=thread_stack_bytes() // 2)
    with pytest.raises(ConfigError, match="ulimit -s"):
        Limits(stack_bytes_max=thread_stack_bytes() // 2 + 1)
    with pytest.raises(ConfigError, match="16 KiB"):
        Limits(stack_bytes_max=8 * KIB)


def test_the_threads_stack_is_what_the_system_says() -> None:
    soft = resource.getrlimit(resource.RLIMIT_STACK)[0]
    assert thread_stack_bytes() == (soft if soft != resource.RLIM_INFINITY else 2 << 20)
