"""The program that holds libespeak-ng: commands on standard input, speech on standard output.

It runs alone, because the library's state is global and because some texts of a few hundred characters make it abort the
process it lives in. The engine starts it by its path, ``python -I -S worker.py LIBRARY DATA``, so it imports nothing but the
standard library; the engine imports it too, for the constants below, which loads nothing.

Both directions carry frames: `HEADER` (payload length, kind), then the payload.

    to the worker     LIST                          answered by VOICES
                      SAY     SETTINGS voice text   answered by (EVENTS AUDIO)* END, or by ERROR
    from the worker   READY   sample rate, version  once, first; ERROR instead when the library cannot be used
                      VOICES  a line per voice      identifier, name, gender number, then priority:tag pairs, tab-separated
                      EVENTS  EVENT*                what happens in the AUDIO that follows
                      AUDIO   int16 samples         in the machine's byte order
                      END     samples sent          the text has been spoken
                      ERROR   a sentence

Texts come in as plain text: markup and phoneme codes are never switched on, and the library may open no file that a text names.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Callable

HEADER = struct.Struct("<IB")
"""Bytes in the payload, kind of frame."""

LIST, SAY = 1, 2
READY, VOICES, EVENTS, AUDIO, END, ERROR = 11, 12, 13, 14, 15, 16

SETTINGS = struct.Struct("<HBBBBB")
"""Words per minute, pitch, pitch range, volume, whether events are wanted, bytes in the voice's name."""

EVENT = struct.Struct("<BiiI")
"""Kind; for `WORD` the first character (1-based, in code points) and the number of characters; samples since the start."""

WORD, PAUSE, SPEECH = 1, 2, 3
"""A word begins; silence begins; sound begins again within the same word."""

COUNT = struct.Struct("<I")
"""Samples, or Hz."""

CPU_SECONDS = 5
"""CPU time for one text, enough for an hour of speech. It ends a worker that spins after its server has died; a living server
is quicker."""

MEMORY_BYTES = 256 * 1024 * 1024
"""Address space. The worker needs 20 MiB."""

BATCH_BYTES = 16384
"""Speech that is sent in one go, a third of a second, after the text's first block, which is sent at once."""

# The names below are those of espeak-ng's speak_lib.h.
AUDIO_OUTPUT_SYNCHRONOUS = 2
INITIALIZE_PHONEME_EVENTS = 0x0001
INITIALIZE_DONT_EXIT = 0x8000
CHARS_UTF8 = 1
POS_CHARACTER = 1
RATE, VOLUME, PITCH, RANGE = 1, 2, 3, 4
EVENT_LIST_TERMINATED, EVENT_WORD, EVENT_PHONEME = 0, 1, 7
PAUSE_PHONEMES = (b"_", b"_:", b"_::")


class Event(ctypes.Structure):
    """espeak_EVENT. `name` is the member of its union that holds a phoneme's mnemonic."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("name", ctypes.c_char * 8),
    )


class Voice(ctypes.Structure):
    """espeak_VOICE. `languages` points to priority byte, tag, NUL, again and again, up to a priority of 0."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("languages", ctypes.c_void_p),
        ("identifier", ctypes.c_char_p),
        ("gender", ctypes.c_ubyte),
        ("age", ctypes.c_ubyte),
        ("variant", ctypes.c_ubyte),
        ("xx1", ctypes.c_ubyte),
        ("score", ctypes.c_int),
        ("spare", ctypes.c_void_p),
    )


SynthCallback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(Event))
UriCallback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p)


class Unusable(Exception):
    """The library cannot be used, or will not do what was asked; the argument is a sentence."""


