"""The committed digits model is what its recipe makes, to the byte, and it reads digits."""

from pathlib import Path

import numpy as np
import pytest

from cloud.compiler import Runner
from examples.digits import build as recipe
from shared.package import unpack

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


@pytest.mark.parametrize("name", ["digits.shoal", "heldout.npz", "digits.sha256", "README.md"])
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
