import pytest
import torch


@pytest.fixture(autouse=True)
def _the_same_weights_each_time() -> None:
    """What a test draws does not depend on the tests before it."""
    torch.manual_seed(0)
