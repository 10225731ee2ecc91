"""The files that the client writes."""

from __future__ import annotations

import io
import struct
import wave
from pathlib import Path

import pytest

from tts_provider.client.files import wav_header, written_whole


@pytest.mark.parametrize("length", [0, 2, 2**32 - 38, 2**33])
def test_a_wav_header_tells_the_length_or_that_it_is_unknown(length: int) -> None:
    header = wav_header(48_000, length)
    riff, data = struct.unpack_from("<I", header, 4)[0], struct.unpack_from("<I", header, 40)[0]
    assert (riff, data) == ((length + 36, length) if length + 36 < 2**32 - 1 else (2**32 - 1, 2**32 - 1))
    with wave.open(io.BytesIO(header)) as file:
        assert file.getframerate() == 48_000


def test_a_file_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"

    def fail_halfway() -> None:
        with written_whole(path) as file:
            file.write(b"half")
            raise KeyError

    with pytest.raises(KeyError):
        fail_halfway()
    assert list(tmp_path.iterdir()) == []
    with written_whole(path) as file:
        file.write(b"whole")
        assert not path.exists()
    assert path.read_bytes() == b"whole"


def test_a_device_is_written_and_not_replaced() -> None:
    with written_whole(Path("/dev/null")) as file:
        file.write(b"gone")
    assert Path("/dev/null").is_char_device()
