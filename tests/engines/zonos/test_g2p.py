"""Phonemes through libespeak-ng in a worker process. The expected ones are those of espeak-ng 1.52.0."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing

from tts_provider.engines.zonos import g2p
from tts_provider.engines.zonos.g2p import EspeakFiles, PhonemeWorker, find_espeak, split_words
from tts_provider.engines.zonos.languages import CODES
from tts_provider.engines.zonos.phonemes import PHONEME_IDS, UNKNOWN, phoneme_ids
from tts_provider.errors import EngineUnavailable, SynthesisFailed

files = find_espeak()
needs_espeak = pytest.mark.skipif(files is None, reason="espeakng-loader is not installed")

GOLDENS = {
    "en-us": ("The cat sat on 3 mats, didn't it?", "ðə kˈæt sˈæt ˈɔn θɹˈiː mˈæts, dˈɪdnt ɪt?"),
    "en-gb": ("A bottle of water, please.", "ˈeɪ bˈɒtəl ɒv wˈɔːtə, plˈiːz."),
    "de": ("Der Bus fährt um 8 Uhr; 3,5 Kilometer.", "dɛɾ bˈʊs fˈɛːɾt ˈʊm ˈaxt ˈuːɾ; dɾˈaɪ kɔmɑː fˈʏnf kˌiːloːmˈeːtɜ."),
    "fr-fr": ("Il y a 21 élèves à l'école.", "ˈil iɡʁˈɛk ˈa vɛ̃teˈœ̃ elˈɛv ˈa lekˈɔl."),
    "es": ("¿Dónde está la biblioteca?", "¿dˈonde estˈa lˈa bˌiβliotˈeka?"),
    "es-419": ("Gracias, nos vemos.", "ɡɾˈasjas, nˈos bˈemos."),
    "it": ("Che bella giornata!", "kˈe bˈɛlla dʒornˈata!"),
    "pt": ("O comboio está atrasado.", "ˈɔ kˌumbˈoɪʊ estˌa ˌɐtɹɐzˈadʊ."),
    "pt-br": ("O trem está atrasado.", "ˈɔ trˈeɪŋ estˌa ˌatrazˈadʊ."),
    "nl": ("Goedemorgen allemaal.", "ɣˈudəmˌɔrɣən ˌɑləmˈaːl."),
    "pl": ("Dzień dobry państwu.", "dʑˈɛɲ dˈɔbrɨ pˈaɲstfu."),
    "ru": ("Доброе утро, друзья.", "dˈobrʌjɪ ˈutrʌ, druʑjˈja."),
    "tr": ("Günaydın arkadaşlar.", "ɟynajdˈɯn arkadaʃɫˈar."),
    "ar": ("صباح الخير", "s̪ˈabaːħ ʔalχˈajr"),
    "hi": ("नमस्ते दुनिया", "nəmˈʌsteː dˈʊnɪjˌaː"),
    "ko": ("안녕하세요, 여러분.", "ˈɐnnjʌŋhˌɐsejˌo, jˈʌɾʌbˌun."),
    "ja": ("おはよう ございます", "ˌo̞häjˈo̞ɯᵝ ɡˌo̞zäimˈäsɯᵝ"),
    "cmn": ("你好 世界", "ni2χˈɑu2 s.ˈi.5 tɕˈiɛ5"),
    "yue": ("早晨", "zˈou2 sˈa4n"),
    "vi-vn-x-south": ("Chào buổi sáng.", "cˈaː2w bˈuə4j sˈaːɜŋ."),
}


@pytest.fixture
async def worker() -> AsyncIterator[PhonemeWorker]:
    """A worker, ended with the test."""
    assert files is not None
    async with PhonemeWorker(files) as running:
        yield running


@needs_espeak
@pytest.mark.parametrize("code", GOLDENS)
async def test_a_sentence_has_the_phonemes_the_model_was_trained_on(worker: PhonemeWorker, code: str) -> None:
    """One sentence a language, marks kept, words read one by one."""
    text, phonemes = GOLDENS[code]
    assert await worker.phonemes(text, code) == phonemes


@needs_espeak
async def test_every_code_of_the_model_is_known(worker: PhonemeWorker) -> None:
    """All 109 codes give phonemes."""
    for code in CODES:
        assert await worker.phonemes("hello", code), code


@needs_espeak
async def test_an_unknown_code_is_refused_and_changes_nothing(worker: PhonemeWorker) -> None:
    """espeak would go on in the language before; the worker says so instead."""
    before = await worker.phonemes("hello", "de")
    with pytest.raises(EngineUnavailable, match="'xx'"):
        await worker.phonemes("hello", "xx")
    assert await worker.phonemes("hello", "de") == before


@needs_espeak
@pytest.mark.parametrize(
    ("text", "phonemes"),
    [("", ""), (" \n\t", ""), ("...", "..."), ("?!", "?!"), ("\u200b", ""), ("a\x00b", "ˈeɪ bˈiː"), ("😀", "ɡɹˈɪnɪŋ fˈeɪs")],
)
async def test_a_text_with_little_to_say(worker: PhonemeWorker, text: str, phonemes: str) -> None:
    """Nothing, marks alone, and characters that are no letters."""
    assert await worker.phonemes(text, "en-us") == phonemes


@needs_espeak
async def test_long_and_dangerous_texts_pass(worker: PhonemeWorker) -> None:
    """10 kB of words, one word of 10 kB, and the text that aborts a process which hands it to espeak whole."""
    assert len(await worker.phonemes("word " * 2000, "en-us")) > 8000
    assert await worker.phonemes("a" * 10_000, "en-us")
    assert (await worker.phonemes("é . " * 101, "en-us")).count(".") == 101
    assert await worker.phonemes("hello", "en-us") == "həlˈoʊ"


@needs_espeak
async def test_many_at_once_get_their_own_answers(worker: PhonemeWorker) -> None:
    """Forty tasks in two languages, answered as if each were alone."""
    alone = {code: await worker.phonemes("hello 8", code) for code in ("en-us", "de")}
    answers: list[tuple[str, str]] = []

    async def ask(code: str) -> None:
        answers.append((code, await worker.phonemes("hello 8", code)))

    async with trio.open_nursery() as nursery:
        for index in range(40):
            nursery.start_soon(ask, "de" if index % 2 else "en-us")
    assert len(answers) == 40
    assert all(phonemes == alone[code] for code, phonemes in answers)


@needs_espeak
async def test_a_worker_that_died_idle_is_replaced_unseen(worker: PhonemeWorker) -> None:
    """Its death costs nobody anything."""
    await worker.phonemes("hello", "en-us")
    first = worker.process_id
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await trio.to_thread.run_sync(os.waitid, os.P_PID, first, os.WEXITED | os.WNOWAIT)
    assert await worker.phonemes("hello", "en-us") == "həlˈoʊ"
    assert worker.process_id != first


def stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that says words as they are, dies of "boom", and never answers to "hang"."""
    program = folder / "worker.py"
    program.write_text(
        "import os, struct, sys, time\n"
        "answer = b'\\0'\n"
        "while True:\n"
        "    sys.stdout.buffer.write(struct.pack('<I', len(answer)) + answer); sys.stdout.buffer.flush()\n"
        "    size = struct.unpack('<I', sys.stdin.buffer.read(4))[0]\n"
        "    _, *words = sys.stdin.buffer.read(size).split(b'\\n')\n"
        "    if b'boom' in words: os.abort()\n"
        "    if b'hang' in words: time.sleep(1000)\n"
        "    answer = b'\\0' + b'\\n'.join(words)\n"
    )
    monkeypatch.setattr(g2p, "WORKER", program)


