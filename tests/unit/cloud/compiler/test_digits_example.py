"""The committed digits model is what its recipe makes, to the byte, and it reads digits."""

import tomllib
from pathlib import Path

import msgspec
import numpy as np
import pytest

from cloud.compiler import Runner
from cloud.compiler.trainer import Trainer
from examples.digits import build as recipe
from examples.digits.shards import deal, write_shards
from shared.learning import JobSpec
from shared.package import unpack
from shared.parameters import decode_parameters

FOLDER = Path(recipe.__file__).parent


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory):
    """Trained again from scratch."""
    folder = tmp_path_factory.mktemp("digits")
    built = recipe.build(say=lambda _line: None)
    recipe.write(built, folder)
    return built, folder


@pytest.fixture(scope="module")
def held_out():
    with np.load(FOLDER / "heldout.npz") as arrays:
        return dict(arrays)


FILES = ["digits.shoal", "digits-train.shoal", "heldout.npz", "train.npz", "digits.sha256", "README.md"]


@pytest.mark.parametrize("name", FILES)
def test_training_again_gives_the_committed_bytes(rebuilt, name):
    _, folder = rebuilt
    assert recipe.digest(folder / name) == recipe.digest(FOLDER / name)


def test_the_published_digests_are_those_of_the_files():
    for line in (FOLDER / "digits.sha256").read_text().splitlines():
        value, name = line.split()
        assert recipe.digest(FOLDER / name) == value


def test_the_compiled_model_and_torch_see_the_same_digit_in_every_held_out_image(held_out):
    run = Runner(unpack((FOLDER / "digits.shoal").read_bytes()))
    images = held_out["images"].astype(np.float32) / 16
    assert np.array_equal(run(images).argmax(axis=1), held_out["predictions"])
    one_by_one = np.concatenate([run(image[None]) for image in images[:40]])
    assert np.array_equal(one_by_one.argmax(axis=1), held_out["predictions"][:40])


def test_the_model_is_good(rebuilt, held_out):
    built, _ = rebuilt
    assert built.accuracy >= recipe.ACCURACY_MIN
    assert (held_out["predictions"] == held_out["labels"]).mean() == built.accuracy
    assert len(held_out["labels"]) == recipe.HELD_OUT


def test_no_held_out_image_was_trained_on(rebuilt):
    built, _ = rebuilt
    trained = {image.numpy().tobytes() for image in built.digits.train_images}
    assert len(built.digits.train_images) == 1297
    assert not any(image.numpy().tobytes() in trained for image in built.digits.held_out_images)


def test_every_parameter_lies_on_the_grid(rebuilt):
    built, _ = rebuilt
    for parameter in built.model.parameters():
        steps = parameter.detach().double() / recipe.GRID_STEP
        assert (steps == steps.round()).all()


def test_what_is_learned_can_be_served_by_the_names_of_the_parameters():
    served, trained = (
        decode_parameters(unpack((FOLDER / name).read_bytes()).parameters)
        for name in ("digits.shoal", "digits-train.shoal")
    )
    assert {name: one.shape for name, one in served.items()} == {
        name: one.shape for name, one in trained.items()
    }


def test_the_training_package_learns_from_the_shards(tmp_path, held_out):
    trainer = Trainer(unpack((FOLDER / "digits-train.shoal").read_bytes()))
    assert trainer.batch_size == recipe.BATCH
    shards = [dict(np.load(path)) for path in write_shards(tmp_path, 4)]
    x, y = (np.concatenate([shard[name] for shard in shards]) for name in ("x", "y"))
    order = np.random.default_rng(0)
    for _ in range(10):
        for batch in np.array_split(order.permutation(len(x)), len(x) // recipe.BATCH + 1):
            trainer.step(x[batch], y[batch], 0.1)
    images = held_out["images"].astype(np.float32) / 16
    hits = sum(
        trainer.evaluate(one[None], label[None])[1]
        for one, label in zip(images, held_out["labels"].astype(np.int64), strict=True)
    )
    assert hits / len(images) > 0.93


def test_the_digits_are_dealt_once_unevenly_and_the_same_way_again(tmp_path):
    first, again, other = (
        [path.read_bytes() for path in write_shards(tmp_path / name, 8, seed=seed)]
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert first == again != other
    with np.load(FOLDER / "train.npz") as arrays:
        labels = arrays["labels"]
    hands = deal(labels, 8, 0.5, np.random.default_rng(1))
    assert sorted(np.concatenate(hands)) == list(range(len(labels)))
    counts = np.array([np.bincount(labels[hand], minlength=10) for hand in hands])
    even = np.array(
        [
            np.bincount(labels[hand], minlength=10)
            for hand in deal(labels, 8, 1000.0, np.random.default_rng(1))
        ]
    )
    assert counts.std() > 4 * even.std()


def test_every_device_gets_something_however_many_there_are():
    labels = np.arange(1000) % 10
    hands = deal(labels, 200, 0.1, np.random.default_rng(0))
    assert [len(hand) for hand in hands] == [5] * 200
    with pytest.raises(ValueError, match="from 1 to 200"):
        deal(labels, 201, 0.1, np.random.default_rng(0))


def test_the_job_is_one_that_the_vocabulary_knows():
    spec = msgspec.convert(tomllib.loads((FOLDER / "learn.toml").read_text()), JobSpec)
    for name in (spec.package, spec.serve):
        assert (FOLDER / name).exists()
