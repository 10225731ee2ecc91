"""The native dialect through a real server on a real socket, spoken by a raw client that sees every message."""

from __future__ import annotations

import io
import itertools
import struct
import wave
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import trio
from trio.testing import MockClock
from trio_websocket import ConnectionClosed

from tests.conftest import Json, StartServer, audio_of, replies_of
from tests.fake_engine import FakeEngine, entry, tone_frequency
from tts_provider.engines.base import Capabilities

THREE = "Hello there, world. How are you? I am fine."
"""Three sentences, none of which is cut: the clause mark comes too early."""

EXACT = Capabilities(sample_rate=24_000, speed=True, word_timings="exact")
GROUPING = Capabilities(sample_rate=24_000, word_timings="exact", max_group_weight=200)


def samples(pcm: bytes) -> npt.NDArray[np.float64]:
    return np.frombuffer(pcm, "<i2").astype(np.float64) / 32767


def frequency(audio: npt.NDArray[np.float64], sample_rate: int) -> float:
    """Hz of the strongest tone."""
    spectrum = np.abs(np.fft.rfft(audio * np.hanning(audio.size)))
    return float(np.argmax(spectrum) * sample_rate / audio.size)


def read_wav(data: bytes) -> tuple[int, bytes]:
    """Sample rate and samples of a mono 16-bit WAV whose header is exact."""
    with wave.open(io.BytesIO(data)) as file:
        assert (file.getnchannels(), file.getsampwidth()) == (1, 2)
        pcm = file.readframes(file.getnframes())
        assert len(pcm) == 2 * file.getnframes() == len(data) - 44
        return file.getframerate(), pcm


# --- Clients of the replaced server ---


async def test_a_legacy_request_is_answered_with_one_wav(start_server: StartServer) -> None:
    """A success object with the fields old clients read, then exactly as many bytes of one WAV."""
    server = await start_server(FakeEngine())
    async with server.connect() as client:
        success, data = await client.legacy(
            {"text": THREE, "speaker": 0, "sample_rate": 24000, "model": "fake", "lang": "en-US"}
        )
    assert {"status", "length_bytes", "sample_rate", "format"} <= success.keys()
    assert (success["format"], success["sample_rate"], success["length_bytes"]) == ("wav", 24000, len(data))
    rate, pcm = read_wav(data)
    assert rate == 24000
    assert abs(len(pcm) / 2 / rate * 1000 - success["duration_ms"]) < 1
    assert frequency(samples(pcm)[2400:9600], rate) == pytest.approx(tone_frequency(0), abs=5)


async def test_a_legacy_request_without_fields_gets_the_default_model(start_server: StartServer) -> None:
    server = await start_server(FakeEngine())
    async with server.connect() as client:
        success, _ = await client.legacy({"text": "Hi."})
    assert (success["model"], success["voice"], success["lang"]) == ("fake", "tone-a", "en-US")


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000])
async def test_the_asked_rate_is_the_true_rate(start_server: StartServer, rate: int) -> None:
    """The tone keeps its pitch and the text its duration at any rate: the header does not lie."""
    server = await start_server(FakeEngine())
    async with server.connect() as client:
        reference, _ = await client.legacy({"text": THREE})
        success, data = await client.legacy({"text": THREE, "sample_rate": rate})
    true_rate, pcm = read_wav(data)
    assert true_rate == success["sample_rate"] == rate
    assert len(pcm) / 2 / rate == pytest.approx(reference["duration_ms"] / 1000, abs=0.001)
    assert frequency(samples(pcm)[rate // 10 : rate // 2], rate) == pytest.approx(tone_frequency(0), abs=5)


async def test_one_connection_serves_many_requests_in_order(start_server: StartServer) -> None:
    """Requests sent without waiting are answered one after the other, the failed one in its place."""
    server = await start_server(FakeEngine())
    async with server.connect() as client:
        for request in ({"text": "One."}, {"text": ""}, {"text": "Three is longer.", "request_id": "third"}):
            await client.send(request)
        first = await client.reply()
        await client.audio(first["length_bytes"])
        second = await client.reply()
        third = await client.reply()
        await client.audio(third["length_bytes"])
    assert [first["status"], second["status"], third["status"]] == ["success", "error", "success"]
    assert (second["code"], third["request_id"]) == ("empty_text", "third")


async def test_a_long_wav_comes_in_messages_below_a_megabyte(start_server: StartServer) -> None:
    server = await start_server(FakeEngine())
    async with server.connect() as client:
        success = await client.ask({"text": "A fairly long sentence to speak. " * 20, "sample_rate": 48000})
        sizes: list[int] = []
        while sum(sizes) < success["length_bytes"]:
            sizes.append(len(await client.receive()))
    assert success["length_bytes"] > 2_000_000
    assert sizes[:-1] == [800_000] * (len(sizes) - 1)
    assert sum(sizes) == success["length_bytes"]


async def test_old_clients_hear_of_a_loading_model_at_most_once(start_server: StartServer, autojump_clock: MockClock) -> None:
    """The published client reads exactly one more JSON message after `queued`."""
    server = await start_server(FakeEngine(load_s=30))
    async with server.connect() as client:
        queued = await client.ask({"text": "Hi."})
        success = await client.reply()
        await client.audio(success["length_bytes"])
        again = await client.ask({"text": "Hi."})
    assert (queued["status"], queued["queue_position"], "message" in queued) == ("queued", 1, True)
    assert [success["status"], again["status"]] == ["success", "success"]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"text": ""}, "Failed to generate speech: Text cannot be empty"),
        ({"text": " \n\t"}, "Failed to generate speech: Text cannot be empty"),
        ({"text": "?!… 😀"}, "Failed to generate speech: Text cannot be empty"),
        ("{", "Invalid request format: expected JSON"),
    ],
)
async def test_old_clients_read_the_messages_they_know(start_server: StartServer, request_: Any, message: str) -> None:
    server = await start_server(FakeEngine())
    async with server.connect() as client:
        reply = await client.ask(request_)
    assert (reply["status"], reply["message"]) == ("error", message)


