"""The outbox and the guarded stream: bounds, order, joined writes, stalls."""

from __future__ import annotations

import os

import pytest
import trio
from trio.testing import MockClock, lockstep_stream_pair, memory_stream_pair, wait_all_tasks_blocked

from tts_provider.server.framed import FramedStream
from tts_provider.server.outbox import MAX_MESSAGES, MAX_REPLIES, Outbox
from tts_provider.server.streams import GuardedStream
from tts_provider.server.websocket import Closed, WebSocket


class SlowWebSocket(WebSocket):
    """Takes what it is sent only while `open` is set."""

    def __init__(self) -> None:
        self.open = trio.Event()
        self.batches: list[list[str | bytes]] = []

    @property
    def sent(self) -> list[str | bytes]:
        return [message for batch in self.batches for message in batch]

    @property
    def unsent(self) -> bool:
        return False

    def send_now(self, messages: list[str | bytes]) -> bool:
        return False

    async def send(self, messages: list[str | bytes]) -> None:
        self.batches.append(messages)
        await self.open.wait()


async def test_messages_are_sent_in_order_and_together(nursery: trio.Nursery) -> None:
    """What piled up while the client was slow goes out in one batch."""
    websocket = SlowWebSocket()
    outbox = Outbox(websocket)
    nursery.start_soon(outbox.run)
    for number in range(5):
        await outbox.put(str(number), "request")
    websocket.open.set()
    assert await outbox.stop(1)
    assert websocket.sent == ["0", "1", "2", "3", "4"]
    assert len(websocket.batches) <= 2


