"""What goes wrong goes wrong for one text only, clearly, and leaves nothing behind."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import trio
from trio.testing import MockClock

from tests.engines.espeak.listening import CRASHES, SENTENCE, Listener, loaded, say, workers
from tts_provider.engines.base import SpeechChunk, SpeechOptions, VoiceRequest
from tts_provider.engines.espeak import EspeakEngine, pool, process
from tts_provider.errors import EngineError, EngineUnavailable, NoAudio, SynthesisFailed, SynthesisTimeout

pytestmark = pytest.mark.skipif(os.name != "posix", reason="ends processes by signals")

REAL_PAUSE_S = 0.5
"""How long nothing may happen before the clock jumps; a worker's start takes 0.03 s."""


@pytest.fixture
def jumping_clock(autojump_clock: MockClock) -> MockClock:
    """A clock that jumps to the next deadline, but lets processes do their work before."""
    autojump_clock.autojump_threshold = REAL_PAUSE_S
    autojump_clock.rate = 1.0
    return autojump_clock


def only_worker() -> psutil.Process:
    [worker] = workers()
    return worker


async def until_replaced(worker: psutil.Process) -> psutil.Process:
    """The process that takes the place of `worker`."""
    with trio.fail_after(30):
        while not (others := [other for other in workers() if other.pid != worker.pid]):
            await trio.lowlevel.checkpoint()
    return others[0]


async def test_a_crash_fails_one_text_while_another_client_goes_on(engine: EspeakEngine) -> None:
    other = Listener(gate=trio.Event())
    assert other.gate is not None
    async with engine.session(engine.resolve(VoiceRequest()), SpeechOptions()) as session:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.say, SpeechChunk(SENTENCE), other)
            await other.reached.wait()
            with pytest.raises(SynthesisFailed, match="crashed on this text") as caught:
                await say(engine, CRASHES)
            assert not caught.value.retryable
            other.gate.set()
        await session.say(SpeechChunk(SENTENCE, start=100, index=1), other)
    assert other.seconds == pytest.approx(7, abs=0.3)


async def test_those_who_wait_behind_a_crash_are_served(engine: EspeakEngine) -> None:
    listeners = [Listener() for _ in range(4)]

    async def crash() -> None:
        with pytest.raises(SynthesisFailed):
            await say(engine, CRASHES)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(crash)
        for listener in listeners:
            nursery.start_soon(say, engine, SENTENCE, None, None, listener)
    assert all(listener.seconds > 3 for listener in listeners)


async def test_a_text_that_crashed_twice_is_not_tried_again(engine: EspeakEngine) -> None:
    for _ in range(2):
        with pytest.raises(SynthesisFailed, match="crashed on this text"):
            await say(engine, CRASHES)
    await say(engine)
    survivor = only_worker()
    with pytest.raises(SynthesisFailed, match="not tried again") as caught:
        await say(engine, CRASHES)
    assert not caught.value.retryable
    await say(engine, CRASHES[:200])
    assert only_worker() == survivor


async def test_a_worker_killed_while_idle_is_replaced(engine: EspeakEngine) -> None:
    first = only_worker()
    first.kill()
    assert (await say(engine)).seconds > 3
    second = await until_replaced(first)
    second.kill()
    await until_replaced(second)
    assert (await say(engine)).seconds > 3


async def test_a_text_whose_worker_is_killed_before_it_began_is_spoken_by_the_next(engine: EspeakEngine) -> None:
    heard = Listener()
    worker = only_worker()
    worker.suspend()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(say, engine, SENTENCE, None, None, heard)
        await trio.testing.wait_all_tasks_blocked()
        worker.kill()
    assert heard.seconds > 3


async def test_a_text_whose_killed_worker_has_no_successor_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async with loaded(EspeakEngine()) as engine:
        monkeypatch.setattr(process, "PROGRAM", tmp_path / "missing.py")
        worker = only_worker()
        worker.suspend()
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def client() -> None:
                with pytest.raises(SynthesisFailed, match="from outside"):
                    await say(engine)

            await trio.testing.wait_all_tasks_blocked()
            worker.kill()


async def test_a_worker_that_hangs_is_replaced_after_the_deadline(jumping_clock: MockClock, engine: EspeakEngine) -> None:
    hung = only_worker()
    hung.suspend()
    with pytest.raises(SynthesisTimeout, match="come to an end"):
        await say(engine)
    assert (await say(engine)).seconds > 3
    assert only_worker() != hung


async def test_a_hang_that_nobody_waits_for_does_not_hold_the_queue_for_longer(
    jumping_clock: MockClock, engine: EspeakEngine
) -> None:
    hung = only_worker()
    hung.suspend()
    with trio.move_on_after(0.5):
        await say(engine)
    begun = trio.current_time()
    assert (await say(engine)).seconds > 3
    assert trio.current_time() - begun < 5