async def test_what_is_ignored_is_told(start_server: StartServer) -> None:
    """Voice parameters, options that the engine does not have, a voice that has left; the request is spoken all the same."""
    abilities = Capabilities(sample_rate=24_000, options=frozenset({"seed"}))
    engine = FakeEngine(capabilities=abilities)
    server = await start_server(engine)
    async with server.connect() as client:
        request = {"text": "Hi.", "pitch": 5, "extra_params": {"rate": "+50%", "seed": 7}, "speaker": 2, "speed": 2}
        success, _ = await client.legacy(request)
    assert [warning.split(".")[0] for warning in success["warnings"]] == [
        "Ignored, as not supported: pitch",
        "Speaker 2 has left; speaker 0 speaks instead",
        "Ignored, as engine 'fake' has no such options: rate",
        "Engine 'fake' speaks at its own speed only",
    ]
    assert engine.options[0].extra == {"seed": 7}


async def test_info_has_the_fields_that_old_clients_read(start_server: StartServer) -> None:
    """Also before anything is loaded, and with an engine that cannot work here."""
    missing = entry(FakeEngine(name="broken"), "brk", unavailable=lambda: "Install it: pip install broken")
    server = await start_server(FakeEngine(), missing)
    async with server.connect() as client:
        info = await client.ask({"command": "info", "text": "ignored"})
        await client.legacy({"text": "Hi."})
        later = await client.ask({"command": "info"})
    assert info["status"] == "success"
    assert info["current_model"] == {"name": "fake", "ready": False, "sample_rate": 24000, "speakers": {"0": "Tone"}}
    assert info["available_models"]["broken"] == {
        "identifiers": ["broken", "brk"],
        "speakers": {"0": "Tone"},
        "sample_rate": 24000,
        "state": "unavailable",
        "detail": "Install it: pip install broken",
        "slots": None,
        "slots_used": 0,
        "queue_length": 0,
    }
    assert sorted(info["speaker_mapping"]) == ["0", "1", "2", "3"]
    assert info["queue_size"] == 0
    assert info["limits"]["max_text_chars"] == 100_000
    assert (info["model_loaded"], later["model_loaded"]) == (False, True)


# --- Streaming ---


async def test_a_stream_tells_each_sentence_before_its_audio(start_server: StartServer) -> None:
    """First what will come, then for each sentence its text and its frames, then the account, then the same as one WAV."""
    server = await start_server(FakeEngine())
    async with server.connect() as client:
        await client.send({"text": THREE, "stream": True, "request_id": "r"})
        messages = await client.until("success")
        success = messages[-1]
        assert isinstance(success, dict)
        wav = await client.audio(success["length_bytes"])
    streaming, sentence, frame = messages[0], messages[1], messages[2]
    assert isinstance(streaming, dict)
    assert isinstance(sentence, dict)
    assert isinstance(frame, bytes)
    assert {k: v for k, v in streaming.items() if k != "voice"} == {
        "status": "streaming",
        "request_id": "r",
        "model": "fake",
        "lang": "en-US",
        "sample_rate": 24000,
        "channels": 1,
        "format": "pcm",
        "warnings": [],
    }
    sentences = replies_of(messages, "sentence")
    assert [s["text"] for s in sentences] == ["Hello there, world.", "How are you?", "I am fine."]
    assert [s["index"] for s in sentences] == [0, 1, 2]
    pcm = audio_of(messages)
    assert read_wav(wav) == (24000, pcm)
    assert success["sentences"] == 3
    assert success["duration_ms"] == pytest.approx(len(pcm) / 48, abs=0.1)
    assert success["timings"].keys() == {"queue_ms", "first_audio_ms", "total_ms"}
    for number, told in enumerate(sentences):
        start = round(told["start_ms"] * 24)
        assert frequency(samples(pcm)[start + 1000 : start + 9000], 24000) == pytest.approx(tone_frequency(number), abs=5)


