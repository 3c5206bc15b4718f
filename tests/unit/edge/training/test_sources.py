"""Where examples come from, and what is said when they are no good."""

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.training.examples import BadData, examples_of, held_out
from edge.training.recorder import Recorder
from edge.training.sources import KEPT_BYTES_MAX, Counting, Kept, NpzFile, fields_of, sources_of
from edge.training.windows import Readings, Windows, windows_of
from shared.config import SourceSection
from shared.errors import ConfigError
from shared.learning import Source

X, Y = np.arange(40, dtype=np.float32).reshape(20, 2), np.arange(20)


def npz(folder: Path, **arrays: object) -> NpzFile:
    np.savez(folder / "a.npz", **arrays)
    return NpzFile(folder / "a.npz", 0.25, "a")


def recorded(folder: Path, n: int, rows_max: int = 1000) -> Recorder:
    recorder = Recorder(folder, ("load",), rows_max)
    for value in range(n):
        assert recorder.record({"load": float(value), "other": 1.0})
    return recorder


def test_a_file_that_gives_its_own_split_keeps_it(tmp_path: Path):
    data = npz(tmp_path, x=X[:15], y=Y[:15], x_held=X[15:], y_held=Y[15:]).read()
    assert data.counts == Source(samples=15, held_out=5)
    np.testing.assert_array_equal(data.y_held, Y[15:])


def test_else_some_are_held_out_the_same_ones_every_time(tmp_path: Path):
    one, other = npz(tmp_path, x=X, y=Y).read(), npz(tmp_path, x=X, y=Y).read()
    np.testing.assert_array_equal(one.y_held, other.y_held)
    assert sorted([*one.y, *one.y_held]) == list(range(20))
    assert 0 < len(one.y_held) < 10


def test_a_file_is_read_again_when_it_has_changed_and_only_then(tmp_path: Path):
    file = npz(tmp_path, x=X, y=Y)
    source = Kept(file)
    first = source.read()
    assert source.read() is first
    assert source.stamp() == file.stamp()
    npz(tmp_path, x=X[:5], y=Y[:5])
    assert source.read().counts != first.counts
    file.path.unlink()
    with pytest.raises(BadData, match="is not there"):
        source.read()


