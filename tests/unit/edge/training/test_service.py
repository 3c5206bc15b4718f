"""A device that learns, from the round to the receipt, with real WebAssembly and a real disk."""

import asyncio
from hashlib import sha256
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from cloud.compiler.training import compile_training
from edge.training.job import Phase
from edge.training.updates import Updates
from shared import learning as fl
from shared.package import pack
from tests.unit.edge.runtime.stories import story
from tests.unit.edge.training.device import RAW, Stage, accept, silence, until
from tests.unit.edge.training.test_trainer import BATCH, CLASSES, FEATURES, examples

TOPK = fl.Codec(name=fl.CodecName.TOPK)


@pytest.fixture(scope="module")
def compiled():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(FEATURES, 16), nn.ReLU(), nn.Linear(16, CLASSES))
    batch = torch.zeros(BATCH, FEATURES), torch.zeros(BATCH, dtype=torch.int64)
    made = compile_training(model, "cross_entropy", "sgd", batch, name="small")
    return pack(made.package), dict(made.initial)


@pytest.fixture
def stage(compiled, tmp_path: Path) -> Stage:
    data = examples()
    np.savez(tmp_path / "small.npz", x=data.x, y=data.y, x_held=data.x_held, y_held=data.y_held)
    return Stage(tmp_path, *compiled, tmp_path / "small.npz")


def parts(stage: Stage, number: int) -> int:
    return len(stage.cloud.parts.get(("digits", number), []))


@story
async def test_rounds_make_the_model_better(stage: Stage):
    cloud, losses = stage.cloud, []
    async with stage.device() as device:
        for number in range(4):
            cloud.say(cloud.fact(number))
            await until(lambda number=number: parts(stage, number))
            await until(lambda: device.core.jobs["digits"].phase is Phase.DONE)
            header, data = cloud.header(number), cloud.data(number)
            assert sha256(data).hexdigest() == header.digest
            assert (header.weight, header.steps, header.version) == (50, 14, number)
            losses.append(header.metrics["loss"] / header.metrics["count"])
            cloud.publish_version(cloud.vectors[number] + cloud.delta(number))
        assert losses == sorted(losses, reverse=True)
        assert losses[-1] < 0.7 * losses[0]
        device.versions.keep()
        assert sorted(device.versions.held()["digits"]) == [3], "no version before it was kept in time"
        snapshots = [cloud.refs[n].snapshot for n in range(4)]
        assert [one for one in device.required if one in snapshots] == snapshots[:1], "then differences"
        assert set(device.required) - set(device.released) == {cloud.package}
        assert not Updates(stage.folder / "device" / "updates").restore(0.0)
    learner = cloud.learners[0]
    assert learner.sources == {"small": fl.Source(samples=50, held_out=13)}
    assert (learner.epoch, learner.room) == (7, 1)


@story
async def test_an_update_survives_a_restart_and_is_not_trained_again(stage: Stage):
    cloud = stage.cloud
    cloud.answer = silence
    async with stage.device():
        cloud.say(cloud.fact(1))
        await until(lambda: parts(stage, 1))
    first = cloud.parts.pop(("digits", 1))[0]
    async with stage.device() as device:
        await until(lambda: parts(stage, 1))
        assert cloud.parts["digits", 1][0] == first, "the same bits"
        assert not device.core.working
        cloud.answer = accept
        await until(lambda: not device.core.outbox.waiting)
    heard = parts(stage, 1)
    async with stage.device() as device:
        await asyncio.sleep(0.5)
        assert parts(stage, 1) == heard, "it remembers that it answered"


@story
async def test_a_cancelled_round_sends_nothing(stage: Stage):
    cloud = stage.cloud
    endless = fl.TrainingPlan(source="small", epochs=10**9)
    async with stage.device() as device:
        cloud.say(cloud.fact(1, plan=endless))
        await until(lambda: device.core.working)
        cloud.say(cloud.fact(1, phase=fl.Phase.ERROR, cohort=()))
        await until(lambda: not device.core.working)
        assert device.core.jobs["digits"].phase is Phase.DONE
        cloud.say(cloud.fact(2))
        await until(lambda: parts(stage, 2))
    assert not parts(stage, 1)