async def test_silence_round_sentences_is_trimmed_to_a_fixed_pause(start_server: StartServer) -> None:
    """The engine's 300 ms of silence at each join become the pause and the small margins that trimming keeps."""
    server = await start_server(FakeEngine())
    async with server.connect() as client:
        await client.send({"text": "First one here. Second one here.", "stream": True, "final_wav": False})
        messages = await client.until("success")
    audio = np.abs(samples(audio_of(messages)))
    loud = np.flatnonzero(audio > 0.01)
    gaps = np.diff(loud)
    assert loud[0] < 0.04 * 24000
    assert audio.size - loud[-1] < 0.08 * 24000
    assert 0.15 * 24000 < gaps.max() < 0.26 * 24000


async def test_frames_are_short_and_even(start_server: StartServer) -> None:
    """After the first of a sentence, frames last 100 ms, but for the last before the next sentence."""
    server = await start_server(FakeEngine())
    async with server.connect() as client:
        await client.send({"text": "One sentence that is long enough.", "stream": True, "final_wav": False})
        messages = await client.until("success")
    frames = [len(message) for message in messages if isinstance(message, bytes)]
    assert max(frames) == 4800
    assert frames[1:-1] == [4800] * (len(frames) - 2)
    assert all(size % 2 == 0 for size in frames)


async def test_the_first_frame_comes_while_the_rest_is_being_made(start_server: StartServer, autojump_clock: MockClock) -> None:
    """The client has audio after the engine's first audible block, not after its last."""
    engine = FakeEngine(block_delay_s=0.05)
    server = await start_server(engine)
    async with server.connect() as client:
        begun = trio.current_time()
        await client.send({"text": "This takes a second and a half.", "stream": True, "final_wav": False})
        while not isinstance(await client.receive(), bytes):
            pass
        first = trio.current_time() - begun
        await client.until("success")
        total = trio.current_time() - begun
    assert first == pytest.approx(0.15, abs=0.06)
    assert total > 1.5


async def test_without_final_wav_nothing_follows_the_success(start_server: StartServer) -> None:
    server = await start_server(FakeEngine())
    async with server.connect() as client:
        await client.send({"text": "Hi.", "stream": True, "final_wav": False})
        messages = await client.until("success")
        success = messages[-1]
        assert isinstance(success, dict)
        assert (success["format"], success["length_bytes"]) == ("pcm", len(audio_of(messages)))
        assert (await client.ask({"command": "info"}))["status"] == "success"


async def test_words_are_told_with_their_sentence(start_server: StartServer) -> None:
    """An engine's own timings are marked exact, moved by the trimmed silence, and lie inside the audio."""
    server = await start_server(FakeEngine(capabilities=EXACT))
    async with server.connect() as client:
        await client.send({"text": THREE, "stream": True, "timestamps": True, "final_wav": False})
        messages = await client.until("success")
    words = [word for reply in replies_of(messages, "words") for word in reply["words"]]
    assert [word["text"] for word in words] == THREE.replace(",", "").replace(".", "").replace("?", "").split()
    assert all(THREE[word["offset"] :].startswith(word["text"]) for word in words)
    assert all(word["exact"] for word in words)
    starts = [word["start_ms"] for word in words]
    assert starts == sorted(starts)
    sentences = replies_of(messages, "sentence")
    for sentence, reply in zip(sentences, replies_of(messages, "words"), strict=True):
        assert sentence["index"] == reply["index"]
        # 20 to 30 ms of the engine's silence are kept before the first word.
        assert 0 <= reply["words"][0]["start_ms"] - sentence["start_ms"] <= 35
    assert words[-1]["end_ms"] <= len(audio_of(messages)) / 48


