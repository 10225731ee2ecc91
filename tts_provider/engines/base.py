"""The contract between the core and an engine.

An *engine* turns text into speech: espeak-ng in a worker process, Microsoft Edge over a socket, CSM and Zonos on a GPU. A
*session* is one utterance's hold on an engine: a connection for Edge, a slot for a batching engine that continues from
sentence to sentence. The core opens one session per request, gives it chunks of text and receives audio through a *sink*.

    async with engine.session(choice, options) as session:
        await session.say(chunk, sink)        # pushes audio until the chunk is spoken

Rules of the contract:

* `Engine.run` is the engine's life. It loads, calls ``task_status.started()``, keeps whatever tasks the engine needs and stays
  until it is cancelled, which unloads. `resolve`, `voices` and `session` are called only in between.
* `Session.say` returns when the chunk's last sample has been pushed. Cancelling it stops the work where it is made, within
  one step of the engine, and leaves the engine usable by others.
* Audio is mono float32 at `Capabilities.sample_rate`, nominally within [-1, 1], in blocks of whatever size the engine likes.
* Pushing waits while the listener is slow: that is the backpressure. An engine that serves several listeners at once must not
  let one listener's sink hold up the others.
* A word's mark is pushed no later than the audio that follows the word's end.
* Only errors of `tts_provider.errors` leave an engine. Audio that ended early is an error, never a short success.
* Importing an engine's module imports nothing heavy; that happens in `run`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import trio

__all__ = [
    "Capabilities",
    "Engine",
    "Gender",
    "ProgressReport",
    "QueueReport",
    "Samples",
    "Session",
    "Sink",
    "SpeechChunk",
    "SpeechOptions",
    "Voice",
    "VoiceChoice",
    "VoiceRequest",
    "WordMark",
    "WordTimings",
]

Samples = npt.NDArray[np.float32]
"""Mono audio, shape (n,), float32, nominally within [-1, 1]."""

Gender = Literal["male", "female"]

WordTimings = Literal["exact", "estimated"]

ProgressReport = Callable[[float | None, str], None]
"""Called while loading with the share done (0 to 1; None when unknown) and what is being done."""

QueueReport = Callable[[int], None]
"""Called while waiting for a slot with the position in the queue, 1 for the next to be served."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine can do; constant over its life."""

    sample_rate: int
    """Hz of the audio that its sessions push."""
    max_chunk_weight: int = 240
    """Longest piece of text for one `say`, in the weight of `streaming.sentences.weigh` (a CJK character counts 2)."""
    max_group_weight: int = 0
    """Above 0: short sentences are said together in one `say` up to this weight, for engines to which each call is dear.
    Needs exact word timings, by which the core finds the sentences in the audio."""
    parallel_chunks: int = 1
    """How many `say` calls of one session may run at the same time."""
    speed: bool = False
    """Whether `SpeechOptions.speed` is honoured."""
    word_timings: WordTimings = "estimated"
    """"exact": the engine pushes word marks. "estimated": it does not; the core spreads the words over the audio."""
    encodings: frozenset[str] = frozenset()
    """Formats in which the engine can push its own encoded audio untouched (`Sink.encoded`) at `sample_rate`."""
    options: frozenset[str] = frozenset()
    """Names that `SpeechOptions.extra` may hold; a client is told of others, and they do not reach the engine."""
    slots: int | None = None
    """How many sessions run at once; None when the engine sets no limit."""


@dataclass(frozen=True, slots=True)
class Voice:
    """One voice of an engine."""

    id: str
    """The engine's own name, as a client sends it in ``voice``."""
    name: str
    """For people."""
    language: str
    """IETF tag in its usual capitals, such as ``en-US``."""
    gender: Gender | None = None


@dataclass(frozen=True, slots=True)
class VoiceRequest:
    """Who shall speak, as the client said it; the engine decides what that means."""

    lang: str = "en-US"
    """An IETF tag as the client wrote it; not yet checked."""
    speaker: int = 0
    """Unified speaker id: 0 primary (US male), 1 secondary (US female), 2 tertiary (US male), 3 quaternary (UK female)."""
    voice: str | None = None
    """The engine's own voice name; wins over `speaker`, and over `lang` when the voice speaks one language only."""


