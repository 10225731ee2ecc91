"""Speech that arrives while it is made, for a whole text and for one that is still being written."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import anyio.lowlevel
import pytest
import trio

from tests.background import Peer, scripted
from tests.client.helpers import (
    BLOCK,
    SHORT_S,
    Run,
    audio_of,
    client_of,
    speak_slowly_until_cancelled,
    stream_two_blocks,
    tokens,
)
from tts_provider.client import (
    Flush,
    Queued,
    Sentence,
    ServerTimeout,
    Success,
    TTSClient,
    TTSServerError,
    UnexpectedReply,
    Words,
)

# --- Streams ---


def test_a_stream_yields_audio_and_events_in_order(run: Run) -> None:
    async def main() -> None:
        waiting: list[Queued] = []
        async with client_of(server) as client:
            async with client.stream("One. Two.", on_queued=waiting.append, timestamps=True) as speech:
                assert speech.sample_rate == 16_000
                assert speech.streaming.voice == "tone"
                items = [item async for item in speech]
            assert speech.success is items[-1]
        assert [reply.progress for reply in waiting] == [0.5]
        assert [type(item) for item in items] == [Sentence, bytes, Words, bytes, Sentence, bytes, Success]
        words = items[2]
        assert isinstance(words, Words)
        assert words.words[0].text == "One"

    async def answer(peer: Peer) -> None:
        request = await peer.request()
        assert request["timestamps"] is True
        await peer.say("queued", message="Loading", queue_position=1, progress=0.5)
        request_id = await peer.start(request, 16_000)
        await peer.sentence(request_id, 0, "One.")
        await peer.send(BLOCK)
        await peer.websocket.ping()
        word = {"text": "One", "offset": 0, "start_ms": 0, "end_ms": 10, "exact": True}
        await peer.say("words", request_id=request_id, index=0, words=[word])
        await peer.send(BLOCK)
        await peer.send(b"")
        await peer.sentence(request_id, 1, "Two.")
        await peer.send(BLOCK)
        await peer.end(request_id, 3 * len(BLOCK), 16_000)

    with scripted(answer) as server:
        run(main)


def test_a_refused_stream_raises_on_entry_with_all_that_the_server_said(run: Run) -> None:
    async def main() -> None:
        async with client_of(server) as client:
            with pytest.raises(TTSServerError, match="No place") as caught:
                async with client.stream("Hello."):
                    pytest.fail("the stream began")
            assert await client.speak("Hello.")
        error = caught.value
        assert (error.code, error.retryable, error.field, error.retry_after_ms) == ("overloaded", True, "model", 500)

    async def refuse(peer: Peer) -> None:
        await peer.request()
        await peer.say(
            "error", code="overloaded", message="No place.", retryable=True, field="model", retry_after_ms=500, new_field=1
        )
        await peer.stream_audio(BLOCK)

    with scripted(refuse) as server:
        run(main)
        assert server.connections == 1


def test_a_stream_that_fails_in_the_middle_gives_what_it_had(run: Run) -> None:
    async def main() -> None:
        heard = []

        async def listen(client: TTSClient) -> None:
            async with client.stream("Hello.") as speech:
                async for item in speech:
                    heard.append(item)

        async with client_of(server) as client:
            with pytest.raises(TTSServerError):
                await listen(client)
            assert await client.speak("Hello.")
        assert heard == [BLOCK]

    async def fail(peer: Peer) -> None:
        await peer.start(await peer.request())
        await peer.send(BLOCK)
        await peer.fail()
        await peer.stream_audio(BLOCK)

    with scripted(fail) as server:
        run(main)
        assert server.commands() == ["speak", "speak"]
        assert server.connections == 1


def test_leaving_a_stream_cancels_it_and_keeps_the_connection(run: Run) -> None:
    async def main() -> None:
        async with client_of(server) as client:
            async with client.stream("Hello.") as speech:
                assert await anext(speech) == BLOCK
            with pytest.raises(KeyError):
                async with client.stream("Hello.") as speech:
                    raise KeyError("the caller's own error")
            assert (await client.speak("Hello."))[44:] == BLOCK

    async def answer(peer: Peer) -> None:
        await speak_slowly_until_cancelled(peer)
        await speak_slowly_until_cancelled(peer)
        await peer.stream_audio(BLOCK)

    with scripted(answer) as server:
        run(main)
        assert server.commands() == ["speak", "cancel", "speak", "cancel", "speak"]
        assert server.connections == 1


def test_a_cancel_that_comes_too_late_keeps_the_connection(run: Run) -> None:
    async def main() -> None:
        async with client_of(server) as client:
            async with client.stream("Hello.") as speech:
                assert await anext(speech) == BLOCK
            assert (await client.speak("Hello."))[44:] == BLOCK

    async def end_before_the_cancel(peer: Peer) -> None:
        await peer.stream_audio(BLOCK)
        assert (await peer.request())["command"] == "cancel"
        await peer.fail("invalid_request", "There is no such request.", field="request_id")
        await peer.stream_audio(BLOCK)

    with scripted(end_before_the_cancel) as server:
        run(main)
        assert server.connections == 1


def test_a_cancel_that_is_not_answered_closes_the_connection(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tts_provider.client.stream.CANCEL_S", SHORT_S)

    async def main() -> None:
        async with client_of(server) as client:
            async with client.stream("Hello.") as speech:
                assert await anext(speech) == BLOCK
            assert not client.is_connected()
            assert await client.speak("Hello.")

    async def ignore_the_cancel(peer: Peer) -> None:
        await peer.start(await peer.request())
        while True:
            await peer.send(BLOCK)
            await trio.sleep(SHORT_S / 10)

    with scripted(ignore_the_cancel, stream_two_blocks) as server:
        run(main)


def test_a_client_takes_one_request_at_a_time(run: Run) -> None:
    async def main() -> None:
        async with client_of(server) as client, client.stream("Hello.") as speech:
            with pytest.raises(RuntimeError, match="one client for each task"):
                await client.speak("Me too.")
            assert await audio_of(speech) == 2 * BLOCK

    with scripted(stream_two_blocks) as server:
        run(main)


# --- A text that is still being written ---


async def speak_each_sentence(peer: Peer) -> None:
    """Speaks a block for each piece of text as soon as it has come, as often as asked."""
    while True:
        request = await peer.request()
        if "command" not in request:
            request_id = await peer.start(request)
            await peer.send(BLOCK)
            await peer.end(request_id, len(BLOCK))
            continue
        assert request["command"] == "begin", request
        assert "text" not in request
        request_id = await peer.start(request)
        blocks = 0
        while (request := await peer.request())["command"] not in ("end", "cancel"):
            assert request["request_id"] == request_id
            if request["command"] == "append":
                await peer.send(BLOCK)
                blocks += 1
        if request["command"] == "cancel":
            await peer.say("cancelled", request_id=request_id)
        else:
            await peer.end(request_id, blocks * len(BLOCK))


def test_text_is_sent_while_its_speech_is_received(run: Run) -> None:
    async def main() -> None:
        heard = anyio.Event()

        async def source() -> AsyncIterator[str | Flush]:
            yield "One. "
            yield ""
            await heard.wait()  # the second sentence is written once the first is heard
            yield "Two."
            yield Flush()

        async with client_of(server) as client:
            async with client.speak_text_stream(source(), speaker=1) as speech:
                assert await anext(speech) == BLOCK
                heard.set()
                assert await audio_of(speech) == BLOCK
                assert speech.success is not None
            assert (await client.speak("Hello."))[44:] == BLOCK

    with scripted(speak_each_sentence) as server:
        run(main)
        assert server.commands() == ["begin", "append", "append", "flush", "end", "speak"]
        assert server.log[0]["speaker"] == 1
        assert server.connections == 1


def test_a_writer_may_think_for_longer_than_the_timeout(run: Run) -> None:
    async def main() -> bytes:
        async def source() -> AsyncIterator[str]:
            yield "One. "
            await anyio.sleep(5 * SHORT_S)
            yield "Two."

        async with client_of(server, 2 * SHORT_S) as client, client.speak_text_stream(source()) as speech:
            return await audio_of(speech)

    with scripted(speak_each_sentence) as server:
        assert run(main) == 2 * BLOCK


def test_silence_after_the_end_of_the_text_is_a_timeout(run: Run) -> None:
    async def main() -> None:
        async with client_of(server, 2 * SHORT_S) as client:
            with pytest.raises(ServerTimeout):
                async with client.speak_text_stream(tokens("One.")) as speech:
                    await audio_of(speech)

    async def stall(peer: Peer) -> None:
        await peer.start(await peer.request())
        while True:
            await peer.request()

    with scripted(stall) as server:
        run(main)
        assert server.commands() == ["begin", "append", "end"]


def test_a_server_that_does_not_begin_is_a_timeout_though_the_writer_thinks(run: Run) -> None:
    async def main() -> None:
        async def source() -> AsyncIterator[str]:
            yield "One."
            await anyio.sleep_forever()

        async with client_of(server, 2 * SHORT_S) as client:
            with pytest.raises(ServerTimeout):
                async with client.speak_text_stream(source()):
                    pass

    async def stall(peer: Peer) -> None:
        while True:
            await peer.request()

    with scripted(stall) as server:
        run(main)


def test_a_stream_that_lost_audio_on_its_way_is_no_success(run: Run) -> None:
    async def main() -> None:
        async with client_of(server) as client, client.stream("Hello.") as speech:
            assert await anext(speech) == BLOCK
            with pytest.raises(UnexpectedReply):
                await anext(speech)

    async def lose(peer: Peer) -> None:
        request_id = await peer.start(await peer.request())
        await peer.send(BLOCK)
        await peer.end(request_id, 2 * len(BLOCK))

    with scripted(lose) as server:
        run(main)


def test_an_error_of_the_text_is_raised_to_the_listener_as_it_is(run: Run) -> None:
    class WriterError(Exception):
        pass

    async def main() -> None:
        async def source() -> AsyncIterator[str]:
            yield "One. "
            raise WriterError

        async with client_of(server) as client:
            with pytest.raises(WriterError):
                async with client.speak_text_stream(source()) as speech:
                    await audio_of(speech)
            assert await client.speak("Hello.")

    with scripted(speak_each_sentence) as server:
        run(main)


def test_an_error_of_the_listener_comes_out_as_it_is_and_closes_the_text(run: Run) -> None:
    closed = False

    async def main() -> None:
        async def source() -> AsyncIterator[str]:
            nonlocal closed
            try:
                while True:
                    yield "One. "
                    await anyio.sleep(0.01)
            finally:
                closed = True

        async def listen(client: TTSClient) -> None:
            async with client.speak_text_stream(source()) as speech:
                await anext(speech)
                raise KeyError

        async with client_of(server) as client:
            with pytest.raises(KeyError):
                await listen(client)
            assert await client.speak("Hello.")

    with scripted(speak_each_sentence) as server:
        run(main)
    assert closed


def test_barging_in_cancels_and_keeps_the_connection(run: Run) -> None:
    async def main() -> None:
        async def source() -> AsyncIterator[str]:
            yield "One. "
            await anyio.sleep_forever()

        async with client_of(server) as client:
            async with client.speak_text_stream(source()) as speech:
                await anext(speech)
            assert await client.speak("Hello.")

    with scripted(speak_each_sentence) as server:
        run(main)
        assert server.commands() == ["begin", "append", "cancel", "speak"]
        assert server.connections == 1


def test_an_interrupted_listener_can_leave_politely(run: Run) -> None:
    """A cancel scope within the block stops the listening only; leaving the block then cancels the request."""

    async def main() -> None:
        async def source() -> AsyncIterator[str]:
            yield "One. "
            await anyio.sleep_forever()

        async with client_of(server) as client:
            async with client.speak_text_stream(source()) as speech:
                with anyio.move_on_after(SHORT_S):
                    await audio_of(speech)
            async with client.stream("Hello.") as speech:
                with anyio.CancelScope() as scope:
                    scope.cancel()
                    await anext(speech)
            assert await client.speak("Hello.")

    async def answer(peer: Peer) -> None:
        request_id = await peer.start(await peer.request())
        await peer.request()
        assert await peer.request() == {"command": "cancel", "request_id": request_id}
        await peer.say("cancelled", request_id=request_id)
        await speak_slowly_until_cancelled(peer)
        await peer.stream_audio(BLOCK)

    with scripted(answer) as server:
        run(main)
        assert server.connections == 1


def test_a_text_that_the_server_refuses_raises_its_error(run: Run) -> None:
    async def main() -> None:
        async with client_of(server) as client:
            with pytest.raises(TTSServerError) as caught:
                async with client.speak_text_stream(tokens("One.", "Two.")) as speech:
                    await audio_of(speech)
            assert caught.value.code == "text_too_long"
            assert await client.speak("Hello.")

    async def refuse(peer: Peer) -> None:
        await peer.start(await peer.request())
        await peer.request()
        await peer.fail("text_too_long", "The text is too long.")
        await trio.sleep_forever()

    with scripted(refuse, speak_each_sentence) as server:
        run(main)


def test_cancelling_a_text_stream_drops_the_connection(run: Run) -> None:
    async def main() -> None:
        async with client_of(server) as client:
            with anyio.move_on_after(SHORT_S) as scope:
                async with client.speak_text_stream(tokens("One.")) as speech:
                    await audio_of(speech)
            assert scope.cancelled_caught
            assert not client.is_connected()

    async def stall(peer: Peer) -> None:
        await peer.start(await peer.request())
        while True:
            await peer.request()

    with scripted(stall) as server:
        run(main)
