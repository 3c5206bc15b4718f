from hypothesis import given
from hypothesis import strategies as st

from edge.runtime.batching import Part, parts


@given(st.integers(1, 500), st.lists(st.integers(1, 64), min_size=1, max_size=4, unique=True))
def test_the_parts_cover_every_item_once_and_in_order(items: int, sizes: list[int]) -> None:
    plan = list(parts(items, sizes))
    assert [part.start for part in plan] == [sum(one.items for one in plan[:at]) for at in range(len(plan))]
    assert sum(part.items for part in plan) == items
    assert all(part.size in sizes and 0 < part.items <= part.size for part in plan)


@given(st.integers(1, 500), st.lists(st.integers(2, 64), max_size=3, unique=True))
def test_with_a_module_for_one_item_nothing_is_ever_padded(items: int, sizes: list[int]) -> None:
    assert all(part.size == part.items for part in parts(items, [1, *sizes]))


def test_only_the_rest_is_padded_and_on_the_smallest_module() -> None:
    assert list(parts(10, (32, 8))) == [Part(8, 0, 8), Part(8, 8, 2)]


def test_the_largest_module_takes_what_it_can() -> None:
    assert [part.size for part in parts(70, (1, 32))] == [32, 32, 1, 1, 1, 1, 1, 1]
