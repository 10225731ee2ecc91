"""Whether a stop ends its sentence, judged from a few characters on either side.

Sentencex knows the abbreviations of many languages and is asked about one stop at a time, on a few cleaned-up words. Asked
about whole texts it is non-local (a decision may depend on a quote far away), which a stream cannot be; and some characters
(a line separator behind an initial) make it panic, which in Rust's binding is no `Exception`. The rules here decide what it
gets wrong or does not know. In doubt they join: two sentences in one piece sound right, half a sentence does not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

from tts_provider.streaming.abbreviations import BEFORE_ORDINAL, ORDINAL_LANGUAGES, Abbreviations, abbreviations_of
from tts_provider.streaming.characters import base_letters, case_of, is_hangul, script_of

__all__ = ["LOOK_AHEAD", "LOOK_BACK", "STOPS", "STOPS_OF_LANGUAGE", "Judge", "Stop"]

try:
    import sentencex
except ImportError:  # no wheel for this platform: our own lists, and somewhat more abbreviations misread
    sentencex = None

LOOK_AHEAD: Final = 9
"""Characters of the next sentence that are looked at: enough for its case, most words that only begin sentences, and
"September", the longest word that makes "3." an ordinal."""

LOOK_BACK: Final = 40
"""Characters before the stop that are looked at: a few words."""

CERTAIN_STOPS: Final = (
    "\u0589\u061d-\u061f\u06d4\u0700-\u0702\u0964\u0965\u104a\u104b\u1362\u1367\u1368\u17d4\u17d5\u1803\u1809"
    "\u203c\u203d\u2047-\u2049\u3002\ua8ce\ua8cf\uaa5d-\uaa5f\uabeb\ufe52\ufe56\ufe57\uff01\uff1f\uff61"
)
"""Stops with no other use, as the inside of a character class: the living scripts' part of Unicode's Sentence_Terminal."""

STOPS: Final = rf".!?\u2026\uff0e{CERTAIN_STOPS}"
"""All stops, as the inside of a character class."""

STOPS_OF_LANGUAGE: Final = {"el": ";\u037e", "hy": ":"}
"""Stops that are other marks elsewhere: Greek's question mark; Armenian's full stop as a Latin keyboard has it."""

_CERTAIN: Final = re.compile(rf"[{CERTAIN_STOPS}]")
_STOP: Final = re.compile(rf"[{STOPS}]")
_CONTINUES: Final = frozenset(",;:)]}%/،؛、，；：）」』】》〉·")
"""What no sentence begins with."""
_ATTACHED_OPENERS: Final = frozenset("“„«‘「『（《〈【¿¡")
"""What separates two sentences as well as a space does."""
_WORDS: Final = re.compile(r"[^\W_][\w.'’&-]*")
_LAST_WORD: Final = re.compile(r"[^\W_][^\s()\[\]{}\"“”„«»‹›—–,;:!?*~`|<>]*$")
_FIRST_LETTER: Final = re.compile(r"[\s\"'“”„«»‹›‘’(\[{（「『¿¡*_~`—–-]*([^\W_])")
_FIRST_WORD: Final = re.compile(r"\W*([^\W\d_]+)")
_BRAND: Final = re.compile(r"[a-z]{1,2}[A-Z0-9]")
"""A name that begins a sentence although its first letter is small: iPad, eBay, v2."""
_CAPITALISED: Final = re.compile(r"(?=[^\W\d_])(?![a-z])[^\W\d_](?:[^\W\d_](?<![A-Z]))+(?:[\s,]|$)|[AI]\s")
"""A word with one capital, as far as can be seen."""
_DOTTED: Final = re.compile(r"(?:[^\W\d_]{1,3}\.)+[^\W\d_]{1,3}")
_PATH: Final = re.compile(r"[^\W_][./@_\\][^\W_]")
_TITLE: Final = re.compile(r"[B-DF-HJ-NP-TV-XZ](?!([a-z])\1*$)[b-df-hj-np-tv-xz]{1,3}")
"""A capital and no vowel (Ft, Sgt, Bd), but no interjection (Hmm, Shh): an abbreviation in any Latin spelling."""
_ENUMERATION: Final = re.compile(r"\W*([0-9]{1,3})[.)]\s")
"""The number of a list's item."""
_LETTER: Final = re.compile(r"[^\W\d_]")
_MARKER: Final = re.compile(r"\W*(?:\d{1,3}|[A-Za-z]|[IVX]{1,4}|[ivx]{1,4})")
_INTRODUCES: Final = frozenset("：:，,")
"""What stands before a quote that was announced."""
_JAPANESE_PARTICLES: Final = frozenset("とっはがをにのもで")
_CHINESE_SPEECH: Final = re.compile(r"[\u4e00-\u9fff]{0,5}?[说說问問道喊叫答想写寫]")
"""Who spoke: a few characters and a verb of saying."""


