"""Prints what splitting costs: µs per sentence, µs per token, and how both grow with the text.

Run from the repository's root: ``python -m benchmarks.sentences``. Times are processor time; compare ratios of one
run, since absolute times depend on the machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from tts_provider.streaming.chunker import Chunker
from tts_provider.streaming.sentences import split

TOKEN = 4
"""Characters fed at a time, about what a language model emits."""

ENGLISH = (
    "Dr. Smith met Mrs. Jones at 5 p.m. on Jan. 5. They left together. “Are you sure?” she asked, and he said that he was (as "
    "always). The price, 3.50 dollars, had not changed since 2019! What would you do? "
)
JAPANESE = "今日は天気がいいですね。「散歩しましょう！」と彼は言った。どこへ行きますか、公園ですか、それとも駅の方ですか？"

TEXTS: dict[str, str] = {
    "english": ENGLISH,
    "japanese": JAPANESE,
    "no space, no stop": "abcdefghij",
    "words, no stop": "and then ",
    "a.a.a.": "a.",
    "stops only": ".",
    "open quotes": 'He said "no. ',
    "open brackets": "(a. ",
    "nested openings": "(«“[‘",
    "joined emoji": "👨‍👩‍👧‍👦",
    "newlines": "line\n",
    "white space": " ",
}


def tokens(text: str) -> Iterator[str]:
    """`text` in pieces of `TOKEN` characters."""
    return (text[at : at + TOKEN] for at in range(0, len(text), TOKEN))


def feed(text: str, by_tokens: bool) -> int:
    """The number of pieces of `text`."""
    chunker = Chunker("en")
    count = sum(len(chunker.feed(token)) for token in (tokens(text) if by_tokens else [text]))
    return count + len(chunker.finish())


def seconds(work: Callable[[], int]) -> tuple[float, int]:
    """Processor time that `work` takes, and what it returns."""
    begun = time.process_time()
    result = work()
    return time.process_time() - begun, result


def main(length: int = 1_000_000) -> None:
    """Print the table for texts of `length` characters, against texts of a quarter of that."""
    print(f"{'text':20} {'split':>9} {'whole':>9} {'x4':>5} {'by tokens':>10} {'x4':>5} {'µs/piece':>9} {'µs/token':>9}")
    for name, unit in TEXTS.items():
        text = (unit * (length // len(unit) + 1))[:length]
        quarter = text[: length // 4]
        split_s, _ = seconds(lambda text=text: len(split(text, "en")))  # type: ignore[misc]
        short_s, _ = seconds(lambda quarter=quarter: feed(quarter, False))  # type: ignore[misc]
        whole_s, pieces = seconds(lambda text=text: feed(text, False))  # type: ignore[misc]
        short_tokens_s, _ = seconds(lambda quarter=quarter: feed(quarter, True))  # type: ignore[misc]
        tokens_s, _ = seconds(lambda text=text: feed(text, True))  # type: ignore[misc]
        print(
            f"{name:20} {split_s:8.2f}s {whole_s:8.2f}s {whole_s / short_s:5.1f}"
            f" {tokens_s:9.2f}s {tokens_s / short_tokens_s:5.1f}"
            f" {whole_s / pieces * 1e6:9.1f} {tokens_s / (length / TOKEN) * 1e6:9.1f}"
        )


if __name__ == "__main__":
    main()
