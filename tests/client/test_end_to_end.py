"""The client and the real server with a fake engine."""

from __future__ import annotations

import io
import wave
from collections.abc import AsyncIterator
from dataclasses import replace

import anyio
import anyio.lowlevel
import pytest

from tests.background import speech_server
from tests.client.helpers import Run, audio_of, tokens
from tests.fake_engine import FakeEngine, entry
from tts_provider.client import Flush, Queued, Sentence, Success, TTSClient, TTSServerError, Words
from tts_provider.engines.base import Capabilities

TEXT = "The first sentence. And here is the second one. The third ends it."


def frames_of(wav: bytes) -> bytes:
    with wave.open(io.BytesIO(wav)) as file:
        return bytes(file.readframes(file.getnframes()))


def test_a_file_a_stream_and_a_text_in_pieces_hold_the_same_samples(run: Run) -> None:
    async def main() -> None:
        async with TTSClient("127.0.0.1", port) as client:
            whole = frames_of(await client.speak(TEXT, sample_rate=16_000))
            async with client.stream(TEXT, sample_rate=16_000) as speech:
                assert await audio_of(speech) == whole
            async with client.speak_text_stream(tokens(*TEXT), sample_rate=16_000) as speech:
                assert await audio_of(speech) == whole
            assert len(whole) > 16_000

    with speech_server(entry(FakeEngine())) as port:
        run(main)


def test_events_come_in_order_and_the_last_one_counts_everything(run: Run) -> None:
    async def main() -> None:
        async with TTSClient("127.0.0.1", port) as client, client.stream(TEXT, timestamps=True) as speech:
            items = [item async for item in speech]
        sentences = [item for item in items if isinstance(item, Sentence)]
        assert [sentence.text for sentence in sentences] == [
            "The first sentence.",
            "And here is the second one.",
            "The third ends it.",
        ]
        words = [word.text for item in items if isinstance(item, Words) for word in item.words]
        assert words[:3] == ["The", "first", "sentence"]
        success = items[-1]
        assert isinstance(success, Success)
        assert success.length_bytes == sum(len(item) for item in items if isinstance(item, bytes))
        assert success.sentences == 3

    with speech_server(entry(FakeEngine(capabilities=Capabilities(sample_rate=24_000, word_timings="exact")))) as port:
        run(main)


def test_a_model_that_loads_is_told(run: Run) -> None:
    async def main() -> None:
        told: list[Queued] = []
        async with TTSClient("127.0.0.1", port) as client, client.stream("Hello.", on_queued=told.append) as speech:
            assert await audio_of(speech)
        assert told[0].queue_position == 1

    slow = replace(entry(FakeEngine(load_s=0.7)), light=False)
    with speech_server(slow) as port:
        run(main)


def test_leaving_stops_the_engine_and_the_connection_lives_on(run: Run) -> None:
    engine = FakeEngine(faults={"for ever": "endless"}, block_delay_s=0.001)

    async def main() -> None:
        async with TTSClient("127.0.0.1", port) as client:
            async with client.stream("This goes on for ever.") as speech:
                async for item in speech:
                    if isinstance(item, bytes):
                        break
            assert engine.saying == 0
            blocks = engine.blocks

            async def endless() -> AsyncIterator[str | Flush]:
                yield "This goes on for ever."
                yield Flush()
                await anyio.sleep_forever()

            async with client.speak_text_stream(endless()) as speech:
                async for item in speech:
                    if isinstance(item, bytes):
                        break
            assert engine.saying == 0
            assert engine.blocks > blocks
            assert client.is_connected()
            assert await client.speak("Hello.")

    with speech_server(entry(engine)) as port:
        run(main)


def test_an_idle_connection_that_the_server_closed_is_replaced(run: Run) -> None:
    async def main() -> None:
        async with TTSClient("127.0.0.1", port) as client:
            for _ in range(2):
                assert await client.speak("Hello.")
                await anyio.sleep(0.4)
            async with client.speak_text_stream(tokens("Hello.")) as speech:
                assert await audio_of(speech)

    with speech_server(entry(FakeEngine()), idle_s=0.1, close_s=0.1) as port:
        run(main)


@pytest.mark.parametrize(
    ("text", "options", "code"),
    [
        ("", {}, "empty_text"),
        ("Hello.", {"model": "gpt"}, "unknown_model"),
        ("Hello.", {"lang": "tlh"}, "unsupported_language"),
        ("Hello.", {"voice": "nobody"}, "unknown_speaker"),
        ("Hello.", {"format": "doc"}, "unsupported_format"),
        ("Hello.", {"sample_rate": 1}, "invalid_sample_rate"),
        ("Fail after a moment of audio.", {}, "synthesis_failed"),
    ],
)
def test_errors_have_the_servers_code(run: Run, text: str, options: dict[str, str], code: str) -> None:
    async def main() -> None:
        async with TTSClient("127.0.0.1", port) as client:
            with pytest.raises(TTSServerError) as caught:
                await client.speak(text, **options)  # type: ignore[arg-type]
            assert caught.value.code == code
            assert await client.speak("Hello.")

    with speech_server(entry(FakeEngine(faults={"Fail": "after"}))) as port:
        run(main)


def test_many_clients_at_once(run: Run) -> None:
    async def main() -> None:
        async def one() -> None:
            async with TTSClient("127.0.0.1", port) as client:
                for _ in range(2):
                    assert frames_of(await client.speak(TEXT)) == expected

        async with TTSClient("127.0.0.1", port) as client:
            expected = frames_of(await client.speak(TEXT))
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(one)

    with speech_server(entry(FakeEngine())) as port:
        run(main)
