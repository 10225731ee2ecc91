"""The model's phoneme table, frozen: the place of a symbol is its row in the checkpoint."""

from __future__ import annotations

from typing import Final

__all__ = ["PHONEME_IDS", "PUNCTUATION", "UNKNOWN", "phoneme_ids"]

UNKNOWN: Final = 1
_BEGIN: Final = 2
_END: Final = 3
_FIRST: Final = 4

PUNCTUATION: Final = ';:,.!?¡¿—…"«»“”() *~-/\\&'
"""Marks that go to the model as they are and part words from each other. The space is one of them."""
_LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
# The apostrophe stands in it twice, so that two rows are never used: the later one counts.
_IPA: Final = (
    "ɑɐɒæɓʙβɔɕçɗɖðʤəɘɚɛɜɝɞɟʄɡɠɢʛɦɧħɥʜɨɪʝɭɬɫɮʟɱɯɰŋɳɲɴøɵɸθœɶʘɹɺɾɻʀʁɽʂʃʈʧʉʊʋⱱʌɣɤʍχʎʏʑʐʒʔʡʕʢǀǁǂǃˈˌːˑʼʴʰʱʲʷˠˤ˞↓↑→↗↘'\u0329'ᵻ"
)
_SYMBOLS: Final = PUNCTUATION + _LETTERS + _IPA
_ID_OF: Final = {symbol: index for index, symbol in enumerate(_SYMBOLS, start=_FIRST)}

PHONEME_IDS: Final = _FIRST + len(_SYMBOLS)
"""Rows of the table: 189."""


def phoneme_ids(phonemes: str) -> list[int]:
    """Row of each symbol between begin and end; a symbol that the model does not know becomes `UNKNOWN`."""
    return [_BEGIN, *(_ID_OF.get(symbol, UNKNOWN) for symbol in phonemes), _END]
