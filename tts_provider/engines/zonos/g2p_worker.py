"""The program that holds libespeak-ng; started by path in a process of its own, never imported by the server.

The library keeps global state and some texts abort the process that holds it, hence the process; it is under the GPL, hence the
pipe. Run as ``python -I -S g2p_worker.py LIBRARY DATA``: nothing but the standard library is there.

Frames both ways are ``u32 length | payload``, little-endian. A request is lines of UTF-8: the language code, then one word a
line. The answer is a byte, 0 and the words' phonemes as lines of UTF-8, or 1 when the language is not known. Before the first
request comes an answer without words: the library is ready.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys

AUDIO_OUTPUT_SYNCHRONOUS = 2
INITIALIZE_DONT_EXIT = 0x8000
CHARS_UTF8 = 1
PHONEMES_IPA = 2
MEMORY_LIMIT = 1 << 30  # bytes of address space; the library needs a few dozen MB
PR_SET_PDEATHSIG = 1
SIGKILL = 9


class Voice(ctypes.Structure):
    """``espeak_VOICE`` of speak_lib.h."""

    _fields_ = [
        ("name", ctypes.c_char_p),
        ("languages", ctypes.c_void_p),
        ("identifier", ctypes.c_char_p),
        ("gender", ctypes.c_ubyte),
        ("age", ctypes.c_ubyte),
        ("variant", ctypes.c_ubyte),
        ("xx1", ctypes.c_ubyte),
        ("score", ctypes.c_int),
        ("spare", ctypes.c_void_p),
    ]


def confine() -> None:
    """End with the parent, and take no more memory than a bug may need."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, ValueError, OSError):
        pass  # another system than Linux, or a narrower limit already
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, SIGKILL)


class Espeak:
    """The library, initialised."""

    def __init__(self, library: str, data: str) -> None:
        self._lib = lib = ctypes.CDLL(library)
        lib.espeak_Initialize.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_int]
        if lib.espeak_Initialize(AUDIO_OUTPUT_SYNCHRONOUS, 0, os.fsencode(data), INITIALIZE_DONT_EXIT) < 0:
            raise SystemExit("libespeak-ng could not be initialised")
        lib.espeak_ListVoices.restype = ctypes.POINTER(ctypes.POINTER(Voice))
        lib.espeak_TextToPhonemes.restype = ctypes.c_char_p
        lib.espeak_TextToPhonemes.argtypes = [ctypes.POINTER(ctypes.c_void_p), ctypes.c_int, ctypes.c_int]
        lib.espeak_SetVoiceByName.argtypes = [ctypes.c_char_p]
        self._voices = self._list_voices()
        self._language = b""

    def _list_voices(self) -> dict[bytes, bytes]:
        """Voice identifier of each language code. Asking by code instead can leave another voice set, without an error."""
        best: dict[bytes, tuple[int, bytes]] = {}
        voices = self._lib.espeak_ListVoices(None)
        index = 0
        while voices[index]:
            voice = voices[index].contents
            index += 1
            at = voice.languages
            while priority := ctypes.c_ubyte.from_address(at).value:
                code = ctypes.string_at(at + 1)
                at += len(code) + 2
                if code not in best or priority < best[code][0]:
                    best[code] = (priority, voice.identifier)
        return {code: identifier for code, (_, identifier) in best.items()}

    def phonemes(self, language: bytes, words: list[bytes]) -> list[bytes] | None:
        """IPA of each word, said alone; None when the language is not known."""
        if language != self._language:
            identifier = self._voices.get(language)
            if identifier is None or self._lib.espeak_SetVoiceByName(identifier) != 0:
                return None
            self._language = language
        return [self._word(word) for word in words]

    def _word(self, word: bytes) -> bytes:
        buffer = ctypes.create_string_buffer(word)
        at = ctypes.c_void_p(ctypes.addressof(buffer))
        parts: list[bytes] = []
        while at.value:
            part = self._lib.espeak_TextToPhonemes(ctypes.byref(at), CHARS_UTF8, PHONEMES_IPA)
            parts += part.split()
        return b" ".join(parts)


def main() -> None:
    """Answer requests until the parent closes its end."""
    confine()
    espeak = Espeak(sys.argv[1], sys.argv[2])
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    answer = b"\0"
    while True:
        sink.write(struct.pack("<I", len(answer)) + answer)
        sink.flush()
        head = source.read(4)
        if len(head) < 4:
            return
        language, *words = source.read(struct.unpack("<I", head)[0]).split(b"\n")
        spoken = espeak.phonemes(language, words)
        answer = b"\1" if spoken is None else b"\0" + b"\n".join(spoken)


if __name__ == "__main__":
    main()
