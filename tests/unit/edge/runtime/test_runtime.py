"""The documented facade."""

from pathlib import Path

import numpy as np
import pytest

from edge.runtime import (
    BadInput,
    BadModule,
    DivisionByZero,
    Unreachable,
    WASMModelConfig,
    WebAssemblyRuntime,
)
from shared.errors import ConfigError, Unavailable
from tests.unit.edge.runtime.modules import (
    CALCULATOR,
    ECHO,
    affine_expected,
    affine_package,
    rows,
    wasm,
)
from tests.unit.edge.runtime.stories import story


def runtime(tmp_path: Path, data: bytes, **changes: object) -> WebAssemblyRuntime:
    path = tmp_path / "model"
    path.write_bytes(data)
    fields: dict[str, object] = {"model_name": "model", "wasm_path": path, "deadline_s": 10.0}
    return WebAssemblyRuntime(WASMModelConfig(**(fields | changes)))  # type: ignore[arg-type]


@story
async def test_a_model_answers_batches_single_items_and_lists(tmp_path: Path) -> None:
    model = runtime(tmp_path, affine_package(1, 8))
    assert await model.initialize()
    assert not await model.initialize()
    for data in (rows(10), rows(1), rows(1)[0], rows(2).tolist(), (rows(3),)):
        answer = await model.inference(data)
        assert answer is not None
        given = np.asarray(data[0] if isinstance(data, tuple) else data, np.float32)
        np.testing.assert_array_equal(answer, affine_expected(given), strict=True)
    assert await model.inference(rows(1), "no_such_function") is None
    await model.shutdown()
    await model.shutdown()


@story
async def test_a_bad_member_is_none_and_its_error_is_kept(tmp_path: Path) -> None:
    model = runtime(tmp_path, affine_package(1, 8))
    await model.initialize()
    batch = [rows(1)[0] + number for number in range(12)]
    batch[2] = rows(1)[0, :2]
    batch[5] = rows(1)[0] + 13
    answers = await model.batch_inference(batch, "fail")
    assert [number for number, answer in enumerate(answers) if answer is None] == [2, 5]
    assert isinstance(model.errors[2], BadInput)
    assert isinstance(model.errors[5], Unreachable)
    for number in (0, 1, 3, 4, 6, 11):
        answer = answers[number]
        assert answer is not None
        np.testing.assert_array_equal(answer, rows(1)[0] + number, strict=True)
    assert await model.batch_inference(batch[:1]) is not None
    assert model.errors == {}
    assert await model.batch_inference(batch[:2], "absent") == [None, None]
    await model.shutdown()


@story
async def test_commands_speak_json_and_plain_modules_numbers(tmp_path: Path) -> None:
    command = runtime(tmp_path, ECHO)
    await command.initialize()
    for data in ([1, 2, 3], np.array([1, 2, 3]), b"[1, 2, 3]"):
        answer = await command.inference(data)
        assert answer is not None
        assert answer.tolist() == [1, 2, 3]
    await command.shutdown()
    calculator = runtime(tmp_path, wasm(CALCULATOR))
    await calculator.initialize()
    answer = await calculator.inference((2, 3), "add")
    assert answer is not None
    assert answer.tolist() == [5]
    answers = await calculator.batch_inference([(8, 2), (1, 0), np.array([9, 3])], "divide")
    assert [None if one is None else one.tolist() for one in answers] == [[4], None, [3]]
    assert isinstance(calculator.errors[1], DivisionByZero)
    await calculator.shutdown()


@story
async def test_an_error_is_typed_and_says_what_to_do(tmp_path: Path) -> None:
    model = runtime(tmp_path, affine_package())
    with pytest.raises(Unavailable, match="initialize"):
        await model.inference(rows(1))
    await model.initialize()
    with pytest.raises(BadInput, match=r"run takes float32\[n, 4\]"):
        await model.inference(rows(1).astype(np.int64))
    with pytest.raises(BadInput, match="float32"):
        await model.inference("nonsense")
    with pytest.raises(BadInput, match="2 arrays as a tuple"):
        await model.inference(rows(1), "train_step")
    await model.shutdown()


@story
async def test_a_model_that_can_not_be_loaded_can_be_tried_again(tmp_path: Path) -> None:
    model = runtime(tmp_path, b"junk")
    with pytest.raises(BadModule):
        await model.initialize()
    Path(model.config.wasm_path).write_bytes(affine_package())
    assert await model.initialize()
    await model.shutdown()


@story
async def test_the_limits_of_the_configuration_hold(tmp_path: Path) -> None:
    model = runtime(tmp_path, affine_package(), enable_simd=False)
    with pytest.raises(BadModule, match="SIMD"):
        await model.initialize()
    with pytest.raises(ConfigError, match="stack_bytes_max"):
        runtime(tmp_path, b"", stack_size=1)
    with pytest.raises(ConfigError, match="memory_bytes_max"):
        runtime(tmp_path, b"", memory_limit=0)
    with pytest.raises(ConfigError, match="model_name"):
        runtime(tmp_path, b"", model_name="")
    with pytest.raises(ConfigError, match="device_key"):
        runtime(tmp_path, b"", cache_dir=tmp_path)


def test_the_device_key_is_never_printed(tmp_path: Path) -> None:
    config = runtime(tmp_path, b"", device_key=b"secret" * 4).config
    assert "secret" not in repr(config)
