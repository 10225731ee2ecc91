"""Taking secrets out of text that people and machines will read: logs, printed settings, tracebacks.

Two nets: the values of the environment's variables that are named like secrets, which are known to the letter; and the forms in
which secrets stand in text, for all that the environment does not hold. Both would rather hide too much than too little.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Final

__all__ = ["HIDDEN", "is_secret_name", "redact", "redactor", "secrets_of"]

HIDDEN: Final = "[hidden]"

MIN_SECRET_CHARS: Final = 6
"""A shorter value is a word that stands in many lines by chance, and no secret to speak of."""

_NAMES: Final = r"(?:api[_-]?key|key|token|secret|passwd|password|credential)s?"
_SECRET_NAME: Final = re.compile(
    rf"(?:^|[_.\-\s])(?:{_NAMES}|authorization|cookie|sec-ms-gec)$|(?:token|apikey)$", re.IGNORECASE
)

_FORMS: Final = re.compile(
    r"""
      (?P<scheme> \b (?:bearer|basic) \s+ ) [A-Za-z0-9._~+/=\-!@\#$%^&*:|]+
    | (?P<header> \b (?:proxy-)?authorization \b ["']? \s* [:=,] \s* (?:b?["'])? (?:[A-Za-z]+\s+)? ) [^\s"',;\\]+
    | (?P<subprotocol> \b tts\.key\. ) [^\s"',;\\]+
    | (?P<pair> (?: \b sec-ms-gec | connectionid | trustedclienttoken | (?<![A-Za-z0-9_-]) (?:[A-Za-z0-9]+[_-]){0,9} NAMES )
        ["']? \s* [:=] \s* (?:b?["'])? ) (?! \[hidden] ) [^\s"'&,;\\(){}\[\]]+
    | (?P<login> :// ) [^\s/@"']+ (?= @ )
    | (?P<hub> \b hf_ ) [A-Za-z0-9]{8,}
    | (?P<vendor> \b sk- ) [A-Za-z0-9_\-]{12,}
    """.replace("NAMES", _NAMES),
    re.IGNORECASE | re.VERBOSE,
)

_HINTS: Final = (
    "bearer", "basic", "authorization", "key", "token", "secret", "passw", "credential", "sec-ms-gec", "connectionid", "://",
    "hf_", "sk-",
)  # fmt: skip
"""One of these is in each form. Looking for them costs a tenth of trying the forms, and almost no text has one."""


def redact(text: str) -> str:
    """`text` without what looks like a secret in it."""
    lowered = text.lower()
    return _FORMS.sub(_hide, text) if any(hint in lowered for hint in _HINTS) else text


def redactor(secrets: Iterable[str] = ()) -> Callable[[str], str]:
    """A function like `redact` that also takes out `secrets` themselves, wherever they stand."""
    known = sorted({secret for secret in secrets if len(secret) >= MIN_SECRET_CHARS}, key=len, reverse=True)
    if not known:
        return redact
    literal = re.compile("|".join(map(re.escape, known)))
    return lambda text: redact(literal.sub(HIDDEN, text))


def secrets_of(environment: Mapping[str, str]) -> list[str]:
    """The values of the variables that are named like secrets; lists are taken apart at their commas."""
    return [part.strip() for name, value in environment.items() if is_secret_name(name) for part in value.split(",")]


@lru_cache(1_024)
def is_secret_name(name: str) -> bool:
    """Whether what has this name is a secret: ``HF_TOKEN``, ``api_key``, ``Authorization``."""
    return _SECRET_NAME.search(name) is not None


def _hide(match: re.Match[str]) -> str:
    return f"{match[match.lastgroup or 0]}{HIDDEN}"
