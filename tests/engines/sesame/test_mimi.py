"""Mimi decoded frame by frame equals Mimi decoded at once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the sesame extra")
pytest.importorskip("transformers", reason="needs the sesame extra")

from tests.engines.sesame import tiny  # noqa: E402
from tts_provider.engines.sesame.mimi import MimiStream, decoder_parts  # noqa: E402

FRAMES = 210
"""420 steps of the transformer, whose window is 250: its ring goes round."""


def at_once(codec: Any, codes: Any) -> Any:
    with torch.inference_mode():
        return codec.decode(codes.T[None]).audio_values[0, 0]


def clip(frames: int, seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, tiny.CODES, (frames, tiny.CODEBOOKS), generator=generator)


def test_streamed_audio_equals_one_shot_decoding_and_rows_are_reset_on_their_own(oracle: Any) -> None:
    """Three rows over 210 frames; the second starts a new clip in the middle, and only it notices."""
    codec = oracle.codec_model
    long, first, second, other = clip(FRAMES, 1), clip(70, 2), clip(FRAMES - 70, 3), clip(FRAMES, 4)
    middle = torch.cat([first, second])
    with torch.inference_mode():
        stream = MimiStream(codec, 3)
        heard = []
        for frame in range(FRAMES):
            if frame == 70:
                stream.reset(1)
            heard.append(stream.decode(torch.stack([long[frame], middle[frame], other[frame]])))
        sound = torch.cat(heard, dim=1)
    for row, expected in enumerate(
        [at_once(codec, long), torch.cat([at_once(codec, first), at_once(codec, second)]), at_once(codec, other)]
    ):
        assert sound[row].shape == expected.shape
        assert (sound[row] - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_rows_behind_those_that_are_decoded_keep_their_state(oracle: Any) -> None:
    codes = clip(6, 5)
    with torch.inference_mode():
        stream = MimiStream(oracle.codec_model, 2)
        heard = []
        for frame in codes:
            heard.append(stream.decode(torch.stack([frame, frame]))[1])
            stream.decode(frame[None])  # the first row alone
        expected = at_once(oracle.codec_model, codes)
    assert (torch.cat(heard) - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_the_parts_are_found_where_either_version_of_the_library_has_them() -> None:
    seanet, upsample, transformer = object(), object(), object()
    new = SimpleNamespace(decoder=SimpleNamespace(decoder_seanet=seanet, upsample=upsample, decoder_transformer=transformer))
    old = SimpleNamespace(decoder=seanet, upsample=upsample, decoder_transformer=transformer)
    assert decoder_parts(new) == decoder_parts(old) == (upsample, transformer, seanet)


def test_a_codec_that_pads_in_another_way_is_refused(oracle: Any) -> None:
    layer = decoder_parts(oracle.codec_model)[2].layers[0]
    layer.pad_mode = "replicate"
    try:
        with pytest.raises(ValueError, match="replicate"):
            MimiStream(oracle.codec_model, 1)
    finally:
        layer.pad_mode = "constant"