class Library:
    """libespeak-ng, initialised."""

    def __init__(self, path: str, data: str, send: Callable[[bytes], None]) -> None:
        self._send = send
        self._voice: bytes | None = None
        self._made = 0
        self._sent = False
        self._unsent = bytearray()
        self._events_wanted = False
        self._in_pause = False
        try:
            library = ctypes.CDLL(path)
        except OSError:  # its message names paths, and what is said here reaches clients
            raise Unusable("The library cannot be loaded.") from None
        library.espeak_Info.restype = ctypes.c_char_p
        library.espeak_ListVoices.restype = ctypes.POINTER(ctypes.POINTER(Voice))
        self.sample_rate: int = library.espeak_Initialize(
            AUDIO_OUTPUT_SYNCHRONOUS, 0, os.fsencode(data) or None, INITIALIZE_PHONEME_EVENTS | INITIALIZE_DONT_EXIT
        )
        if self.sample_rate <= 0:
            raise Unusable("The library does not find its data.")
        folder = ctypes.c_char_p()
        self.version: bytes = library.espeak_Info(ctypes.byref(folder))
        self._data = folder.value or b""
        # Kept as attributes: ctypes does not keep callbacks alive.
        self._on_speech = SynthCallback(self._speech)
        self._on_uri = UriCallback(lambda *_: 1)  # 1: do not open it
        library.espeak_SetSynthCallback(self._on_speech)
        library.espeak_SetUriCallback(self._on_uri)
        self._library = library

    def voices(self) -> bytes:
        """A line for each voice that can speak and each variant of a voice, as `VOICES` carries them."""
        variants = Voice(languages=ctypes.cast(ctypes.c_char_p(b"variant"), ctypes.c_void_p))
        entries = [*self._listed(None), *self._listed(ctypes.byref(variants))]
        return b"\n".join(b"\t".join(fields) for fields in entries if not self._is_mute(fields[0]))

    def _listed(self, wanted: object) -> list[list[bytes]]:
        found = self._library.espeak_ListVoices(wanted)
        described: list[list[bytes]] = []
        while found[len(described)]:
            described.append(_describe(found[len(described)].contents))
        return described

    def _is_mute(self, identifier: bytes) -> bool:
        """Whether it is a voice without a dictionary: some are listed, and accepted, and make silence of all text."""
        name = identifier.rpartition(b"/")[2].partition(b"-")[0]
        if identifier.startswith(b"!v/") or os.path.exists(os.path.join(self._data, name + b"_dict")):
            return False
        # It may have another language's dictionary. To hear takes a millisecond, too long to do it for every voice.
        send, self._send = self._send, lambda data: None
        try:
            self.say(SETTINGS.pack(450, 50, 50, 100, False, len(identifier)) + identifier + b"a e i o u")
        finally:
            self._send = send
        return self._made < self.sample_rate // 10

    def say(self, order: bytes) -> bytes:
        """Speak one `SAY` payload through `send`, all but its last frames; returns those, with the `END`."""
        rate, pitch, pitch_range, volume, events, name_length = SETTINGS.unpack_from(order)
        voice = order[SETTINGS.size : SETTINGS.size + name_length]
        text = order[SETTINGS.size + name_length :] + b"\0"
        if voice != self._voice:  # 0.3 ms
            self._voice = None
            if self._library.espeak_SetVoiceByName(voice) != 0:
                raise Unusable("The library refused the voice.")
            self._voice = voice
        for parameter, value in ((RATE, rate), (PITCH, pitch), (RANGE, pitch_range), (VOLUME, volume)):
            self._library.espeak_SetParameter(parameter, value, 0)
        self._made = 0
        self._sent = False
        self._unsent.clear()
        self._events_wanted = bool(events)
        self._in_pause = False
        if self._library.espeak_Synth(text, len(text), 0, POS_CHARACTER, 0, CHARS_UTF8, None, None) != 0:
            raise Unusable("The library refused the text.")
        return bytes(self._unsent) + frame(END, COUNT.pack(self._made))

    def _speech(self, samples: int | None, count: int, events: ctypes._Pointer[Event]) -> int:
        try:
            if self._events_wanted:
                self._unsent += self._events(events)
            if samples and count:
                self._unsent += frame(AUDIO, ctypes.string_at(samples, 2 * count))
                self._made += count
            if len(self._unsent) > (BATCH_BYTES if self._sent else 0):
                self._send(bytes(self._unsent))
                self._sent = True
                self._unsent.clear()
        except OSError:  # the engine is gone, and the library has no use for an exception
            os._exit(1)
        return 0

    def _events(self, events: ctypes._Pointer[Event]) -> bytes:
        packed = []
        position = 0
        while (event := events[position]).type != EVENT_LIST_TERMINATED:
            position += 1
            if event.type == EVENT_WORD:
                packed.append(EVENT.pack(WORD, event.text_position, event.length, event.sample))
                self._in_pause = False
            elif event.type == EVENT_PHONEME and (event.name in PAUSE_PHONEMES) != self._in_pause:
                self._in_pause = not self._in_pause
                packed.append(EVENT.pack(PAUSE if self._in_pause else SPEECH, 0, 0, event.sample))
        return frame(EVENTS, b"".join(packed)) if packed else b""