async def test_waiting_for_a_worker_has_an_end(
    jumping_clock: MockClock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with loaded(EspeakEngine()) as engine:
        monkeypatch.setattr(process, "PROGRAM", tmp_path / "missing.py")
        monkeypatch.setattr(pool, "QUEUE_TIMEOUT", 0.2)
        worker = only_worker()
        worker.kill()
        await until_replaced(worker)
        with pytest.raises(SynthesisTimeout, match="No espeak-ng worker was free"):
            await say(engine)
        monkeypatch.undo()
        assert (await say(engine)).seconds > 3


async def test_a_worker_survives_the_signals_of_a_server_that_drains(engine: EspeakEngine) -> None:
    worker = only_worker()
    worker.send_signal(signal.SIGTERM)
    worker.send_signal(signal.SIGINT)
    assert (await say(engine)).seconds > 3
    assert only_worker() == worker
    assert os.getpgid(worker.pid) != os.getpgid(0)


@pytest.mark.skipif(sys.platform != "linux", reason="reads another process's descriptors")
async def test_what_the_library_prints_does_not_get_among_the_frames(engine: EspeakEngine) -> None:
    assert os.readlink(f"/proc/{only_worker().pid}/fd/1") == os.devnull


async def test_a_worker_holds_no_secret_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TTS_API_KEYS", "canary")
    async with loaded(EspeakEngine()):
        assert "canary" not in only_worker().environ().values()


@pytest.mark.skipif(sys.platform != "linux", reason="reads another process's limits")
async def test_a_worker_is_limited_in_memory_and_time_and_leaves_no_core_file(engine: EspeakEngine) -> None:
    worker = only_worker()
    await say(engine)
    assert worker.rlimit(psutil.RLIMIT_CORE)[0] == 0
    assert 4 * worker.memory_info().vms < worker.rlimit(psutil.RLIMIT_AS)[0] <= 2**29
    used = worker.cpu_times()
    limit_s = worker.rlimit(psutil.RLIMIT_CPU)[0]
    assert 1 < limit_s - used.user - used.system < 10  # renewed for each text, or it would end a worker that has served long


# What is left behind


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """Fails the test when it leaves a process or a file descriptor."""
    descriptors = psutil.Process().num_fds()
    yield
    assert workers() == []
    assert psutil.Process().num_fds() == descriptors


@pytest.mark.parametrize("worker_count", [1, 2])
def test_nothing_is_left_by_an_idle_engine(nothing_left: None, worker_count: int) -> None:
    async def main() -> None:
        async with loaded(EspeakEngine(workers=worker_count)) as engine:
            await say(engine)

    trio.run(main)


def test_nothing_is_left_by_an_engine_that_is_cancelled_while_it_speaks(nothing_left: None) -> None:
    async def main() -> None:
        async with trio.open_nursery() as clients, loaded(EspeakEngine()) as engine:
            only_worker().suspend()
            clients.start_soon(fails_unloaded, engine)
            clients.start_soon(fails_unloaded, engine)  # this one waits for the worker
            await trio.testing.wait_all_tasks_blocked()

    async def fails_unloaded(engine: EspeakEngine) -> None:
        with pytest.raises(EngineUnavailable, match="unloaded"):
            await say(engine)

    trio.run(main)


def test_nothing_is_left_by_crashes_and_kills(nothing_left: None) -> None:
    async def main() -> None:
        async with loaded(EspeakEngine()) as engine:
            with pytest.raises(SynthesisFailed):
                await say(engine, CRASHES)
            await say(engine)
            only_worker().kill()
            await say(engine)

    trio.run(main)


@pytest.mark.parametrize("checkpoints", [0, 1, 2, 3, 5, 8])
def test_nothing_is_left_by_an_engine_that_is_cancelled_while_it_starts(nothing_left: None, checkpoints: int) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(EspeakEngine().run, lambda done, doing: None)
            for _ in range(checkpoints):
                await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()

    trio.run(main)


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="watches a process that is not its child")
def test_a_worker_ends_with_a_server_that_is_killed() -> None:
    root = Path(__file__).parents[3]
    with subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True, cwd=root) as server:
        assert server.stdout is not None
        worker = int(server.stdout.readline())
        descriptor = os.pidfd_open(worker)
        server.kill()
        ended, _, _ = select.select([descriptor], [], [], 10)
        os.close(descriptor)
        if not ended:
            os.kill(worker, signal.SIGKILL)
        assert ended


SERVER = """
import psutil, trio
from tts_provider.engines.espeak import EspeakEngine

async def main():
    async with trio.open_nursery() as nursery:
        await nursery.start(EspeakEngine().run, lambda done, doing: None)
        print(psutil.Process().children()[0].pid, flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


# Workers that misbehave: programs that speak the protocol, and say something wrong in it

FALSE_WORKER = """
import os, struct, sys
def send(kind, payload=b""):
    os.write(1, struct.pack("<IB", len(payload), kind) + payload)
def receive():
    data = b""
    while len(data) < 5:
        data += os.read(0, 5 - len(data)) or sys.exit(0)
    size, kind = struct.unpack("<IB", data)
    while size:
        size -= len(os.read(0, size))
    return kind
def end(samples):
    send(15, struct.pack("<I", samples))
