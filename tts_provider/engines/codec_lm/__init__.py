"""Continuous batching for models that speak frame by frame: fixed slots, joined and left at frame boundaries.

The room knows frames and slots, not models. A model implements `SlotModel` (load, step, unload: all of it runs in one worker
thread); an engine makes one `Scheduler` per `Engine.run` and maps its sessions onto slots:

    scheduler = Scheduler(model, queue_limit=32)
    await scheduler.run(report, task_status=task_status)            # loads, serves, unloads when cancelled

    async with scheduler.slot(queued) as slot:                      # waits in line; tells true positions
        async with slot.speak(prompt, max_frames=400) as speech:    # leaving early stops the row at the next frame boundary
            async for block in speech:                              # float32 mono, in order
                await sink.audio(block)
        speech.finish                                               # why it ended

A second `speak` in the same slot continues: the model is told so (`Join.fresh` is False) and may keep the row's context, as CSM
does; a model that says each sentence on its own ignores it. To say several sentences of one request side by side, take more
slots: ``scheduler.slot(wait=False)`` gives one only when it is free.
"""

from __future__ import annotations

from tts_provider.engines.codec_lm.model import FinishReason, Join, Output, SlotModel
from tts_provider.engines.codec_lm.scheduler import Scheduler, SchedulerStatistics, Slot, Speech

__all__ = [
    "FinishReason",
    "Join",
    "Output",
    "Scheduler",
    "SchedulerStatistics",
    "Slot",
    "SlotModel",
    "Speech",
]