async def test_a_slow_client_holds_its_requests(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """No more than the bound waits; replies to commands are not held."""
    websocket = SlowWebSocket()
    outbox = Outbox(websocket)
    nursery.start_soon(outbox.run)
    put = 0

    async def fill() -> None:
        nonlocal put
        while True:
            await outbox.put(b"frame", "request")
            put += 1

    nursery.start_soon(fill)
    await trio.sleep(10)
    # One batch is on its way, a full outbox behind it.
    assert put <= 2 * MAX_MESSAGES
    outbox.reply("pong")
    nursery.cancel_scope.cancel()


async def test_what_can_be_put_without_waiting_is_put_as_far_as_there_is_room(nursery: trio.Nursery) -> None:
    websocket = SlowWebSocket()
    outbox = Outbox(websocket)
    messages: list[str | bytes] = [str(number) for number in range(MAX_MESSAGES + 5)]
    assert outbox.put_now(messages[:4], "request") == 4
    assert outbox.put_now(messages[4:], "request") == MAX_MESSAGES - 4
    assert outbox.put_now(messages[-1:], "request") == 0
    nursery.start_soon(outbox.run)
    websocket.open.set()
    assert await outbox.stop(1)
    assert websocket.sent == messages[:MAX_MESSAGES]


async def test_what_comes_alone_is_sent_together_where_it_was_put(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """A block of an engine that speaks in its own time is one write, and no other task runs for it."""
    near, far = await socket_pair()
    async with near, far:
        outbox = Outbox(FramedStream(GuardedStream(near, 5.0), len, 100))
        nursery.start_soon(outbox.run)
        for block in (b"first", b"second", b"third"):
            assert outbox.put_now([block, b"."], "request") == 2
            assert os.read(far.socket.fileno(), 100) == block + b"."
            await trio.sleep(1)
        assert outbox.put_now([b"!"] * (MAX_MESSAGES + 5), "request") == MAX_MESSAGES, "a longer block waits like others"
        assert os.read(far.socket.fileno(), 100) == b"!" * MAX_MESSAGES
        await trio.sleep(1)
        assert outbox.put_now([b"soon", b"."], "request") == 2
        assert outbox.put_now([b"after", b"."], "request") == 2
        assert await read(far, 11) == b"soon.after."
        nursery.cancel_scope.cancel()


async def test_requests_share_a_slow_client_fairly(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    websocket = SlowWebSocket()
    outbox = Outbox(websocket)

    async def fill(name: str) -> None:
        for _ in range(50):
            await outbox.put(name, name)

    async with trio.open_nursery() as requests:
        requests.start_soon(outbox.run)
        requests.start_soon(fill, "a")
        requests.start_soon(fill, "b")
        await trio.sleep(1)
        websocket.open.set()
        await trio.sleep(1)
        requests.cancel_scope.cancel()
    half = websocket.sent[: len(websocket.sent) // 2]
    assert len(websocket.sent) == 100
    assert 0.35 < half.count("a") / len(half) < 0.65


async def test_what_is_discarded_is_never_sent(nursery: trio.Nursery) -> None:
    """And makes room for others."""
    websocket = SlowWebSocket()
    outbox = Outbox(websocket)
    for number in range(MAX_MESSAGES):
        await outbox.put(str(number), "cancelled" if number % 2 else "kept")
    outbox.discard("cancelled")
    with trio.fail_after(1):
        await outbox.put("after", "kept")
    nursery.start_soon(outbox.run)
    websocket.open.set()
    assert await outbox.stop(1)
    assert websocket.sent == [*map(str, range(0, MAX_MESSAGES, 2)), "after"]


async def test_a_client_that_reads_no_replies_is_given_up() -> None:
    outbox = Outbox(SlowWebSocket())
    for _ in range(MAX_REPLIES):
        outbox.reply("answer")
    with pytest.raises(Closed):
        outbox.reply("one too many")


async def test_stopping_gives_up_after_its_time(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    outbox = Outbox(SlowWebSocket())
    nursery.start_soon(outbox.run)
    await outbox.put("stuck", "request")
    assert not await outbox.stop(2)
    nursery.cancel_scope.cancel()


async def test_large_messages_wait_one_at_a_time(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """A file's pieces do not pile up in memory."""
    websocket = SlowWebSocket()
    outbox = Outbox(websocket)
    nursery.start_soon(outbox.run)
    put = 0

    async def send_file() -> None:
        nonlocal put
        for _ in range(5):
            await outbox.put_large(bytes(800_000), "file")
            put += 1

    nursery.start_soon(send_file)
    await trio.sleep(1)
    assert put == 1
    nursery.cancel_scope.cancel()


async def test_writes_of_several_tasks_do_not_mix(nursery: trio.Nursery) -> None:
    """Each is whole, and they come in the order in which they were begun, whatever waits for the reader in between."""
    near, far = lockstep_stream_pair()
    stream = GuardedStream(near, 5.0)
    for letter in b"abc":
        nursery.start_soon(stream.send_all, bytes([letter]) * 200_000)
        await wait_all_tasks_blocked()
    received = b""
    while len(received) < 600_000:
        received += await far.receive_some(65_536)
    assert received == b"a" * 200_000 + b"b" * 200_000 + b"c" * 200_000


async def socket_pair() -> tuple[trio.SocketStream, trio.SocketStream]:
    near, far = trio.socket.socketpair()
    return trio.SocketStream(near), trio.SocketStream(far)


async def read(stream: trio.SocketStream, size: int) -> bytes:
    data = b""
    with trio.fail_after(10):
        while len(data) < size:
            data += await stream.receive_some()
    return data


async def test_a_message_that_comes_alone_is_sent_at_once(autojump_clock: MockClock) -> None:
    """By the task that made it. One that comes at its heels waits for the others that may come."""
    near, far = await socket_pair()
    outbox = Outbox(FramedStream(GuardedStream(near, 5.0), int, 100))
    async with near, far:
        await trio.sleep(1)
        await outbox.put(b"one", "request")
        assert await read(far, 3) == b"one"
        await outbox.put(b"two", "request")
        with trio.move_on_after(1) as waiting:
            await far.receive_some()
        assert waiting.cancelled_caught


async def test_what_the_kernel_does_not_take_at_once_is_sent_before_what_follows(nursery: trio.Nursery) -> None:
    """However little it takes: nothing is lost, and nothing comes in between."""
    near, far = await socket_pair()
    stream = GuardedStream(near, 5.0)
    outbox = Outbox(FramedStream(stream, int, 100))
    big = bytes(range(256)) * 40_000
    async with near, far:
        await outbox.put(big, "request")
        assert stream.unsent
        await outbox.put(b"next", "request")
        nursery.start_soon(outbox.run)
        assert await read(far, len(big) + 4) == big + b"next"
        assert not stream.unsent


async def test_nothing_is_sent_at_once_while_something_is_being_sent(nursery: trio.Nursery) -> None:
    near, far = await socket_pair()
    stream = GuardedStream(near, 5.0)
    big = bytes(10_000_000)
    async with near, far:
        nursery.start_soon(stream.send_all, big)
        await wait_all_tasks_blocked()
        assert not stream.send_now(b"in between")
        assert await read(far, len(big)) == big
        await wait_all_tasks_blocked()
        assert stream.send_now(b"after")
        await stream.aclose()
        assert not stream.send_now(b"too late")


async def test_bytes_given_back_are_read_first() -> None:
    near, far = memory_stream_pair()
    stream = GuardedStream(near, 1.0)
    stream.give_back(b"head")
    await far.send_all(b"body")
    assert await stream.receive_some(2) == b"he"
    assert await stream.receive_some(100) == b"ad"
    assert await stream.receive_some(100) == b"body"


async def test_a_write_that_stalls_breaks_the_stream(autojump_clock: MockClock) -> None:
    """However long the message: each slice has the whole time, and after a stall nothing more is written."""
    near, far = lockstep_stream_pair()
    stream = GuardedStream(near, 5.0)
    with pytest.raises(trio.BrokenResourceError):
        await stream.send_all(b"x" * 100)
    assert trio.current_time() == pytest.approx(5)
    with pytest.raises(trio.BrokenResourceError):
        await stream.send_all(b"y")
    await far.aclose()


async def test_a_slow_reader_that_goes_on_reading_is_kept(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    near, far = lockstep_stream_pair()
    stream = GuardedStream(near, 5.0)
    received = 0

    async def read_slowly() -> None:
        nonlocal received
        while received < 300_000:
            received += len(await far.receive_some(65_536))
            await trio.sleep(4)

    nursery.start_soon(read_slowly)
    await stream.send_all(b"x" * 300_000)
    assert trio.current_time() > 12


async def test_a_cancelled_write_breaks_the_stream(autojump_clock: MockClock) -> None:
    """Half a frame may be on the wire; nothing can follow it."""
    near, _far = lockstep_stream_pair()
    stream = GuardedStream(near, 50.0)
    with trio.move_on_after(1):
        await stream.send_all(b"x")
    with pytest.raises(trio.BrokenResourceError):
        await stream.send_all(b"y")