async def test_words_of_an_engine_without_timings_are_estimates(start_server: StartServer) -> None:
    server = await start_server(FakeEngine())
    async with server.connect() as client:
        await client.send({"text": THREE, "stream": True, "timestamps": True, "final_wav": False})
        messages = await client.until("success")
    words = [word for reply in replies_of(messages, "words") for word in reply["words"]]
    assert len(words) == 9
    assert not any(word["exact"] for word in words)
    assert 0 <= words[0]["start_ms"] < words[-1]["end_ms"] <= len(audio_of(messages)) / 48 + 0.01


async def test_words_are_told_only_when_asked_for(start_server: StartServer) -> None:
    server = await start_server(FakeEngine(capabilities=EXACT))
    async with server.connect() as client:
        await client.send({"text": THREE, "stream": True, "final_wav": False})
        assert not replies_of(await client.until("success"), "words")


async def test_sentences_said_together_are_told_apart(start_server: StartServer) -> None:
    """An engine that says short sentences in one call still gets an event for each, where its first word begins."""
    engine = FakeEngine(capabilities=GROUPING)
    server = await start_server(engine)
    async with server.connect() as client:
        await client.send({"text": THREE, "stream": True, "final_wav": False})
        messages = await client.until("success")
    assert engine.said == ["Hello there, world. ", "How are you? I am fine."]
    sentences = replies_of(messages, "sentence")
    assert [s["text"] for s in sentences] == ["Hello there, world.", "How are you?", "I am fine."]
    spoken_before = sentences[2]["start_ms"] - sentences[1]["start_ms"]
    assert spoken_before == pytest.approx(1000 * 0.05 * len("How are you? ") + 25, abs=30)
    assert not replies_of(messages, "words")


async def test_speed_reaches_the_engine(start_server: StartServer) -> None:
    server = await start_server(FakeEngine())
    async with server.connect() as client:
        slow, _ = await client.legacy({"text": "The same text each time."})
        fast, _ = await client.legacy({"text": "The same text each time.", "speed": 2})
    assert fast["duration_ms"] == pytest.approx(slow["duration_ms"] / 2, abs=60)


# --- Text that is still being written ---


async def test_a_sentence_is_spoken_as_soon_as_it_is_complete(start_server: StartServer) -> None:
    """Its audio comes while the next one is still unwritten."""
    server = await start_server(FakeEngine())
    async with server.connect() as client:
        await client.send({"command": "begin", "stream": True, "final_wav": False})
        assert (await client.reply())["status"] == "streaming"
        for text in ("The first sen", "tence is here. An", "d now the sec"):
            await client.send({"command": "append", "text": text})
        sentence = await client.reply()
        assert sentence["text"] == "The first sentence is here."
        await client.send({"command": "append", "text": "ond."})
        await client.send({"command": "end"})
        messages = await client.until("success")
    assert [s["text"] for s in replies_of(messages, "sentence")] == ["And now the second."]


async def test_flush_speaks_what_is_there(start_server: StartServer) -> None:
    server = await start_server(FakeEngine())
    async with server.connect() as client:
        await client.send({"command": "begin", "stream": True, "final_wav": False})
        await client.send({"command": "append", "text": "an unfinished thought"})
        await client.send({"command": "flush"})
        assert (await client.reply())["status"] == "streaming"
        assert (await client.reply())["text"] == "an unfinished thought"
        await client.send({"command": "end"})
        await client.until("success")