@story
async def test_an_evaluation_has_metrics_and_no_bytes(stage: Stage):
    cloud = stage.cloud
    async with stage.device() as device:
        cloud.say(cloud.fact(1, task=fl.Task.EVALUATE))
        await until(lambda: parts(stage, 1))
        header = cloud.header(1)
        assert (header.task, header.size_bytes, header.weight) == (fl.Task.EVALUATE, 0, 13)
        assert header.metrics["count"] == 13
        assert header.digest == sha256(b"").hexdigest()
        await until(lambda: device.core.jobs["digits"].phase is Phase.DONE)


@story
async def test_what_was_left_out_is_added_next_time_if_the_update_was_accepted(stage: Stage):
    cloud = stage.cloud
    async with stage.device() as device:
        cloud.say(cloud.fact(1, codec=TOPK))
        await until(lambda: parts(stage, 1) and not device.core.outbox.waiting)
        rest = device.updates.rest("digits", cloud.layout.n_params)
        assert rest is not None
        said = np.flatnonzero(cloud.delta(1))
        assert len(said) <= 0.11 * cloud.layout.n_params
        assert np.abs(rest).max() <= np.abs(cloud.delta(1)[said]).max()

        def refuse(job: str, number: int, part: fl.UpdatePart) -> fl.Receipt:
            return fl.Receipt(round=number, digest=part.digest, status=fl.ReceiptStatus.LATE)

        cloud.answer = refuse
        cloud.say(cloud.fact(2, codec=TOPK))
        await until(lambda: parts(stage, 2) and not device.core.outbox.waiting)
        again = device.updates.rest("digits", cloud.layout.n_params)
        np.testing.assert_array_equal(again, rest)
        # The next one says everything: its own delta and the rest.
        cloud.answer = accept
        cloud.say(cloud.fact(3, version=0, codec=fl.Codec(name=fl.CodecName.F32, feedback=False)))
        await until(lambda: parts(stage, 3) and not device.core.outbox.waiting)
        np.testing.assert_array_equal(device.updates.rest("digits", cloud.layout.n_params), rest)
        cloud.say(cloud.fact(4, codec=RAW, seed=0))
        await until(lambda: parts(stage, 4) and not device.core.outbox.waiting)
        assert not device.updates.rest("digits", cloud.layout.n_params).any()


@story
async def test_bad_data_and_a_lost_version_are_survived(stage: Stage):
    cloud = stage.cloud
    async with stage.device() as device:
        cloud.say(cloud.fact(1))
        await until(lambda: parts(stage, 1) and not device.core.outbox.waiting)
        device.versions.keep()
    for path in (stage.folder / "device" / "versions").glob("*/*.f32"):
        path.write_bytes(b"torn")
    async with stage.device() as device:  # nothing is in memory any more
        cloud.say(cloud.fact(2))
        await until(lambda: "digits" in device.core.jobs)
        await until(lambda: "damaged" in device.core.jobs["digits"].detail)
        cloud.say(cloud.fact(3))
        await until(lambda: parts(stage, 3))
        stage.data.write_bytes(b"not a zip file")
        cloud.say(cloud.fact(4))
        await until(lambda: "no .npz file" in device.core.jobs["digits"].detail)


@story
async def test_a_model_that_is_not_the_announced_one_is_not_trained(stage: Stage):
    cloud = stage.cloud
    lie = msgspec.structs.replace(cloud.refs[0], check="0" * 64)
    async with stage.device() as device:
        cloud.say(cloud.fact(1, model=lie))
        await until(lambda: "digits" in device.core.jobs)
        await until(lambda: "not the one that was announced" in device.core.jobs["digits"].detail)
        assert not device.versions.held()
