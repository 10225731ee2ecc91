"""Everything that goes wrong in the field ends in one clear error, or in audio that is whole."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import trio
import trio.testing

from tests.edge_service import EdgeService, Fault, Rule, Settings, VoicesAnswer, speak
from tests.engines.edge.harness import QUICK, RecordingSink, engine_on, failure_of, happened, say
from tts_provider.engines.base import SpeechOptions
from tts_provider.engines.edge import Deadlines, EdgeEngine
from tts_provider.engines.edge.mp3 import Mp3Decoder
from tts_provider.errors import (
    EngineUnavailable,
    NoAudio,
    Overloaded,
    SynthesisFailed,
    SynthesisTimeout,
    TTSError,
)

TEXT = "Here is something to say. It is not long."
WHOLE = Mp3Decoder().decode(speak(TEXT).mp3, last=True)
MP3 = SpeechOptions(encoding="mp3")


@pytest.fixture
def paced() -> Iterator[EdgeService]:
    """A service slow enough for the first half of a turn to have been heard when its second half goes wrong."""
    with EdgeService(Settings(pace=10.0)) as service:
        yield service
        assert service.journal.events("invalid") == []


AT_HANDSHAKE: list[tuple[Fault, type[TTSError], str, int]] = [
    ("forbidden", EngineUnavailable, r"HTTP 403.*upgrade the package edge-tts \(\d+\.\d+\.\d+ is installed\)", 2),
    ("too_many", Overloaded, "fewer requests", 3),
    ("unavailable", EngineUnavailable, "out of order \\(HTTP 503\\)", 3),
    ("not_found", EngineUnavailable, "out of order \\(HTTP 404\\)", 1),
    ("vanish", EngineUnavailable, "hung up during the handshake", 3),
    ("garbage_http", EngineUnavailable, "hung up during the handshake", 3),
    ("stall_handshake", SynthesisTimeout, "did not accept a connection in time", 3),
]
BEFORE_AUDIO: list[tuple[Fault, type[TTSError], str, int]] = [
    ("no_audio", NoAudio, "sent no audio for this text", 3),
    ("hang_start", SynthesisTimeout, "sent no audio in time", 3),
    ("drop_start", SynthesisFailed, "was lost before the end", 3),
    ("close_start", SynthesisFailed, r"closed the connection before the end of the audio \(code 1011\)", 3),
    ("garbage", SynthesisFailed, "audio that is not MP3", 1),
]
IN_THE_MIDDLE: list[tuple[Fault, type[TTSError], str]] = [
    ("hang_mid", SynthesisTimeout, "stopped in the middle of the audio"),
    ("drop", SynthesisFailed, "was lost before the end"),
    ("close", SynthesisFailed, r"closed the connection before the end of the audio \(code 1011\)"),
    ("truncate", SynthesisFailed, "ended the audio before the end of the text"),
    ("truncate_words", SynthesisFailed, "ended the audio before the end of the text"),
    ("short_frame", SynthesisFailed, "a binary message that is shorter than its header"),
    ("bad_frame", SynthesisFailed, "a binary message that is shorter than its header"),
    ("content_type", SynthesisFailed, "audio of another type than MP3"),
    ("no_content_type", SynthesisFailed, "audio of another type than MP3"),
    ("empty_audio", SynthesisFailed, "an audio message without audio"),
    ("audio_path", SynthesisFailed, "a binary message that is not audio"),
    ("unknown_path", SynthesisFailed, "a text message of an unknown kind"),
    ("no_header", SynthesisFailed, "a text message without headers"),
    ("bad_metadata", SynthesisFailed, "metadata that cannot be read"),
    ("unknown_metadata", SynthesisFailed, "metadata of an unknown type"),
    ("half_garbage", SynthesisFailed, "cannot be decoded"),
    ("half_tags", SynthesisFailed, "of which a part cannot be decoded"),
    ("oversize", SynthesisFailed, "a message that is too long"),
]
STALLS: list[Fault] = ["hang_start", "stall_handshake", "hang_mid"]
CURABLE: list[Fault] = [
    *("vanish", "garbage_http", "unavailable", "too_many", "no_audio", "drop_start", "close_start", "hang_start", "forbidden"),
    "stall_handshake",
]


def patience(fault: Fault) -> Deadlines:
    """Short where the service stalls; elsewhere long enough for a machine that is busy with other things."""
    return QUICK if fault in STALLS else Deadlines()


@pytest.mark.parametrize(("fault", "error", "message", "tries"), [*AT_HANDSHAKE, *BEFORE_AUDIO])
async def test_what_lasts_is_one_clear_error_after_few_tries(
    service: EdgeService, tmp_path: Path, fault: Fault, error: type[TTSError], message: str, tries: int
) -> None:
    service.plan.add(Rule(fault))
    sink = RecordingSink()
    async with engine_on(service, tmp_path, deadlines=patience(fault)) as engine:
        failure = await failure_of(engine, TEXT, sink)
    assert type(failure) is error
    assert re.search(message, failure.message)
    assert sink.blocks == []
    assert failure.retryable
    # Where each try waits for its deadline, the budget for the first audio may be used up sooner.
    assert len(service.journal.events("fault")) == tries or (error is SynthesisTimeout and tries == 3)


@pytest.mark.parametrize(("fault", "error", "message"), IN_THE_MIDDLE)
async def test_what_happens_after_the_first_audio_is_one_clear_error_and_never_tried_again(
    paced: EdgeService, tmp_path: Path, fault: Fault, error: type[TTSError], message: str
) -> None:
    paced.plan.add(Rule(fault))
    sink = RecordingSink()
    async with engine_on(paced, tmp_path, deadlines=patience(fault)) as engine:
        failure = await failure_of(engine, TEXT, sink)
    assert type(failure) is error
    assert re.search(message, failure.message)
    assert 0 < sink.seconds < len(WHOLE) / 24_000
    assert len(paced.journal.events("turn")) == 1


@pytest.mark.parametrize(("fault", "error", "message"), [row for row in IN_THE_MIDDLE if not row[0].startswith("half_")])
async def test_the_same_for_audio_that_is_passed_on_undecoded(
    paced: EdgeService, tmp_path: Path, fault: Fault, error: type[TTSError], message: str
) -> None:
    paced.plan.add(Rule(fault))
    async with engine_on(paced, tmp_path, deadlines=patience(fault)) as engine:
        with pytest.raises(error, match=message):
            await say(engine, TEXT, options=MP3)


@pytest.mark.parametrize("fault", CURABLE)
async def test_what_passes_is_not_noticed(service: EdgeService, tmp_path: Path, fault: Fault) -> None:
    service.plan.add(Rule(fault, times=1))
    async with engine_on(service, tmp_path, deadlines=patience(fault)) as engine:
        sink = await say(engine, TEXT)
    assert np.array_equal(sink.audio_samples, WHOLE)
    assert len(sink.marks) == len(speak(TEXT).words)
    assert len(service.journal.events("fault")) == 1


ALL_FAULTS = [row[0] for row in (*AT_HANDSHAKE, *BEFORE_AUDIO)] + [row[0] for row in IN_THE_MIDDLE]


@pytest.mark.parametrize("after", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("fault", [row[0] for row in IN_THE_MIDDLE])
async def test_no_cut_off_speech_is_ever_a_success(service: EdgeService, tmp_path: Path, fault: Fault, after: float) -> None:
    service.plan.add(Rule(fault, after=after))
    sink = RecordingSink()
    async with engine_on(service, tmp_path, deadlines=patience(fault)) as engine:
        try:
            await say(engine, TEXT, sink)
        except TTSError:
            return
    assert sink.seconds >= speak(TEXT).words[-1].end_s, "at most closing silence is lacking"
    assert np.array_equal(sink.audio_samples, WHOLE[: len(sink.audio_samples)])


async def test_another_try_begins_from_nothing(service: EdgeService, tmp_path: Path) -> None:
    service.settings.metadata_first = True
    service.plan.add(Rule("drop_start", times=2))
    async with engine_on(service, tmp_path) as engine:
        sink = await say(engine, TEXT)
    assert len(sink.marks) == len(speak(TEXT).words), "those of the tries that failed are forgotten"
    assert np.array_equal(sink.audio_samples, WHOLE)


async def test_audio_cut_at_the_services_longest_turn_is_an_error(service: EdgeService, tmp_path: Path) -> None:
    service.settings.max_audio_s = 1.2
    service.settings.metadata_first = True
    async with engine_on(service, tmp_path) as engine:
        failure = await failure_of(engine, TEXT)
    assert isinstance(failure, SynthesisFailed)
    assert "before the end of the text" in failure.message


async def test_a_request_that_the_service_cannot_read_is_not_sent_again(tmp_path: Path) -> None:
    with EdgeService(Settings(withdrawn=frozenset({"en-US-GuyNeural"}), voices=VoicesAnswer(status=503))) as service:
        async with engine_on(service, tmp_path) as engine:
            failure = await failure_of(engine, TEXT)
        assert isinstance(failure, SynthesisFailed)
        assert "code 1007" in failure.message
        assert len(service.journal.events("invalid")) == 1


async def test_nobody_listening_is_told_without_address(tmp_path: Path) -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    await listeners[0].aclose()
    engine = EdgeEngine(endpoint=f"ws://127.0.0.1:{port}", cache_dir=tmp_path)
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run, lambda share, doing: None)
        failure = await failure_of(engine, TEXT)
        nursery.cancel_scope.cancel()
    assert isinstance(failure, EngineUnavailable)
    assert failure.message == "Edge's speech service cannot be reached: no connection to it can be made."


async def test_a_name_that_nobody_knows_is_told(tmp_path: Path) -> None:
    engine = EdgeEngine(endpoint="ws://no-such-host.invalid", cache_dir=tmp_path, deadlines=Deadlines(voices_s=0.1))
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run, lambda share, doing: None)
        failure = await failure_of(engine, TEXT)
        nursery.cancel_scope.cancel()
    assert isinstance(failure, EngineUnavailable | SynthesisTimeout)
    assert "no-such-host" not in failure.message


# --------------------------------------------------------------------------------------------------------------- 403


async def test_a_clock_that_is_wrong_is_corrected_and_nobody_notices(service: EdgeService, tmp_path: Path) -> None:
    service.settings.clock_offset_s = 3600.0
    service.settings.voices = VoicesAnswer(status=503)
    async with engine_on(service, tmp_path) as engine:
        sink = await say(engine, TEXT)
        assert np.array_equal(sink.audio_samples, WHOLE)
        await say(engine, TEXT)
    refused = [event for event in service.journal.events("rejected") if event.connection]
    assert len(refused) <= 1, "the correction is remembered"


async def test_after_a_lasting_403_the_service_is_left_alone(service: EdgeService, tmp_path: Path) -> None:
    service.plan.add(Rule("forbidden"))
    async with engine_on(service, tmp_path) as engine:
        failures = [await failure_of(engine, TEXT) for _ in range(5)]
    assert {type(failure) for failure in failures} == {EngineUnavailable}
    assert all("upgrade the package edge-tts" in failure.message for failure in failures)
    assert len(service.journal.events("connected")) == 2
    assert failures[-1].retry_after_ms is not None
    assert 50_000 < failures[-1].retry_after_ms <= 60_000


# --------------------------------------------------------------------------------------------------------------- 429


async def test_a_429_that_says_when_is_obeyed(service: EdgeService, tmp_path: Path) -> None:
    service.plan.add(Rule("too_many", retry_after="7"))
    async with engine_on(service, tmp_path) as engine:
        failures = [await failure_of(engine, TEXT) for _ in range(3)]
    assert {type(failure) for failure in failures} == {Overloaded}
    assert failures[0].retry_after_ms == 7000
    assert all(5000 < (failure.retry_after_ms or 0) <= 7000 for failure in failures)
    assert len(service.journal.events("connected")) == 1


@pytest.mark.parametrize("retry_after", [None, "0", "soon", "Thu, 01 Jan 1970 00:00:00 GMT", "9" * 400])
async def test_a_429_that_does_not_say_when_is_tried_again(
    service: EdgeService, tmp_path: Path, retry_after: str | None
) -> None:
    service.plan.add(Rule("too_many", retry_after=retry_after, times=2))
    async with engine_on(service, tmp_path) as engine:
        sink = await say(engine, TEXT)
    assert np.array_equal(sink.audio_samples, WHOLE)


async def test_more_connections_than_the_service_likes(tmp_path: Path) -> None:
    with EdgeService(Settings(max_connections=3, pace=5.0)) as service:
        async with engine_on(service, tmp_path, max_turns=3) as engine, trio.open_nursery() as nursery:
            for _ in range(9):
                nursery.start_soon(say, engine, TEXT)
        assert service.journal.stats().peak_turns == 3


# -------------------------------------------------------------------------------------------------------------- time


async def test_a_slow_first_byte_is_waited_for(service: EdgeService, tmp_path: Path) -> None:
    service.plan.add(Rule("slow", delay_s=0.5))
    async with engine_on(service, tmp_path) as engine:
        await say(engine, TEXT)
    assert len(service.journal.events("turn")) == 1


async def test_the_first_audio_is_there_in_time_or_the_request_fails(service: EdgeService, tmp_path: Path) -> None:
    service.plan.add(Rule("slow", delay_s=30))
    async with engine_on(service, tmp_path, deadlines=QUICK) as engine:
        started = trio.current_time()
        failure = await failure_of(engine, TEXT)
        assert trio.current_time() - started < QUICK.first_audio_s + 1.0
    assert isinstance(failure, SynthesisTimeout)


async def test_audio_that_comes_slowly_but_steadily_is_no_stall(tmp_path: Path) -> None:
    with EdgeService(Settings(pace=1.0)) as service:
        async with engine_on(service, tmp_path, deadlines=Deadlines(gap_s=0.7, attempt_s=0.7)) as engine:
            sink = await say(engine, "Slow.")
    assert np.array_equal(sink.audio_samples, Mp3Decoder().decode(speak("Slow.").mp3, last=True))


async def test_waiting_for_a_place_has_an_end(service: EdgeService, tmp_path: Path) -> None:
    service.plan.add(Rule("hang_start", contains="first"))
    deadlines = Deadlines(slot_s=0.1)
    async with engine_on(service, tmp_path, max_turns=1, deadlines=deadlines) as engine, trio.open_nursery() as nursery:
        nursery.start_soon(say, engine, "The first hangs.")
        await happened(service, "turn")
        failure = await failure_of(engine, "The second waits.")
        nursery.cancel_scope.cancel()
    assert isinstance(failure, Overloaded)


async def test_the_first_chunk_of_a_request_goes_before_the_look_ahead_of_others(tmp_path: Path) -> None:
    with EdgeService() as service:
        service.plan.add(Rule("slow", contains="Running", delay_s=1.0))
        async with engine_on(service, tmp_path, max_turns=1) as engine, trio.open_nursery() as nursery:

            async def speak_chunk(text: str, index: int) -> None:
                await say(engine, text, index=index)

            nursery.start_soon(speak_chunk, "Running.", 0)
            await happened(service, "turn")
            for text, index in (("Ahead one.", 1), ("Ahead two.", 2), ("New.", 0)):
                nursery.start_soon(speak_chunk, text, index)
                await trio.testing.wait_all_tasks_blocked(0.02)
        spoken = [event.detail for event in service.journal.events("turn")]
    assert spoken == ["Running.", "New.", "Ahead one.", "Ahead two."]


async def test_no_message_tells_a_path_a_token_or_an_address(service: EdgeService, tmp_path: Path) -> None:
    messages = []
    async with engine_on(service, tmp_path, deadlines=QUICK) as engine:
        for fault in ALL_FAULTS[1:]:
            service.plan.clear()
            service.plan.add(Rule(fault))
            try:
                await say(engine, TEXT)
            except TTSError as error:
                messages.append(error.message)
    assert len(messages) > 20
    for message in messages:
        assert message.endswith(".")
        assert not re.search(r"127\.0\.0\.1|/|Traceback|[0-9A-F]{16}", message)