@dataclass(frozen=True, slots=True)
class Stop:
    """A stop and what is round it."""

    sentence: str
    """The sentence before the stop, or its last `LOOK_BACK` characters."""
    mark: str
    """The stop, or the run of stops."""
    closed: Literal["", "quote", "bracket", "title"]
    """What was closed right behind the stop; "title" is 《》, which names a work."""
    led: str
    """The character before the opening of what was closed; empty when the sentence begins with it."""
    gap: bool
    """Whether white space follows."""
    after: str
    """At most `LOOK_AHEAD` characters of what follows, without white space before it; empty at the end of the text."""
    whole: bool
    """Whether `sentence` is all of it."""
    beginning: str
    """The sentence's first characters; empty when they are too far away."""


def is_certain(mark: str) -> bool:
    """Whether a run of stops holds one that is never anything else."""
    return _CERTAIN.search(mark) is not None


class Judge:
    """Decides, for one language, which stops end a sentence."""

    def __init__(self, language: str) -> None:
        self._language = language
        self._words: Abbreviations = abbreviations_of(language)

    def ends(self, stop: Stop) -> bool:
        """Whether `stop` ends its sentence."""
        after, mark = stop.after, stop.mark
        if not after:
            return True
        if after[0] in _CONTINUES or (not stop.gap and (_STOP.match(after) or after[0] in "-—–&=#@\\+")):
            return False
        if stop.closed and script_of(after[0]) == "cjk" and not self._closed_ends(stop):
            return False
        if is_certain(mark):
            return True
        if not stop.gap and after[0] not in _ATTACHED_OPENERS:
            return self._attached(stop)
        found = _FIRST_LETTER.match(after)
        case = case_of(found[1]) if found else "none"
        if case == "lower" and not _BRAND.match(after):
            return not stop.closed and self._before_small(stop)
        if case == "none" and stop.closed == "quote" and script_of(after[0]) == "letter" and mark != ".":
            # Without capitals nothing tells whether the speaker or the narrator goes on; a comma would stand for a full stop
            # if the narrator did, so only "!" and "?" leave a doubt.
            return False
        if _is_ellipsis(mark):
            if stop.sentence.endswith(("[", "(")):
                return False  # [...] stands for words left out
            # "I" has a capital anywhere.
            return not (self._language == "en" and re.match(r"I\b", after))
        if mark == "!":
            return self._sentencex_ends(stop)  # knows Yahoo! and Jeopardy!
        return mark != "." or self._full_stop_ends(stop)

    def _closed_ends(self, stop: Stop) -> bool:
        """Whether a quote's or bracket's end can be its sentence's, where a Chinese, Japanese or Korean character follows."""
        if stop.closed == "title":
            return False
        if stop.closed == "bracket":
            return stop.led == "" or stop.gap  # else an aside, the stop that counts is yet to come
        first = stop.after[0]
        if is_hangul(first):
            return stop.gap  # 라고, 하고: the particle is attached
        if first in _JAPANESE_PARTICLES or _CHINESE_SPEECH.match(stop.after):
            # After 他说： the quote is what was said, and another verb of saying begins a new sentence.
            return first not in _JAPANESE_PARTICLES and stop.led in _INTRODUCES
        return True

    def _attached(self, stop: Stop) -> bool:
        """Whether a stop with something right behind it ends its sentence."""
        before = stop.sentence[-1:]
        first = stop.after[0]
        scripts = {script_of(before), script_of(first)}
        if _is_ellipsis(stop.mark):
            # The Chinese ellipsis has six dots; three between two characters are a pause.
            return "cjk" in scripts and 3 * stop.mark.count("\u2026") + stop.mark.count(".") >= 6
        if "cjk" in scripts:
            return not (before.isdigit() or first.isdigit()) or stop.mark != "."
        word = _last_word(stop.sentence)
        if not word.isalpha() or not first.isalpha():
            return stop.closed != "" and case_of(first) == "upper"
        if case_of(first) == "none":
            return base_letters(word) > 1
        if stop.mark == ".":
            # A forgotten space, "over.Then"; but not ASP.NET, Node.js, file.Read().
            return len(word) > 1 and word[-2:].islower() and _CAPITALISED.match(stop.after) is not None
        return case_of(first) == "upper"

    def _before_small(self, stop: Stop) -> bool:
        """Whether a sentence ends before a lower-case letter."""
        first_letter = _LETTER.search(stop.beginning)
        small = first_letter is not None and first_letter[0].islower()  # a writer who does without capitals
        if _is_ellipsis(stop.mark):
            return False
        if stop.after[0] in "—–-":
            return False  # "Come! — he said."
        if stop.mark != ".":
            return small or "!" not in stop.mark
        if not small:
            return False  # far more often an abbreviation that nobody listed
        word = _last_word(stop.sentence)
        known = self._words
        lower = _unelided(word)
        if len(word) < 2 or _DOTTED.fullmatch(word) or (word.isdecimal() and len(word) < 3):
            return False
        if lower in known.leading or lower in known.numbered or lower in known.other or lower in known.closing:
            return False
        return self._sentencex_ends(stop)

    def _full_stop_ends(self, stop: Stop) -> bool:
        """Whether a full stop before a space and something other than a lower-case letter ends its sentence."""
        known = self._words
        if stop.whole and _MARKER.fullmatch(stop.sentence):
            return False  # "1." alone: it numbers what follows
        word = _last_word(stop.sentence)
        if not word:
            return True
        lower = _unelided(word)
        item = _ENUMERATION.match(stop.beginning)
        number_follows = stop.after[0].isdigit() or bool(re.match(r"[(№#]\s?\d", stop.after))
        if word.isdecimal():
            if item and int(word) == int(item[1]) + 1:
                return False  # "1. red 2. green": the number of the next item
            ordinal = self._language in ORDINAL_LANGUAGES and len(word) <= 2
            if ordinal and _word_before(stop.sentence).lower() in BEFORE_ORDINAL:
                return False
            return self._sentencex_ends(stop)  # knows the months
        if item and _ENUMERATION.match(stop.after):
            return True
        if lower in known.leading or (number_follows and (lower in known.numbered or lower in known.other)):
            return False
        if lower in known.closing or _closes_list(stop.sentence, known.closing):
            return True
        if (len(word) > 1 or self._language == "en") and self._begins_sentence(stop.after):
            return True
        if _PATH.search(word) and not _DOTTED.fullmatch(word):
            return True  # a file, an address
        if base_letters(word) == 1 and script_of(word[0]) == "letter":
            return self._letter_ends(stop, word)
        if _TITLE.fullmatch(word):
            return False
        return self._sentencex_ends(stop)

    def _begins_sentence(self, after: str) -> bool:
        """Whether the first word has its capital because it begins a sentence: it is no name and no noun."""
        word = _FIRST_WORD.match(after)
        return word is not None and word[1][0].isupper() and word[1].lower() in self._words.starters

    def _letter_ends(self, stop: Stop, word: str) -> bool:
        """Whether a sentence ends behind a single letter."""
        if case_of(word) == "none":
            return False  # the usual form of a title where there are no capitals
        if stop.sentence[-2:-1] == "°":
            return True
        if self._language == "en":
            previous = _word_before(stop.sentence)
            return (word == "I" and previous.islower()) or self._sentencex_ends(stop)
        return False

    def _sentencex_ends(self, stop: Stop) -> bool:
        """Sentencex's opinion on a few words of letters, digits and plain spaces, so that nothing can upset it."""
        words = _WORDS.findall(stop.sentence)[-3:]
        if sentencex is None:
            return self._list_ends(words, stop.after)
        follows = _WORDS.findall(stop.after)[:2]
        head = " ".join(words) + stop.mark[0]
        boundaries = _boundaries(self._language, f"{head} {' '.join(follows) or 'A'}")
        return any(boundary == len(head) + 1 for boundary in boundaries)

    def _list_ends(self, words: list[str], after: str) -> bool:
        """The opinion of our own lists."""
        word = words[-1].lower() if words else ""
        known = self._words
        if not (word in known.other or _DOTTED.fullmatch(word) or (len(word) == 1 and word.isalpha())):
            return True
        return self._begins_sentence(after)


def _boundaries(language: str, text: str) -> list[int]:
    """Where sentencex ends sentences in `text`."""
    try:
        return [boundary["end_index"] for boundary in sentencex.get_sentence_boundaries(language, text)]
    except BaseException as error:
        # A panic in its Rust code comes as a BaseException that is no Exception; it must not end the server.
        if type(error).__name__ != "PanicException":
            raise
        return [len(text)]


def _last_word(sentence: str) -> str:
    found = _LAST_WORD.search(sentence)
    return found[0] if found else ""


def _unelided(word: str) -> str:
    """The word as lists have it, without an article before it: av of l'av."""
    return word.lower().replace("’", "'").rpartition("'")[2]


def _word_before(sentence: str) -> str:
    """The word before the last one."""
    return " ".join(sentence.split()[-2:-1])


def _closes_list(sentence: str, closing: frozenset[str]) -> bool:
    """Whether the last two words are such as "т. д."."""
    return "".join(sentence.split()[-2:]).lower() in closing


def _is_ellipsis(mark: str) -> bool:
    return "\u2026" in mark or ".." in mark or ". ." in mark