def test_examples_that_are_many_do_not_stay_in_memory(tmp_path: Path):
    many = np.zeros((KEPT_BYTES_MAX // 8 + 1, 2), np.float32)
    source = Kept(npz(tmp_path, x=many, y=many[:, 0]))
    assert source.read() is not source.read()


@given(st.integers(0, 200), st.integers(0, 200), st.floats(0, 1), st.text())
def test_what_is_held_out_stays_so_when_more_comes(n: int, more: int, ratio: float, seed: str):
    before, after = (held_out(np.arange(size), ratio, seed) for size in (n, n + more))
    np.testing.assert_array_equal(before, after[:n])


def test_the_ratio_is_kept_on_average():
    assert abs(held_out(np.arange(100_000), 0.2, "seed").mean() - 0.2) < 0.005


@pytest.mark.parametrize(
    ("arrays", "why"),
    [
        ({"x": X}, "there is no array 'y'; there are x"),
        ({"x": X, "y": Y[:5]}, "20 examples in x, 5 in y"),
        ({"x": X, "y": np.array(["a"] * 20)}, "y holds <U1; numbers are wanted"),
        ({"x": X, "y": np.float32(3)}, "y is a single number"),
        ({"x": X * np.nan, "y": Y}, "x holds numbers that are not finite"),
        ({"x": X, "y": Y, "x_held": X}, "there is no array 'y_held'"),
        ({"x": X, "y": Y, "x_held": X[:, :1], "y_held": Y}, "the items differ in shape"),
    ],
)
def test_bad_arrays_are_refused_with_the_reason(arrays: dict[str, object], why: str):
    with pytest.raises(BadData, match=why):
        examples_of(arrays, 0.2, "s")


def test_files_that_are_none_are_refused(tmp_path: Path):
    with pytest.raises(BadData, match="is not there"):
        NpzFile(tmp_path / "none.npz", 0.2, "s").read()
    (tmp_path / "a.npz").write_bytes(b"nonsense")
    with pytest.raises(BadData, match=r"no \.npz file of plain arrays"):
        NpzFile(tmp_path / "a.npz", 0.2, "s").read()
    with pytest.raises(BadData, match="plain arrays"):
        npz(tmp_path, x=np.array([{}, {}], dtype=object), y=Y[:2]).read()


def test_a_file_that_would_unpack_to_too_much_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("edge.training.sources.FILE_BYTES_MAX", 1000)
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((10_000, 2)), y=np.zeros(10_000))
    with pytest.raises(BadData, match="the limit is 1000"):
        NpzFile(tmp_path / "a.npz", 0.2, "s").read()


def test_counting_reads_again_only_what_changed(tmp_path: Path):
    class Once:
        def __init__(self) -> None:
            self.reads, self.version = 0, 1

        def stamp(self) -> object:
            return self.version

        def read(self):
            self.reads += 1
            if self.version == 2:
                raise BadData("broken")
            return examples_of({"x": X, "y": Y}, 0.0, "s")

    source = Once()
    counting = Counting({"a": source})
    assert counting.count() == counting.count() == ({"a": Source(samples=20)}, {})
    assert source.reads == 1
    source.version = 2
    assert counting.count() == ({}, {"a": "broken"})


def test_a_function_of_the_operator_is_called(tmp_path: Path):
    module = ModuleType("operators_data")
    module.good = lambda: {"x": X, "y": Y}  # type: ignore[attr-defined]
    module.list = lambda: [X, Y]  # type: ignore[attr-defined]
    sys.modules["operators_data"] = module
    try:
        sections = {name: f"operators_data:{name}" for name in ("good", "list", "gone")}
        sources = sources_of(sections, tmp_path, 0.0, Recorder(tmp_path, ()))
        assert sources["good"].read().counts == Source(samples=20)
        with pytest.raises(BadData, match="gave list; a map with x and y"):
            sources["list"].read()
        with pytest.raises(BadData, match="AttributeError"):
            sources["gone"].read()
    finally:
        del sys.modules["operators_data"]


@pytest.mark.parametrize(
    ("name", "section", "why"),
    [
        ("Bad Name", "a.npz", "a source's name is"),
        ("a", SourceSection(), "give one of file, function and fields"),
        ("a", SourceSection(file="a.npz", fields=("load",)), "give one of"),
        ("a", "module.function", "not of the form package.module:function"),
        ("a", SourceSection(fields=("load",), window=0), "at least 1"),
    ],
)
def test_sources_that_cannot_work_are_refused_at_the_start(tmp_path: Path, name, section, why):
    with pytest.raises(ConfigError, match=why):
        sources_of({name: section}, tmp_path, 0.2, Recorder(tmp_path, ()))


# Windows over what was recorded -----------------------------------------------------------------------


def test_a_window_and_what_comes_after_it():
    readings = Readings(("load", "heat"), np.arange(20, dtype=np.float32).reshape(10, 2))
    data = windows_of(readings, Windows(("heat", "load"), length=3, ahead=2, stride=2), 0.0, "s")
    np.testing.assert_array_equal(data.x[1], [[5, 4], [7, 6], [9, 8]])
    np.testing.assert_array_equal(data.y[1], [13])
    assert (data.x.shape, data.y.shape) == ((3, 3, 2), (3, 1))
    rebuilt = windows_of(readings, Windows(("load",), length=3, ahead=0), 0.0, "s")
    np.testing.assert_array_equal(rebuilt.x, rebuilt.y)


@settings(max_examples=50)
@given(st.integers(1, 6), st.integers(0, 3), st.integers(1, 4), st.integers(0, 300))
def test_no_reading_is_both_trained_on_and_held_out(length: int, ahead: int, stride: int, first: int):
    windows = Windows(("load",), length, ahead, stride)
    values = np.arange(first, first + 400, dtype=np.float32)[:, None]
    data = windows_of(Readings(("load",), values, first), windows, 0.3, "s")

    def touched(x: np.ndarray, y: np.ndarray) -> set[float]:
        return {*map(float, x.ravel()), *map(float, y.ravel())}

    assert not touched(data.x, data.y) & touched(data.x_held, data.y_held)
    assert not len(data.x) or (data.x[:, 0, 0] % stride == 0).all()
    later = windows_of(Readings(("load",), values[50:], first + 50), windows, 0.3, "s")
    assert touched(later.x_held, later.y_held) <= touched(data.x_held, data.y_held)


def test_too_few_readings_and_unknown_fields_are_said():
    with pytest.raises(BadData, match="2 readings are recorded; one example takes 5"):
        windows_of(Readings(("load",), np.zeros((2, 1), np.float32)), Windows(("load",), 4), 0.2, "s")
    with pytest.raises(BadData, match="no reading has heat; recorded are load"):
        windows_of(Readings(("load",), np.zeros((9, 1), np.float32)), Windows(("heat",), 4), 0.2, "s")


def test_the_record_goes_on_after_a_restart_and_stays_bounded(tmp_path: Path):
    recorded(tmp_path, 30, rows_max=20)
    recorder = recorded(tmp_path, 5, rows_max=20)
    assert recorder.count == 35
    readings = recorder.readings()
    assert readings.first + len(readings.values) == 35
    assert 10 <= len(readings.values) <= 20
    np.testing.assert_array_equal(readings.values[-6:, 0], [29, 0, 1, 2, 3, 4])


def test_half_a_row_at_the_end_is_cut_off(tmp_path: Path):
    recorded(tmp_path, 3)
    with (tmp_path / "readings.new").open("ab") as file:
        file.write(b"\1\2")
    recorder = recorded(tmp_path, 1)
    np.testing.assert_array_equal(recorder.readings().values[:, 0], [0, 1, 2, 0])


def test_a_reading_without_the_field_is_not_recorded(tmp_path: Path):
    recorder = recorded(tmp_path, 2)
    assert not recorder.record({"other": 1.0})
    assert not recorder.record({"load": float("nan")})
    assert recorder.count == 2
    assert not Recorder(tmp_path / "unused", ()).record({"load": 1.0})
    assert not (tmp_path / "unused").exists()


def test_other_fields_begin_a_new_record(tmp_path: Path):
    recorded(tmp_path, 5)
    other = Recorder(tmp_path, ("heat",))
    assert other.record({"heat": 2.0})
    np.testing.assert_array_equal(other.readings().values, [[2.0]])


def test_the_fields_of_all_sources_are_recorded_and_become_examples(tmp_path: Path):
    sections = {"load": SourceSection(fields=("load",), window=4), "file": "a.npz"}
    assert fields_of(sections) == ("load",)
    source = sources_of(sections, tmp_path, 0.0, recorded(tmp_path, 100))["load"]
    assert source.read().counts == Source(samples=96)
    assert source.stamp() == 100 // 40