def frame(kind: int, payload: bytes = b"") -> bytes:
    """One frame, as it goes into a pipe."""
    return HEADER.pack(len(payload), kind) + payload


def _describe(voice: Voice) -> list[bytes]:
    """The fields of its line."""
    fields = [voice.identifier or b"", voice.name or b"", b"%d" % voice.gender]
    address = voice.languages
    while address and (priority := ctypes.c_ubyte.from_address(address).value):
        tag = ctypes.string_at(address + 1)
        fields.append(b"%d:%s" % (priority, tag))
        address += len(tag) + 2
    return fields


def _receive(descriptor: int, size: int) -> bytes:
    """Exactly `size` bytes; raises EOFError when the engine has closed the pipe or died."""
    data = b""
    while len(data) < size:
        part = os.read(descriptor, size - len(data))
        if not part:
            raise EOFError
        data += part
    return data


def _limit_resources() -> Callable[[], None]:
    """Bound what a text can make the library take; returns what to call before each text.

    Deliberately no PR_SET_PDEATHSIG: the kernel sends it when the *thread* that started the process ends, and Trio starts
    processes in a pooled thread, which ends after some idle seconds. The engine's death is seen as the end of standard input.
    """
    try:
        import resource
    except ImportError:  # Windows
        return lambda: None

    def limit(what: int, soft: int) -> None:
        try:
            hard = resource.getrlimit(what)[1]
            resource.setrlimit(what, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))
        except (OSError, ValueError):  # macOS knows the limit on address space but does not let it be set
            pass

    def renew() -> None:
        used = resource.getrusage(resource.RUSAGE_SELF)
        limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + 1 + CPU_SECONDS)

    limit(resource.RLIMIT_AS, MEMORY_BYTES)
    limit(resource.RLIMIT_CORE, 0)  # a core file would hold users' texts, and takes long to write
    limit(resource.RLIMIT_FSIZE, 0)
    return renew


def _own_pipes() -> tuple[int, int]:
    """The descriptors of commands and answers, out of the library's reach: what it prints goes to standard error."""
    if sys.platform == "win32":
        import msvcrt

        msvcrt.setmode(0, os.O_BINARY)
        msvcrt.setmode(1, os.O_BINARY)
    answers = os.dup(1)
    os.dup2(2, 1)
    return 0, answers


def main(path: str, data: str) -> None:
    """Serve commands until the engine closes the pipe."""
    import signal

    # A service manager signals every process of a service, but texts are spoken to their end while the server drains.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    commands, answers = _own_pipes()
    renew_limits = _limit_resources()

    def send(data: bytes) -> None:
        while data:
            data = data[os.write(answers, data) :]

    try:
        library = Library(path, data, send)
        send(frame(READY, COUNT.pack(library.sample_rate) + library.version))
        while True:
            size, kind = HEADER.unpack(_receive(commands, HEADER.size))
            order = _receive(commands, size)
            if kind == LIST:
                send(frame(VOICES, library.voices()))
                continue
            renew_limits()
            try:
                send(library.say(order))
            except Unusable as refusal:
                send(frame(ERROR, str(refusal).encode()))
    except Unusable as failure:
        send(frame(ERROR, str(failure).encode()))
    except (EOFError, BrokenPipeError):
        pass  # the engine is gone


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
