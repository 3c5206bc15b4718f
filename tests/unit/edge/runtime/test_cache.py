import os
from pathlib import Path

import pytest
from wasmtime import Config, Engine, Module

from edge.runtime.cache import CompiledCache
from shared.errors import ConfigError
from tests.unit.edge.runtime.modules import CALCULATOR, affine, wasm

KEY = b"k" * 32


@pytest.fixture
def cache(tmp_path: Path) -> CompiledCache:
    return CompiledCache(tmp_path / "compiled", KEY)


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def module(engine: Engine) -> Module:
    return Module(engine, wasm(CALCULATOR))


def only_file(cache: CompiledCache) -> Path:
    (path,) = cache.directory.iterdir()
    return path


def test_what_was_saved_is_loaded(cache: CompiledCache, engine: Engine, module: Module) -> None:
    assert cache.load(engine, "one") is None
    cache.save("one", module)
    loaded = cache.load(engine, "one")
    assert loaded is not None
    assert [export.name for export in loaded.exports] == [export.name for export in module.exports]
    assert (cache.stats.hits, cache.stats.misses, cache.stats.rejected) == (1, 1, 0)


@pytest.mark.parametrize("at", [0, 8, 39, 40, 1000, -1])
def test_one_flipped_bit_anywhere_is_rejected_and_counted(
    cache: CompiledCache, engine: Engine, module: Module, at: int
) -> None:
    cache.save("one", module)
    data = bytearray(only_file(cache).read_bytes())
    data[at] ^= 1
    only_file(cache).write_bytes(data)
    assert cache.load(engine, "one") is None
    assert cache.stats.rejected == 1


@pytest.mark.parametrize("size", [0, 7, 20, 40, 500])
def test_a_torn_file_is_rejected(cache: CompiledCache, engine: Engine, module: Module, size: int) -> None:
    cache.save("one", module)
    os.truncate(only_file(cache), size)
    assert cache.load(engine, "one") is None
    assert cache.stats.rejected == 1


def test_a_file_that_another_device_wrote_is_rejected(
    cache: CompiledCache, engine: Engine, module: Module
) -> None:
    CompiledCache(cache.directory, b"x" * 32).save("one", module)
    assert cache.load(engine, "one") is None
    assert cache.stats.rejected == 1


def test_a_file_can_not_be_passed_off_as_another_modules(
    cache: CompiledCache, engine: Engine, module: Module
) -> None:
    cache.save("one", module)
    honest = only_file(cache)
    cache.save("two", Module(engine, affine()))
    (other,) = set(cache.directory.iterdir()) - {honest}
    os.replace(honest, other)
    assert cache.load(engine, "two") is None
    assert cache.stats.rejected == 1


def test_code_of_an_engine_with_other_settings_is_rejected(cache: CompiledCache, engine: Engine) -> None:
    config = Config()
    config.epoch_interruption = True
    cache.save("one", Module(Engine(config), wasm(CALCULATOR)))
    assert cache.load(engine, "one") is None
    assert cache.stats.rejected == 1


def test_the_oldest_go_when_the_directory_is_full(tmp_path: Path, engine: Engine, module: Module) -> None:
    size = len(module.serialize()) + 40
    cache = CompiledCache(tmp_path, KEY, bytes_max=2 * size)
    for age, name in enumerate(["one", "two", "three"]):
        cache.save(name, module)
        for path in tmp_path.iterdir():
            os.utime(path, ns=(0, path.stat().st_mtime_ns - 10**9 * (age + 1)))
    assert len(list(tmp_path.iterdir())) == 2
    assert cache.load(engine, "one") is None
    assert cache.load(engine, "three") is not None


def test_a_directory_that_can_not_be_written_costs_only_time(tmp_path: Path, module: Module) -> None:
    cache = CompiledCache(tmp_path / "compiled", KEY)
    cache.directory.rmdir()
    cache.save("one", module)
    assert cache.stats.write_errors == 1


def test_nothing_half_written_is_left_behind(cache: CompiledCache, module: Module) -> None:
    for _ in range(3):
        cache.save("one", module)
    assert [path.suffix for path in cache.directory.iterdir()] == [".cwasm"]


def test_a_short_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="16 or more"):
        CompiledCache(tmp_path, b"short")
