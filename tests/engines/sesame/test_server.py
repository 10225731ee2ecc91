"""CSM through the real server, on a tiny checkpoint: many listeners, one of them slow, some of them gone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import trio

from tests.conftest import Json, RunningServer, StartServer, Wire, audio_of, replies_of
from tts_provider.engines.catalog import Entry
from tts_provider.engines.sesame import SesameEngine

pytest.importorskip("torch", reason="CSM needs torch")

TEXTS = [f"Speaker number {number} says this, and nothing else." for number in range(6)]
LOAD_S = 60


async def started(start_server: StartServer, checkpoint: Path, slots: int = 4) -> tuple[RunningServer, SesameEngine]:
    engine = SesameEngine(model=str(checkpoint), slots=slots, device="cpu")
    entry = Entry(name="sesame", sample_rate=24_000, create=lambda: engine, aliases=("csm",))
    server = await start_server(entry, default_model="sesame")
    async with server.connect() as client:
        await client.send({"command": "preload", "model": "csm"})
        with trio.fail_after(LOAD_S):
            assert (await client.reply())["ready"]
    return server, engine


async def alone(server: RunningServer, text: str) -> bytes:
    async with server.connect() as client:
        await client.send(request(text))
        return audio_of(await client.until("success"))


def request(text: str, request_id: str = "r") -> dict[str, object]:
    """Greedy, so that a text always sounds the same."""
    extra = {"temperature": 0}
    return {"text": text, "stream": True, "final_wav": False, "extra_params": extra, "request_id": request_id}


async def slots_are_free(engine: SesameEngine) -> None:
    """Within a step or two of everybody's leaving."""
    with trio.fail_after(5):
        # The engine has no event for it, and a step in its thread cannot be hurried.
        while (statistics := engine.statistics()) is None or statistics.held or statistics.running:  # noqa: ASYNC110
            await trio.sleep(0.01)


async def test_six_requests_share_four_slots(start_server: StartServer, checkpoint: Path) -> None:
    """One is cancelled and one is read slowly; each of the others hears what it would have heard alone."""
    server, engine = await started(start_server, checkpoint)
    heard: dict[int, bytes] = {}
    queued: list[int] = []

    async def listen(number: int, client: Wire) -> None:
        await client.send(request(TEXTS[number]))
        messages: list[Json | bytes] = []
        while not messages or not isinstance(messages[-1], dict) or messages[-1]["status"] not in ("success", "cancelled"):
            messages.append(message := await client.receive())
            if number == 1 and isinstance(message, bytes) and len(audio_of(messages)) == len(message):
                await client.send({"command": "cancel"})
            if number == 2:
                await trio.sleep(0.02)
        queued.extend(reply["queue_position"] for reply in replies_of(messages, "queued"))
        heard[number] = b"cancelled" if replies_of(messages, "cancelled") else audio_of(messages)

    async with trio.open_nursery() as nursery:

        async def one(number: int) -> None:
            async with server.connect() as client:
                await listen(number, client)

        for number in range(6):
            nursery.start_soon(one, number)
    await slots_are_free(engine)
    assert heard.pop(1) == b"cancelled"
    assert queued
    for number, pcm in heard.items():
        expected = np.frombuffer(await alone(server, TEXTS[number]), "<i2").astype(int)
        samples = np.frombuffer(pcm, "<i2").astype(int)
        assert samples.size == expected.size > 0
        # Rows of a batch differ by rounding in fp32; one step of 16 bits is the most that becomes of it.
        assert np.abs(samples - expected).max() <= 1


@pytest.mark.parametrize("phase", ["at once", "after the announcement", "after the first audio", "in the middle"])
async def test_a_client_that_goes_leaves_its_slot(start_server: StartServer, checkpoint: Path, phase: str) -> None:
    server, engine = await started(start_server, checkpoint, slots=1)
    async with server.connect() as client:
        await client.send(request("A long text that goes on for some time. " * 5))
        for _ in range({"at once": 0, "after the announcement": 1, "after the first audio": 3, "in the middle": 12}[phase]):
            await client.receive()
        await client.drop()
    await slots_are_free(engine)
    assert await alone(server, "The next one.")
