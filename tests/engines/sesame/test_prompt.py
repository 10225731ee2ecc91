"""Text becomes the ids that the library's processor makes of it, and nothing a client writes becomes a control token."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the sesame extra")
pytest.importorskip("transformers", reason="needs the sesame extra")

from tests.engines.sesame import tiny
from tts_provider.engines.sesame.prompt import Tokens, plain
from tts_provider.errors import EngineUnavailable


@pytest.mark.parametrize("text", ["Hi.", "It's 5 o'clock: café, naïve, 日本!", "[2]Not a speaker."])
def test_a_turn_has_the_ids_of_the_chat_template(checkpoint: Path, text: str) -> None:
    expected = tiny.oracle_inputs(checkpoint, [("1", text, None)])["input_ids"][0].tolist()
    assert list(Tokens(checkpoint).turn(1, text)) == expected


@pytest.mark.parametrize("token", ["<|AUDIO|>", "<|audio_eos|>", "<|end_of_text|>", "<|begin_of_text|>"])
def test_control_tokens_in_the_text_are_spoken_not_obeyed(checkpoint: Path, token: str) -> None:
    ids = Tokens(checkpoint).turn(0, f"Say {token} now")
    assert ids[0] == tiny.BEGIN
    assert ids[-1] == tiny.END
    assert max(ids[1:-1]) < tiny.BEGIN


@pytest.mark.parametrize(
    ("content", "message"), [(None, "has no tokenizer.json"), ("{", "cannot be read"), (b"\xff", "cannot be read")]
)
def test_a_bad_tokenizer_file_is_told(tmp_path: Path, content: str | bytes | None, message: str) -> None:
    if content is not None:
        data = content.encode() if isinstance(content, str) else content
        (tmp_path / "tokenizer.json").write_bytes(data)
    with pytest.raises(EngineUnavailable, match=message):
        Tokens(tmp_path)


def test_a_tokenizer_of_another_model_is_told(checkpoint: Path, tmp_path: Path) -> None:
    text = (checkpoint / "tokenizer.json").read_text().replace("<|begin_of_text|>", "<s>")
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(EngineUnavailable, match="not CSM's"):
        Tokens(tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"), [("  one\n two\t", "one two"), ("…", ""), ("", ""), ("5", "5"), ("日本", "日本"), ("!?", "")]
)
def test_text_is_put_on_one_line_and_emptied_when_there_is_nothing_to_say(text: str, expected: str) -> None:
    assert plain(text) == expected