LIST, READY, VOICES, AUDIO, ERROR = 1, 11, 12, 14, 16
greeting = struct.pack("<I", 22050) + b"1.52.0"
voices = b"gmw/en-US\\tEnglish\\t1\\t2:en-us"
"""


@pytest.fixture
def false_worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Makes workers do, from their start on, what they are given as a program."""

    def install(behaviour: str) -> None:
        program = tmp_path / "false_worker.py"
        program.write_text(FALSE_WORKER + textwrap.dedent(behaviour))
        monkeypatch.setattr(process, "PROGRAM", program)

    return install


SERVE = """
send(READY, greeting)
while True:
    if receive() == LIST:
        send(VOICES, voices)
        continue
"""
"""A false worker that is as it should be until it has to speak."""


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [
        ("send(AUDIO, b'12' * 900); end(1000)", SynthesisFailed),
        ("end(0)", NoAudio),
        ("send(ERROR, b'No.')", SynthesisFailed),
        ("os.write(1, b'Warning: what a library prints')", SynthesisFailed),
        ("os._exit(3)", SynthesisFailed),
        ("os.abort()", SynthesisFailed),
    ],
)
async def test_a_false_answer_is_an_error_and_never_a_short_success(
    false_worker: Callable[[str], None], behaviour: str, error: type[EngineError]
) -> None:
    false_worker(SERVE + "    " + behaviour)
    async with loaded(EspeakEngine()) as engine:
        for _ in range(2):
            with pytest.raises(error):
                await say(engine)


async def test_speech_without_end_is_cut_off_at_ten_minutes(false_worker: Callable[[str], None]) -> None:
    false_worker(SERVE + "    while True: send(AUDIO, bytes(44100))")
    heard = Listener()
    async with loaded(EspeakEngine()) as engine:
        with pytest.raises(SynthesisTimeout):
            await say(engine, listener=heard)
    assert heard.seconds <= 600


async def test_a_text_that_nobody_wants_any_more_is_given_up_soon_and_not_blamed(false_worker: Callable[[str], None]) -> None:
    false_worker(f"import time{SERVE}    while True: send(AUDIO, bytes(2000)); time.sleep(0.01)")
    async with loaded(EspeakEngine()) as engine:
        for _ in range(3):
            worker = only_worker()
            heard = Listener()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(say, engine, SENTENCE, None, None, heard)
                await heard.reached.wait()
                nursery.cancel_scope.cancel()
            begun = trio.current_time()
            await until_replaced(worker)
            assert trio.current_time() - begun < 2


@pytest.mark.parametrize(
    "behaviour",
    [
        "",
        "os._exit(1)",
        "send(ERROR, b'The library does not find its data.')",
        "os.write(1, b'Usage: python [option] ...')",
        "send(AUDIO, b'')",
        "send(READY, greeting); os._exit(1)",
        "send(READY, greeting); receive(); send(ERROR, b'No.')",
        "send(READY, struct.pack('<I', 16000) + b'1.52.0'); receive(); send(VOICES, voices); receive()",
        "send(READY, struct.pack('<I', 22050) + b'1.53.0'); receive(); send(VOICES, voices); receive()",
    ],
)
def test_an_engine_whose_worker_does_not_start_is_unavailable(
    nothing_left: None, false_worker: Callable[[str], None], behaviour: str
) -> None:
    false_worker(behaviour)

    async def main() -> None:
        with pytest.raises(EngineUnavailable):
            await EspeakEngine().run(lambda done, doing: None, task_status=trio.TASK_STATUS_IGNORED)

    trio.run(main)


async def test_a_worker_that_never_gets_ready_is_given_up(
    jumping_clock: MockClock, false_worker: Callable[[str], None]
) -> None:
    false_worker("receive()")
    with pytest.raises(EngineUnavailable):
        await EspeakEngine().run(lambda done, doing: None, task_status=trio.TASK_STATUS_IGNORED)
    assert 9 < trio.current_time() < 12


async def test_workers_that_keep_dying_are_started_ever_more_slowly(
    jumping_clock: MockClock, false_worker: Callable[[str], None], tmp_path: Path
) -> None:
    log = tmp_path / "starts"
    false_worker(f"""
        open({str(log)!r}, "a").write("x")
        send(READY, greeting)
        if os.path.getsize({str(log)!r}) == 1 and receive() == LIST:
            send(VOICES, voices)
        """)
    async with loaded(EspeakEngine()):
        await trio.sleep(1.2)  # pauses of 0.05, 0.1, 0.2, 0.4, 0.8
    assert 3 <= len(log.read_text()) <= 6


async def test_a_text_that_loses_a_second_worker_fails_and_may_be_tried_again(false_worker: Callable[[str], None]) -> None:
    false_worker(SERVE + "    os.kill(os.getpid(), 9)")
    async with loaded(EspeakEngine()) as engine:
        for _ in range(3):  # it is not the text's fault, so the text is not blamed
            with pytest.raises(SynthesisFailed, match="from outside") as caught:
                await say(engine)
            assert caught.value.retryable


async def test_a_second_worker_that_does_not_start_leaves_the_first_at_work(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with loaded(EspeakEngine()) as engine:
        monkeypatch.setattr(process, "PROGRAM", tmp_path / "missing.py")
        assert (await say(engine)).seconds > 3
