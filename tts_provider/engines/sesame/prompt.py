"""Text as CSM wants it: one turn is ``<bos>[speaker]text<eos>``, then its audio frames, then one all-zero frame."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tts_provider.errors import EngineUnavailable

__all__ = ["Tokens", "TurnPrompt", "plain"]

TOKENIZER_FILE: Final = "tokenizer.json"
_BEGIN: Final = "<|begin_of_text|>"
_END: Final = "<|end_of_text|>"


@dataclass(frozen=True, slots=True)
class TurnPrompt:
    """One sentence for a slot of `core.SesameModel`."""

    ids: tuple[int, ...]
    """Token ids, `Tokens.turn`."""
    characters: int
    """Length of the text, for what its speech is expected to last."""
    voice: str
    """Whose prompt the slot starts from, when it starts."""
    seed: int
    """Of the noise, when the slot starts; a slot that goes on goes on with its noise too."""
    temperature: float
    """0 chooses the likeliest code."""
    top_k: int


class Tokens:
    """Llama 3's tokenizer with CSM's names, from the checkpoint's ``tokenizer.json``."""

    def __init__(self, folder: Path) -> None:
        """Raises:
        EngineUnavailable: the file is missing or is not CSM's.
        """
        from tokenizers import Tokenizer

        try:
            self._tokenizer = Tokenizer.from_str((folder / TOKENIZER_FILE).read_text(encoding="utf-8"))
        except OSError as error:
            raise EngineUnavailable(f"The CSM checkpoint has no {TOKENIZER_FILE}. Download it again.") from error
        except Exception as error:  # what the library raises for a bad file is a bare Exception
            raise EngineUnavailable(f"The CSM checkpoint's {TOKENIZER_FILE} cannot be read. Download it again.") from error
        begin, end = self._tokenizer.token_to_id(_BEGIN), self._tokenizer.token_to_id(_END)
        if begin is None or end is None:
            raise EngineUnavailable(f"The CSM checkpoint's {TOKENIZER_FILE} is not CSM's: it has no {_BEGIN} or {_END}.")
        self._begin, self._end = begin, end
        # A client's "<|AUDIO|>" is text to be spoken, never a control token.
        self._tokenizer.encode_special_tokens = True

    def turn(self, speaker: int, text: str) -> tuple[int, ...]:
        """The ids of one turn's text."""
        ids = self._tokenizer.encode(f"[{speaker}]{text}", add_special_tokens=False).ids
        return (self._begin, *ids, self._end)


def plain(text: str) -> str:
    """`text` on one line, blanks collapsed; empty when it holds nothing that can be spoken."""
    return " ".join(text.split()) if any(map(str.isalnum, text)) else ""
