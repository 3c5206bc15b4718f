"""The device's own door, wherever its folder is."""

import asyncio
from pathlib import Path

import pytest

from edge.agent.local import LocalInfer, LocalRequest, ask_locally, serve_locally
from shared.errors import Unavailable
from shared.messages import Reply
from shared.tensors import pack_inputs

ASK = LocalInfer(model="digits", inputs=pack_inputs(b"{}"))


async def answer(request: LocalRequest) -> Reply:
    assert isinstance(request, LocalInfer)
    return Reply(correlation=request.model)


@pytest.mark.parametrize("levels", [0, 4])
def test_it_opens_however_deep_the_folder_lies(tmp_path: Path, levels: int) -> None:
    folder = tmp_path.joinpath(*["a-folder-with-a-rather-long-name"] * levels)
    folder.mkdir(parents=True, exist_ok=True)

    async def story() -> Reply:
        async with serve_locally(folder, answer):
            assert (folder / "agent.sock").stat().st_mode & 0o777 == 0o600
            return await ask_locally(folder, ASK)

    assert asyncio.run(story()).correlation == "digits"
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("levels", [0, 4])
def test_nobody_there_is_said(tmp_path: Path, levels: int) -> None:
    folder = tmp_path.joinpath(*["a-folder-with-a-rather-long-name"] * levels)
    folder.mkdir(parents=True, exist_ok=True)
    with pytest.raises(Unavailable, match="no agent answers"):
        asyncio.run(ask_locally(folder, ASK))
