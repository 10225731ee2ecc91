from __future__ import annotations

import trio

from tests.engines.codec_lm.fake_model import FakeModel, Say
from tts_provider.engines.codec_lm import FinishReason, Scheduler


def ignore(share: float | None, doing: str) -> None:
    """A progress report that nobody reads."""


async def test_a_speech_brings_all_frames_in_order_and_the_reason_for_its_end(nursery: trio.Nursery) -> None:
    scheduler = Scheduler(FakeModel())
    await nursery.start(scheduler.run, ignore)
    async with scheduler.slot() as slot, slot.speak(Say(10, 5), max_frames=8) as speech:
        heard = [float(sample) async for block in speech for sample in block]
    assert heard == [10, 11, 12, 13, 14]
    assert speech.finish is FinishReason.STOP
    nursery.cancel_scope.cancel()