@dataclass(frozen=True, slots=True)
class VoiceChoice:
    """Who will speak, as the engine decided."""

    voice: Voice
    lang: str
    """The tag that will be spoken, in its usual capitals."""
    speaker: int = 0
    warnings: tuple[str, ...] = ()
    """Sentences for the client: what was asked for and is not so."""


@dataclass(frozen=True, slots=True)
class SpeechOptions:
    """How a request shall be spoken."""

    speed: float = 1.0
    """Rate relative to the voice's own, 0.25 to 4."""
    words: bool = False
    """Whether anybody wants word marks."""
    encoding: str | None = None
    """One of `Capabilities.encodings`: push `Sink.encoded` instead of `Sink.audio`."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Options of one engine only (a sampling seed, an emotion), as the client sent them; names of `Capabilities.options`."""


@dataclass(frozen=True, slots=True)
class SpeechChunk:
    """A piece of the request's text to be said in one go: a sentence, part of a long one, or several short ones."""

    text: str
    """Exactly the characters from `start` to `end` of the request's text."""
    start: int = 0
    """Offset of `text` in the request's text, in code points."""
    index: int = 0
    """Position in the request, from 0, without gaps."""

    @property
    def end(self) -> int:
        """Offset one past the last character, in code points."""
        return self.start + len(self.text)


@dataclass(frozen=True, slots=True)
class WordMark:
    """Where a word is, in the chunk's text and in the chunk's audio."""

    start: int
    """Offset of the word's first character in `SpeechChunk.text`, in code points."""
    end: int
    """Offset one past its last character."""
    start_s: float
    """Seconds from the first sample that the session pushed for this chunk."""
    end_s: float


class Sink(Protocol):
    """Where a session pushes what it makes. Every method may wait; that is the backpressure."""

    async def audio(self, samples: Samples) -> None:
        """Push a block of the chunk's audio; empty blocks are legal and ignored."""

    async def encoded(self, data: bytes, seconds: float) -> None:
        """Push encoded audio that lasts `seconds`; only when `SpeechOptions.encoding` asked for it."""

    async def words(self, marks: Sequence[WordMark]) -> None:
        """Push word marks in the order of their start; exact engines only."""


class Session(Protocol):
    """One utterance's hold on an engine."""

    async def say(self, chunk: SpeechChunk, sink: Sink) -> None:
        """Speak `chunk` into `sink`; return when all of it has been pushed.

        Raises:
            EngineError: the chunk could not be spoken, or not to its end.
        """


class Engine(Protocol):
    """An engine, loaded or not."""

    @property
    def name(self) -> str:
        """Canonical name, lower case: the value of ``model`` on the wire."""

    @property
    def capabilities(self) -> Capabilities:
        """Constant, and known before loading."""

    async def run(self, report: ProgressReport, *, task_status: trio.TaskStatus[None]) -> None:
        """Load, say so through `task_status`, and stay until cancelled.

        Raises:
            EngineUnavailable: it cannot be loaded; the message says what to do.
        """

    def voices(self) -> Sequence[Voice]:
        """All voices, in a stable order."""

    def resolve(self, request: VoiceRequest) -> VoiceChoice:
        """Decide who speaks.

        Raises:
            UnsupportedLanguage: no voice speaks the tag; the message lists what is supported.
            UnknownSpeaker: there is no such voice or speaker; the message lists what there is, or the closest matches.
        """

    def session(
        self, choice: VoiceChoice, options: SpeechOptions, queued: QueueReport | None = None
    ) -> AbstractAsyncContextManager[Session]:
        """Open a session; waits for a slot where slots are scarce, telling `queued` each change of position.

        Raises:
            EngineError: no session can be had.
            InvalidRequest: an option in `SpeechOptions.extra` has a wrong value.
        """