async def test_a_cancelled_text_does_not_answer_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that owed an answer is replaced."""
    stand_in(tmp_path, monkeypatch)
    async with PhonemeWorker(EspeakFiles("none", "none")) as worker:
        assert await worker.phonemes("a", "de") == "a"
        first = worker.process_id
        async with trio.open_nursery() as nursery:
            nursery.start_soon(worker.phonemes, "hang", "de")
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert await worker.phonemes("b", "de") == "b"
        assert worker.process_id != first


async def test_a_worker_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text that is not answered in time is an error; the next one gets a new worker."""
    stand_in(tmp_path, monkeypatch)
    async with PhonemeWorker(EspeakFiles("none", "none")) as worker:
        assert await worker.phonemes("a", "de") == "a"
        with monkeypatch.context() as patch:
            patch.setattr(g2p, "ANSWER_TIMEOUT", 0.05)
            with pytest.raises(SynthesisFailed, match="espeak-ng failed"):
                await worker.phonemes("hang", "de")
        assert await worker.phonemes("b", "de") == "b"


async def test_a_crash_fails_one_text_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The text that kills the worker is an error; the next one is read by a new worker."""
    stand_in(tmp_path, monkeypatch)
    async with PhonemeWorker(EspeakFiles("none", "none")) as worker:
        assert await worker.phonemes("a, b", "de") == "a, b"
        with pytest.raises(SynthesisFailed, match="espeak-ng failed"):
            await worker.phonemes("a boom b", "de")
        assert await worker.phonemes("c", "de") == "c"


async def test_a_library_that_cannot_be_loaded_is_told() -> None:
    """A wrong path is an error with the command that mends it."""
    async with PhonemeWorker(EspeakFiles("/nowhere/libespeak-ng.so", "/nowhere")) as worker:
        with pytest.raises(EngineUnavailable, match="pip install"):
            await worker.phonemes("hello", "en-us")


@needs_espeak
async def test_leaving_ends_the_process() -> None:
    """No process outlives the block."""
    assert files is not None
    async with PhonemeWorker(files) as worker:
        await worker.phonemes("hello", "en-us")
        identity = worker.process_id
    assert identity is not None
    with pytest.raises(ProcessLookupError):
        os.kill(identity, 0)
    assert worker.process_id is None


def test_words_and_marks_are_parted_without_loss() -> None:
    """Marks at both ends, several in a row, and numbers outside English, which stay whole."""
    assert split_words("“Hi,” she said…", "en-us") == (["Hi", "she", "said"], ["“", ",” ", " ", "…"])
    assert split_words("3,14 und 1.000.", "de") == (["3,14", "und", "1.000"], ["", " ", " ", "."])
    assert split_words("1.", "en-us") == (["one"], ["", "."])
    assert split_words("", "de") == ([], [""])


def test_the_phoneme_table_is_the_checkpoints() -> None:
    """189 rows; the apostrophe's later row counts; what is not in the table is unknown."""
    assert PHONEME_IDS == 189
    assert phoneme_ids("") == [2, 3]
    assert phoneme_ids(";'ᵻ1\u0303") == [2, 4, 187, 188, UNKNOWN, UNKNOWN, 3]
