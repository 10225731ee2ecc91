"""Reading the service's messages."""

from __future__ import annotations

import json

import pytest

from tts_provider.engines.edge.protocol import Boundary, Progress, ProtocolError, TurnReader

REQUEST = "0123456789abcdef0123456789abcdef"


def audio(data: bytes, content_type: str | None = "audio/mpeg", path: str = "audio") -> bytes:
    kind = "" if content_type is None else f"Content-Type:{content_type}\r\n"
    header = f"X-RequestId:{REQUEST}\r\n{kind}X-StreamId:1\r\nPath:{path}\r\n".encode()
    return len(header).to_bytes(2, "big") + header + data


def text(path: str, body: str = "{}") -> str:
    return f"X-RequestId:{REQUEST}\r\nContent-Type:application/json; charset=utf-8\r\nPath:{path}\r\n\r\n{body}"


def metadata(*entries: object) -> str:
    return text("audio.metadata", json.dumps({"Metadata": entries}))


def word(spoken: str, offset: int = 1_000_000, duration: int = 4_250_000) -> dict[str, object]:
    spelled = {"Text": spoken, "Length": len(spoken), "BoundaryType": "WordBoundary"}
    return {"Type": "WordBoundary", "Data": {"Offset": offset, "Duration": duration, "text": spelled}}


END: dict[str, object] = {"Type": "SessionEnd", "Data": {"Offset": 99_000_000}}


def test_a_whole_turn() -> None:
    reader = TurnReader()
    assert reader.read([text("turn.start"), text("response")]) == Progress(b"", (), False)
    assert reader.read([metadata(word("Dr.")), audio(b"abc"), audio(b"def")]) == Progress(
        b"abcdef", (Boundary("Dr.", 0.1, 0.525),), False
    )
    assert reader.read([metadata(word("Who", 5_000_000), word("is", 9_250_000)), audio(b"ghi")]).boundaries == (
        Boundary("Who", 0.5, 0.925),
        Boundary("is", 0.925, 1.35),
    )
    assert reader.read([metadata(END), audio(b"", None), text("turn.end"), text("turn.start")]) == Progress(b"", (), True)


def test_what_follows_the_end_is_ignored() -> None:
    reader = TurnReader()
    assert reader.read([text("turn.end"), audio(b"more"), "nonsense"]).ended
    assert reader.read([audio(b"more")]) == Progress(b"", (), True)


def test_words_are_unescaped_as_often_as_they_were_escaped() -> None:
    boundaries = TurnReader().read([metadata(word("AT&amp;T"), word("&lt;b&gt;"), word("&amp;copy;"))]).boundaries
    assert [boundary.text for boundary in boundaries] == ["AT&T", "<b>", "&copy;"]


def test_sentences_are_not_words() -> None:
    sentence = {"Type": "SentenceBoundary", "Data": {"Offset": 1, "Duration": 2, "text": {"Text": "All of it."}}}
    assert TurnReader().read([metadata(sentence)]).boundaries == ()


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(b"", id="empty binary"),
        pytest.param(b"\x00", id="no header length"),
        pytest.param(b"\xff\xffX-RequestId:1", id="header longer than the message"),
        pytest.param(audio(b"abc", "text/html"), id="another content type"),
        pytest.param(audio(b"abc", None), id="data without a content type"),
        pytest.param(audio(b""), id="audio without data"),
        pytest.param(audio(b"abc", path="video"), id="not audio"),
        pytest.param("hello", id="no headers"),
        pytest.param(text("turn.surprise"), id="unknown path"),
        pytest.param("X-RequestId:1\r\n\r\n{}", id="no path"),
        pytest.param(text("audio.metadata", "{"), id="metadata that is not JSON"),
        pytest.param(text("audio.metadata", '{"Metadata": 5}'), id="metadata of another shape"),
        pytest.param(metadata({"Type": "Surprise", "Data": {}}), id="unknown metadata"),
    ],
)
def test_every_odd_message_is_an_error(message: bytes | str) -> None:
    with pytest.raises(ProtocolError):
        TurnReader().read([message])
    reader = TurnReader()
    reader.read([text("turn.start"), metadata(word("a")), audio(b"good")])
    with pytest.raises(ProtocolError):
        reader.read([message])


def test_a_missing_duration_is_none() -> None:
    entry = {"Type": "WordBoundary", "Data": {"Offset": 10_000_000, "text": {"Text": "well"}}}
    assert TurnReader().read([metadata(entry)]).boundaries == (Boundary("well", 1.0, 1.0),)