async def test_a_finished_sentence_does_not_wait_for_a_slow_writer(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
    """When nothing more comes for a moment, a sentence that ends in a stop is spoken."""
    server = await start_server(FakeEngine())
    async with server.connect() as client:
        await client.send({"command": "begin", "stream": True, "final_wav": False})
        await client.send({"command": "append", "text": "Is it done?"})
        assert (await client.reply())["status"] == "streaming"
        assert (await client.reply())["text"] == "Is it done?"


async def test_how_the_text_was_cut_changes_nothing(start_server: StartServer) -> None:
    """Token by token, the same sentences and the same samples as in one piece."""
    server = await start_server(FakeEngine())
    async with server.connect() as client:
        await client.send({"text": THREE, "stream": True, "final_wav": False})
        whole = await client.until("success")
        await client.send({"command": "begin", "stream": True, "final_wav": False})
        for start in range(0, len(THREE), 3):
            await client.send({"command": "append", "text": THREE[start : start + 3]})
        await client.send({"command": "end"})
        pieces = await client.until("success")
    assert audio_of(pieces) == audio_of(whole)
    assert [s["text"] for s in replies_of(pieces, "sentence")] == [s["text"] for s in replies_of(whole, "sentence")]


async def test_a_text_without_words_is_an_error_at_its_end(start_server: StartServer) -> None:
    server = await start_server(FakeEngine())
    async with server.connect() as client:
        await client.send({"command": "begin", "stream": True})
        await client.send({"command": "append", "text": " … "})
        await client.send({"command": "end"})
        assert (await client.reply())["status"] == "streaming"
        assert (await client.reply())["code"] == "empty_text"


@pytest.mark.parametrize("command", ["append", "flush", "end"])
async def test_text_without_a_request_is_refused(start_server: StartServer, command: str) -> None:
    server = await start_server(FakeEngine())
    async with server.connect() as client:
        reply = await client.ask({"command": command, "text": "x"})
    assert (reply["status"], reply["code"]) == ("error", "invalid_request")


async def test_more_text_than_may_wait_is_refused_and_the_request_goes_on(start_server: StartServer) -> None:
    server = await start_server(FakeEngine(), max_text_chars=30)
    async with server.connect() as client:
        await client.send({"command": "begin", "stream": True, "final_wav": False, "request_id": "r"})
        await client.send({"command": "append", "text": "x" * 31})
        await client.send({"command": "append", "text": "Short enough."})
        await client.send({"command": "end"})
        messages = await client.until("success")
    assert replies_of(messages, "error")[0]["code"] == "text_too_long"
    assert replies_of(messages, "sentence")[0]["text"] == "Short enough."


# --- Cancel ---


async def test_no_byte_follows_a_cancel(start_server: StartServer, autojump_clock: MockClock) -> None:
    """After `cancelled` the next message on the connection belongs to the next request."""
    engine = FakeEngine(block_delay_s=0.05)
    server = await start_server(engine)
    async with server.connect() as client:
        await client.send({"text": THREE * 20, "stream": True, "request_id": "long"})
        while not isinstance(await client.receive(), bytes):
            pass
        asked = trio.current_time()
        await client.send({"command": "cancel", "request_id": "long"})
        messages = await client.until("cancelled")
        assert messages[-1] == {"status": "cancelled", "request_id": "long"}
        assert (engine.saying, engine.sessions) == (0, 0)
        assert engine.stopped_at - asked <= 0.05
        made = engine.blocks
        assert (await client.ask({"command": "info"}))["status"] == "success"
        await trio.sleep(1)
        assert engine.blocks == made
        success, _ = await client.legacy({"text": "Hi."})
        assert success["status"] == "success"


async def test_a_disconnect_stops_the_engine(start_server: StartServer, autojump_clock: MockClock) -> None:
    """A client that leaves cancels all it asked for, within 50 ms."""
    engine = FakeEngine(block_delay_s=0.05)
    server = await start_server(engine)
    async with server.connect() as client:
        await client.send({"command": "hello"})
        for _ in range(3):
            await client.send({"text": THREE * 20, "stream": True})
        while not isinstance(await client.receive(), bytes):
            pass
        assert engine.saying == 3
        left = trio.current_time()
        await client.drop()
        await trio.sleep(0.05)
        assert (engine.saying, engine.sessions) == (0, 0)
        assert engine.stopped_at - left <= 0.05


async def test_a_waiting_request_can_be_cancelled_too(start_server: StartServer, autojump_clock: MockClock) -> None:
    engine = FakeEngine(block_delay_s=0.05)
    server = await start_server(engine)
    async with server.connect() as client:
        await client.send({"text": "The first one.", "stream": True, "final_wav": False, "request_id": "first"})
        await client.send({"text": "Never spoken.", "stream": True, "request_id": "second"})
        await client.send({"command": "cancel", "request_id": "second"})
        await client.until("success")
        assert await client.reply() == {"status": "cancelled", "request_id": "second"}
    assert engine.said == ["The first one."]


async def test_a_cancel_without_a_request_is_refused(start_server: StartServer) -> None:
    server = await start_server(FakeEngine())
    async with server.connect() as client:
        assert (await client.ask({"command": "cancel"}))["code"] == "invalid_request"
        assert (await client.ask({"command": "cancel", "request_id": "nobody"}))["request_id"] == "nobody"


async def test_cancelling_while_the_model_loads(start_server: StartServer, autojump_clock: MockClock) -> None:
    server = await start_server(FakeEngine(load_s=60))
    async with server.connect() as client:
        assert (await client.ask({"text": "Hi.", "stream": True, "request_id": "r"}))["status"] == "queued"
        await client.send({"command": "cancel"})
        messages = await client.until("cancelled")
    assert messages[-1] == {"status": "cancelled", "request_id": "r"}


# --- Several at once ---


def split_streams(messages: list[Json | bytes]) -> dict[int, bytes]:
    """The audio of each stream number."""
    audio: dict[int, bytes] = {}
    for message in messages:
        if isinstance(message, bytes):
            (number,) = struct.unpack(">I", message[:4])
            audio[number] = audio.get(number, b"") + message[4:]
    return audio


async def test_requests_run_side_by_side_after_hello(start_server: StartServer, autojump_clock: MockClock) -> None:
    """Three requests take as long as one, each with its own number, and each hears what it would have heard alone."""
    server = await start_server(FakeEngine(block_delay_s=0.05))
    texts = {"a": "Alpha speaks first.", "b": "Beta follows right after.", "c": "Gamma comes last of all."}
    async with server.connect() as client:
        alone = {}
        for text in texts.values():
            await client.send({"text": text, "stream": True, "final_wav": False})
            alone[text] = audio_of(await client.until("success"))
        hello = await client.ask({"command": "hello", "version": 2})
        assert (hello["version"], hello["limits"]["max_streams"]) == (2, 32)
        begun = trio.current_time()
        for name, text in texts.items():
            await client.send({"text": text, "stream": True, "final_wav": False, "request_id": name})
        messages: list[Json | bytes] = []
        for _ in texts:
            messages += await client.until("success")
    numbers = {reply["request_id"]: reply["stream"] for reply in replies_of(messages, "streaming")}
    streams = split_streams(messages)
    assert len(set(numbers.values())) == 3
    assert {name: streams[number] for name, number in numbers.items()} == {name: alone[text] for name, text in texts.items()}
    assert trio.current_time() - begun < 2.0


async def test_nobody_is_starved_on_a_shared_connection(start_server: StartServer) -> None:
    """Requests that could each fill the connection alone take turns."""
    server = await start_server(FakeEngine())
    async with server.connect() as client:
        await client.send({"command": "hello"})
        for name in "ab":
            await client.send(
                {"text": "A long text to speak here. " * 10, "stream": True, "final_wav": False, "request_id": name}
            )
        messages: list[Json | bytes] = []
        for _ in "ab":
            messages += await client.until("success")
    order = [struct.unpack(">I", message[:4])[0] for message in messages if isinstance(message, bytes)]
    turns = sum(1 for left, right in itertools.pairwise(order) if left != right)
    assert turns > len(order) / 4


async def test_a_whole_file_is_tagged_too(start_server: StartServer) -> None:
    server = await start_server(FakeEngine())
    async with server.connect() as client:
        await client.send({"command": "hello"})
        assert (await client.reply())["status"] == "success"
        success = await client.ask({"text": "Hi."})
        message = await client.receive()
    assert isinstance(message, bytes)
    assert struct.unpack(">I", message[:4])[0] == success["stream"]
    assert len(message) - 4 == success["length_bytes"]
    read_wav(message[4:])


async def test_a_request_id_names_one_request_at_a_time(start_server: StartServer, autojump_clock: MockClock) -> None:
    server = await start_server(FakeEngine(block_delay_s=0.05))
    async with server.connect() as client:
        await client.send({"command": "hello"})
        await client.send({"text": THREE, "stream": True, "request_id": "same"})
        await client.send({"text": THREE, "stream": True, "request_id": "same"})
        messages = await client.until("error")
    assert replies_of(messages, "error")[0]["field"] == "request_id"


async def test_more_streams_than_allowed_are_refused(start_server: StartServer, autojump_clock: MockClock) -> None:
    server = await start_server(FakeEngine(block_delay_s=0.05), max_streams=2)
    async with server.connect() as client:
        await client.send({"command": "hello"})
        for number in range(3):
            await client.send({"text": THREE, "stream": True, "final_wav": False, "request_id": str(number)})
        messages = await client.until("error")
        error = messages[-1]
        assert isinstance(error, dict)
        assert (error["code"], error["retryable"]) == ("busy", True)
        for _ in range(2):
            await client.until("success")


async def test_hello_in_the_middle_of_a_request_is_refused(start_server: StartServer, autojump_clock: MockClock) -> None:
    server = await start_server(FakeEngine(block_delay_s=0.05))
    async with server.connect() as client:
        await client.send({"text": THREE, "stream": True})
        await client.send({"command": "hello"})
        messages = await client.until("error")
    assert replies_of(messages, "error")[0]["code"] == "invalid_request"


# --- Commands ---


async def test_voices_can_be_listed_and_filtered(start_server: StartServer) -> None:
    server = await start_server(FakeEngine())
    async with server.connect() as client:
        everything = await client.ask({"command": "voices"})
        english = await client.ask({"command": "voices", "model": "FAKE", "lang": "en"})
        british = await client.ask({"command": "voices", "lang": "en_gb"})
        wrong = await client.ask({"command": "voices", "model": "nobody"})
    assert [voice["id"] for voice in everything["voices"]] == ["tone-a", "tone-b", "tone-c"]
    assert [voice["id"] for voice in english["voices"]] == ["tone-a", "tone-b"]
    assert british["voices"] == [{"id": "tone-b", "name": "Tone B", "model": "fake", "lang": "en-GB", "gender": "female"}]
    assert wrong["code"] == "unknown_model"


async def test_preload_answers_when_the_model_is_ready(start_server: StartServer, autojump_clock: MockClock) -> None:
    """The connection is read meanwhile: `info` is answered at once."""
    engine = FakeEngine(load_s=30)
    server = await start_server(engine)
    async with server.connect() as client:
        await client.send({"command": "preload", "model": "fake"})
        info = await client.ask({"command": "info"})
        assert info["available_models"]["fake"]["state"] == "loading"
        assert await client.reply() == {"status": "success", "model": "fake", "ready": True}
        await client.legacy({"text": "Hi."})
    assert engine.loads == 1


async def test_a_load_that_fails_is_told_and_tried_again(start_server: StartServer) -> None:
    engine = FakeEngine(load_error=True)
    server = await start_server(engine)
    async with server.connect() as client:
        await client.send({"text": "Hi."})
        reply = (await client.until("error"))[-1]
        assert isinstance(reply, dict)
        assert reply["code"] == "engine_unavailable"
        engine.load_error = False
        await client.send({"text": "Hi."})
        success = (await client.until("success"))[-1]
    assert isinstance(success, dict)
    assert engine.loads == 2


async def test_a_stream_hears_of_the_load_again_and_again(start_server: StartServer, autojump_clock: MockClock) -> None:
    server = await start_server(FakeEngine(load_s=20))
    async with server.connect() as client:
        await client.send({"text": "Hi.", "stream": True})
        messages = await client.until("streaming")
    progress = [reply["progress"] for reply in replies_of(messages, "queued") if "progress" in reply]
    assert len(progress) >= 3
    assert progress == sorted(progress)


async def test_the_place_in_the_queue_is_told(start_server: StartServer, autojump_clock: MockClock) -> None:
    slots = Capabilities(sample_rate=24_000, slots=1)
    server = await start_server(FakeEngine(capabilities=slots, block_delay_s=0.05))
    async with server.connect() as client:
        await client.ask({"command": "preload"})
        await client.send({"command": "hello"})
        await client.send({"text": "First.", "stream": True, "final_wav": False})
        await client.send({"text": "Second.", "stream": True, "final_wav": False, "request_id": "b"})
        messages = await client.until("success") + await client.until("success")
    waits = replies_of(messages, "queued")
    assert {reply["request_id"] for reply in waits} == {"b"}
    assert waits[0]["queue_position"] == 1


# --- Errors ---


@pytest.mark.parametrize(
    ("fields", "code", "hint"),
    [
        ({"model": "gpt"}, "unknown_model", "fake"),
        ({"lang": "xx-YY"}, "unsupported_language", "ja-JP"),
        ({"lang": "en-US'/><x"}, "unsupported_language", "IETF"),
        ({"speaker": 9}, "unknown_speaker", "0, 1, 2, 3"),
        ({"voice": "en-US-GuyNeural' /><voice name='x"}, "unknown_speaker", "tone-a"),
        ({"sample_rate": 7999}, "invalid_sample_rate", "8000"),
        ({"sample_rate": 192001}, "invalid_sample_rate", "192000"),
        ({"sample_rate": 0}, "invalid_sample_rate", "8000"),
        ({"format": "aiff"}, "unsupported_format", "flac"),
        ({"format": "opus", "sample_rate": 44100, "stream": True}, "invalid_sample_rate", "48000"),
        ({"text": "x" * 100_001}, "text_too_long", "100000"),
        ({"speed": 9}, "invalid_request", "4"),
    ],
)
async def test_a_wrong_request_is_answered_with_what_would_be_right(
    start_server: StartServer, fields: Json, code: str, hint: str
) -> None:
    """And the connection stays usable."""
    server = await start_server(FakeEngine())
    async with server.connect() as client:
        reply = await client.ask({"text": "Hi.", "request_id": "r"} | fields)
        assert (reply["status"], reply["code"], reply["request_id"]) == ("error", code, "r")
        assert hint in reply["message"]
        assert reply["retryable"] is False
        await client.legacy({"text": "Hi."})


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("before", "synthesis_failed"),
        ("bug", "synthesis_failed"),
        ("nothing", "no_audio"),
        ("silence", "no_audio"),
        ("nan", "synthesis_failed"),
        ("dtype", "synthesis_failed"),
        ("hang", "timeout"),
        ("endless", "synthesis_failed"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_each_fault_of_an_engine_is_one_clear_error(
    start_server: StartServer, autojump_clock: MockClock, fault: str, code: str, stream: bool
) -> None:
    """Nothing of the fault's insides reaches the client, the engine is free again and the next request works."""
    engine = FakeEngine(faults={"trouble": fault})
    server = await start_server(engine)
    async with server.connect() as client:
        await client.send({"text": "Here is trouble.", "stream": stream, "request_id": "r"})
        reply = (await client.until("error", "success"))[-1]
        assert isinstance(reply, dict)
        assert (reply["status"], reply["code"], reply["request_id"]) == ("error", code, "r")
        assert "secret" not in reply["message"]
        assert (engine.saying, engine.sessions) == (0, 0)
        await client.legacy({"text": "Fine."})


async def test_an_engine_that_fails_later_keeps_what_it_spoke(start_server: StartServer) -> None:
    """The first sentence is heard whole; the error comes instead of the account, and no WAV follows it."""
    server = await start_server(FakeEngine(faults={"trouble": "after"}))
    async with server.connect() as client:
        await client.send({"text": "All is well here. Now comes trouble.", "stream": True})
        messages = await client.until("error", "success")
        reply = messages[-1]
        assert isinstance(reply, dict)
        assert reply["code"] == "synthesis_failed"
        assert len(audio_of(messages)) / 48000 > 0.05 * len("All is well here.")
        assert (await client.ask({"command": "info"}))["status"] == "success"


async def test_an_unavailable_engine_says_how_to_install_it(start_server: StartServer) -> None:
    missing = entry(FakeEngine(name="broken"), unavailable=lambda: "Install it: pip install broken")
    server = await start_server(FakeEngine(), missing)
    async with server.connect() as client:
        reply = await client.ask({"text": "Hi.", "model": "broken"})
    assert reply["code"] == "engine_unavailable"
    assert "pip install broken" in reply["message"]
    assert reply["retryable"] is False


async def test_too_many_requests_are_refused_at_once(start_server: StartServer, autojump_clock: MockClock) -> None:
    server = await start_server(FakeEngine(block_delay_s=0.05), max_queued_requests=2)
    async with server.connect() as client:
        for number in range(4):
            await client.send({"text": "Hi.", "stream": True, "final_wav": False, "request_id": str(number)})
        messages = await client.until("error")
        assert replies_of(messages, "error")[0]["request_id"] == "3"
        for _ in range(3):
            await client.until("success")


async def test_binary_messages_are_refused_and_then_end_the_connection(start_server: StartServer) -> None:
    server = await start_server(FakeEngine())
    async with server.connect() as client:
        for _ in range(3):
            assert (await client.ask(b"\0"))["code"] == "unsupported_message"
        await client.send(b"\0")
        with pytest.raises(ConnectionClosed) as closed:
            await client.until("success")
    assert closed.value.reason is not None
    assert closed.value.reason.code == 1003


async def test_a_message_over_the_limit_ends_the_connection(start_server: StartServer) -> None:
    server = await start_server(FakeEngine(), max_message_bytes=1000)
    async with server.connect() as client:
        await client.send({"text": "x" * 2000})
        with pytest.raises(ConnectionClosed) as closed:
            await client.reply()
    assert closed.value.reason is not None
    assert closed.value.reason.code == 1009


# --- Formats ---


@pytest.mark.parametrize("format", ["wav", "mp3", "opus", "flac"])
@pytest.mark.parametrize("stream", [False, True])
async def test_each_format_decodes_to_the_same_speech(start_server: StartServer, format: str, stream: bool) -> None:
    """Whole and streamed, the tone and the duration survive."""
    import av

    server = await start_server(FakeEngine())
    async with server.connect() as client:
        request = {"text": "A sentence in another format.", "format": format, "stream": stream, "final_wav": False}
        await client.send(request)
        messages = await client.until("success")
        success = messages[-1]
        assert isinstance(success, dict)
        data = audio_of(messages) if stream else await client.audio(success["length_bytes"])
    assert (success["format"], success["length_bytes"]) == (format, len(data))
    with av.open(io.BytesIO(data), "r") as container:
        frames = [frame.to_ndarray() for frame in container.decode(audio=0)]
        rate = container.streams.audio[0].rate
    audio = np.concatenate([frame.reshape(-1) for frame in frames]).astype(np.float64)
    assert audio.size / rate * 1000 == pytest.approx(success["duration_ms"], abs=120)
    assert frequency(audio[rate // 4 : rate], rate) == pytest.approx(tone_frequency(0), abs=5)
