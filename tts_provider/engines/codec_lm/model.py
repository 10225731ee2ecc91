"""What a model implements to be batched: rows of state called slots, stepped together, entered and left between steps.

Rules, for the model:

* Everything here is called in a worker thread, one call at a time, not always the same thread: thread-local settings such as
  ``torch.inference_mode`` belong inside each call.
* A slot is *running* from its join until its `Output` has a `finish`, or until it is in `leaves`. Running slots are stepped;
  all others cost nothing that matters.
* A slot that finished keeps its context, for the next join may continue it (`Join.fresh` is False). A slot in `leaves` is
  forgotten: its next join is fresh.
* What a row says depends on its own joins alone, never on its neighbours: noise comes from a generator of the row's own.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from tts_provider.engines.base import ProgressReport, Samples

__all__ = ["FinishReason", "Join", "Output", "SlotModel"]

PromptT_co = TypeVar("PromptT_co", covariant=True)
PromptT_contra = TypeVar("PromptT_contra", contravariant=True)


class FinishReason(enum.StrEnum):
    """Why a row stopped speaking."""

    STOP = "stop"
    """The model said that it was done."""
    LENGTH = "length"
    """The cap on frames was reached; the end may be missing, or be nonsense."""
    SILENCE = "silence"
    """The model went on in silence after the text should have been spoken."""
    REPETITION = "repetition"
    """The model repeated the same frame and would not have stopped."""
    MEMORY = "memory"
    """There was no memory to take the prompt in; the slot is forgotten, and the request fails alone."""


@dataclass(frozen=True, slots=True)
class Join(Generic[PromptT_co]):
    """A prompt that enters a slot before the step's first frame."""

    slot: int
    prompt: PromptT_co
    """Whatever the model needs; made by the engine beforehand, never by the scheduler."""
    max_frames: int
    """The row ends with `FinishReason.LENGTH` at this many frames."""
    fresh: bool
    """True: the slot belongs to somebody new, or its last row was cut off; forget what it held. False: the same request goes
    on where its last row finished."""


@dataclass(frozen=True, slots=True)
class Output:
    """What one running slot made in one step."""

    slot: int
    audio: Samples
    """The samples that became final in this step, in order; may be empty, as models hold back what they are not sure of."""
    frames: int
    """Frames computed for the row in this step."""
    finish: FinishReason | None = None
    """Set when the row is done; `audio` then holds the last of it."""


class SlotModel(Protocol[PromptT_contra]):
    """A model with a fixed number of rows."""

    @property
    def slots(self) -> int:
        """How many rows there are; constant, and known before `load`. Numbered from 0; low numbers are used first."""

    def load(self, report: ProgressReport) -> None:
        """Load, warm up, capture graphs: everything before the first step.

        `report` may be called from any thread. It raises when loading has been cancelled: let that through.

        Raises:
            EngineUnavailable: it cannot be loaded; the message says what to do.
        """

    def step(self, joins: Sequence[Join[PromptT_contra]], leaves: Sequence[int], frames: int) -> Sequence[Output]:
        """Forget `leaves`, prefill `joins`, then compute up to `frames` frames for every running slot.

        Returns one output for each slot that was running, those that finished included; a slot that has nothing to tell may
        be left out. With nothing running it only does the leaves. A slot may be in `leaves` and in `joins` of one call.
        A join for which memory is short is answered with `memory.no_memory`. When memory runs short elsewhere and that is
        raised, all that are speaking fail and are in the next `leaves`. Anything else that is raised is fatal: all that are
        speaking fail, and the model is unloaded.
        """

    def unload(self) -> None:
        """Free what `load` took; also called after a `load` that failed half-way."""
