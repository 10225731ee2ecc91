"""Every knob, once: its name, type, default, unit and meaning.

A value comes from the first of these that has one: the command line (``--idle-unload-s 60``), the environment
(``TTS_IDLE_UNLOAD_S=60``), a TOML file (``idle_unload_s = 60``; a table's name is a prefix, so that ``[edge]`` with
``max_turns = 8`` is ``edge_max_turns``), the default below. ``python -m tts_provider serve --print-config`` shows the result.
Secrets have no flag: everybody on a machine can read the command lines of all.
"""

from __future__ import annotations

import argparse
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, get_args, get_type_hints

from tts_provider.redaction import redact

__all__ = ["ENVIRONMENT_PREFIX", "Settings", "SettingsError", "add_flags", "load_settings", "to_toml"]

ENVIRONMENT_PREFIX: Final = "TTS_"


class SettingsError(ValueError):
    """A value that cannot be used; the message says where it stood and what would be right."""


def _knob(default: Any, meaning: str, *, secret: bool = False, choices: tuple[str, ...] = ()) -> Any:
    return field(default=default, repr=not secret, metadata={"meaning": meaning, "secret": secret, "choices": choices})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The whole configuration of a server. Times are in seconds, sizes in bytes."""

    host: str = _knob("127.0.0.1", "address to listen on; 0.0.0.0 for all")
    port: int = _knob(9000, "TCP port; 0 takes a free one")
    wyoming_port: int = _knob(0, "TCP port for Wyoming (Home Assistant), customarily 10200; 0 is off")
    api_keys: tuple[str, ...] = _knob(
        (), "keys, one of which a client must have, separated by commas; none: all may", secret=True
    )
    api_keys_file: str = _knob("", "file with further keys, one a line; lines that begin with # say nothing")
    allowed_origins: tuple[str, ...] = _knob(
        (), "web pages besides the server's own that may use it, as https://example.org, separated by commas; * for all"
    )
    tls_cert: str = _knob("", "PEM file with the certificate and its chain; then the port speaks https and wss")
    tls_key: str = _knob("", "PEM file with the certificate's key, where tls_cert does not hold it")
    default_model: str = _knob("edge", "engine of requests that name none")
    fallback: tuple[str, ...] = _knob(
        (),
        "engines that speak in place of one that cannot, in order, until a request's first audio; or chains for single "
        "engines, as sesame>edge>espeak; separated by commas",
    )
    preload: tuple[str, ...] = _knob((), "engines to load before the server calls itself ready, separated by commas")
    idle_unload_s: float = _knob(0.0, "unload an engine that nobody used for so long; 0 keeps it")
    log_level: str = _knob("info", "least level to log", choices=("debug", "info", "warning", "error"))
    log_format: str = _knob("auto", "auto is text on a terminal and JSON elsewhere", choices=("auto", "json", "text"))
    log_text: bool = _knob(False, "log texts themselves, not only their length")

    max_connections: int = _knob(1000, "open connections, all clients together")
    max_connections_per_address: int = _knob(
        50, "open connections of one address, or of one IPv6 /64: a NAT's worth of users; 0 is without limit"
    )
    uncounted_addresses: tuple[str, ...] = _knob(
        ("127.0.0.0/8", "::1"),
        "networks whose connections have no limit of their own, separated by commas: reverse proxies stand for many clients",
    )
    max_message_bytes: int = _knob(1_048_576, "longest message that a client may send: 1 MiB, what common clients allow too")
    max_fragments: int = _knob(256, "frames of one message; clients send one, browsers a few")
    max_frames_per_s: int = _knob(
        1000, "frames of one client a second, twice as many at once: text comes at 100 tokens a second; 0 is without limit"
    )
    max_pings_per_s: int = _knob(100, "pings of one client a second, twice as many at once; 0 is without limit")
    max_commands_per_s: int = _knob(
        50, "info, voices, preload and hello of one client a second, twice as many at once; 0 is without limit"
    )
    max_text_chars: int = _knob(
        100_000, "longest text not yet spoken of one request, in code points: about two hours of speech"
    )
    max_queued_requests: int = _knob(32, "requests waiting on one connection that is not multiplexed")
    max_streams: int = _knob(32, "requests running side by side on one multiplexed connection")
    max_active: int = _knob(
        500, "requests that an engine without slots of its own speaks at once: as many streams as one process keeps in time"
    )
    queue_per_slot: int = _knob(
        4, "requests that may wait for an engine, for each that it speaks at once (but 8 at least); 0 is none"
    )
    queue_s: float = _knob(10.0, "wait for an engine at most; who would wait longer is told to come back. People leave sooner")
    handshake_s: float = _knob(5.0, "until the head of a request has come")
    send_stall_s: float = _knob(10.0, "a client that takes no byte for so long is dropped")
    ping_interval_s: float = _knob(20.0, "between pings")
    ping_timeout_s: float = _knob(20.0, "until a ping must be answered")
    idle_s: float = _knob(300.0, "a connection without a request for so long is closed")
    close_s: float = _knob(2.0, "for the closing handshake")
    openai_voices: tuple[str, ...] = _knob(
        (), "voices that OpenAI's names mean, as nova=1 or edge/nova=en-US-AriaNeural, separated by commas"
    )
    wyoming_silence_after_s: float = _knob(
        0.0, "comfort silence for a Wyoming client that heard nothing for so long (satellites give up after 5 s); 0 is off"
    )
    drain_s: float = _knob(8.0, "for running requests to end after SIGTERM; docker stop waits 10 s")

    edge_endpoint: str = _knob("", "scheme, host and port that stand in for Microsoft's service (ws:// or wss://)")
    edge_proxy: str = _knob("", "HTTP proxy for Edge, http://host:port")
    edge_max_turns: int = _knob(64, "requests to Edge at the same time; 429 was seen near 500, more than 40 was called spam")
    edge_preconnect: int = _knob(0, "connections to Edge opened ahead")
    edge_cache_dir: str = _knob("", "where Edge's voice list is kept; empty for the user's cache folder")
    espeak_library: str = _knob("", "libespeak-ng to use instead of the one that is installed")
    espeak_workers: int = _knob(1, "espeak-ng processes; one makes over 300 s of audio a second")
    sesame_model: str = _knob("sesame/csm-1b", "hub id or folder")
    sesame_dtype: str = _knob("auto", "of the language model", choices=("auto", "float32", "bfloat16"))
    sesame_temperature: float = _knob(0.9, "0 is greedy")
    sesame_top_k: int = _knob(50, "candidates for each code")
    sesame_slots: int = _knob(8, "requests spoken at the same time")
    sesame_voices: str = _knob("", "folder of prompts: N.wav with its transcript N.txt")
    zonos_model: str = _knob("Zyphra/Zonos-v0.1-transformer", "hub id or folder")
    zonos_speaker_model: str = _knob("Zyphra/Zonos-v0.1-speaker-embedding", "hub id or folder")
    zonos_dac: str = _knob("descript/dac_44khz", "hub id or folder")
    zonos_speakers: str = _knob("", "folder of reference audio: N.wav or speaker_N.wav for speaker N")
    zonos_dtype: str = _knob("auto", "of the language model", choices=("auto", "float32", "bfloat16"))
    zonos_slots: int = _knob(8, "requests spoken at the same time")

    def __post_init__(self) -> None:
        for knob in fields(self):
            value = getattr(self, knob.name)
            if isinstance(value, int | float) and not isinstance(value, bool) and value < 0:
                raise SettingsError(f"{knob.name} must not be negative, but is {value}.")
            choices = knob.metadata["choices"]
            if choices and value not in choices:
                raise SettingsError(f"{knob.name} must be one of {', '.join(choices)}, but is {value!r}.")
        if not self.max_active:
            raise SettingsError("max_active must be at least 1.")
        for name, port in (("port", self.port), ("wyoming_port", self.wyoming_port)):
            if port > 65535:
                raise SettingsError(f"{name} must be at most 65535, but is {port}.")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add ``--config`` and a flag for each knob that is no secret; what is not given is absent from the namespace."""
    parser.add_argument("--config", metavar="FILE", type=Path, help="TOML file with any of these")
    for knob in fields(Settings):
        if knob.metadata["secret"]:
            continue
        flag = "--" + knob.name.replace("_", "-")
        default = ",".join(knob.default) if isinstance(knob.default, tuple) else knob.default
        text = f"{knob.metadata['meaning']} (default: {default if default != '' else 'none'})"
        parser.add_argument(flag, dest=knob.name, metavar="X", default=argparse.SUPPRESS, help=text.replace("%", "%%"))


def load_settings(flags: Mapping[str, object], environment: Mapping[str, str], file: Path | None = None) -> Settings:
    """The settings from all their sources.

    Raises:
        SettingsError: a value has the wrong type or range, or the file cannot be read or names a knob that does not exist.
    """
    types = get_type_hints(Settings)
    values: dict[str, Any] = {}
    if file is not None:
        values |= {name: _convert(name, value, types, f"in {file.name}") for name, value in _read_toml(file).items()}
    for name in types:
        variable = ENVIRONMENT_PREFIX + name.upper()
        if variable in environment:
            values[name] = _convert(name, environment[variable], types, f"in {variable}")
    for name in types.keys() & flags.keys():
        values[name] = _convert(name, flags[name], types, f"of --{name.replace('_', '-')}")
    return Settings(**values)


def _read_toml(file: Path) -> dict[str, object]:
    try:
        tree = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"The configuration file cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"The configuration file is not TOML: {error}.") from error
    flat: dict[str, object] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= {f"{name}_{inner}": deeper for inner, deeper in value.items()}
        else:
            flat[name] = value
    return flat


def _convert(name: str, value: object, types: Mapping[str, Any], where: str) -> Any:
    """`value` as the knob's type, from TOML's types or from text."""
    kind = types.get(name)
    if kind is None:
        raise SettingsError(f"There is no setting '{name}' ({where}).")
    if get_args(kind):  # the tuples of strings
        parts = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else None
        if parts is not None and all(isinstance(part, str) for part in parts):
            return tuple(part.strip() for part in parts if part.strip())
    elif kind is bool:
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in _BOOLEANS:
            return _BOOLEANS[value.lower()]
    elif kind is str:
        if isinstance(value, str):
            return value
    elif isinstance(value, str | int | float) and not isinstance(value, bool):
        try:
            return kind(value)
        except ValueError:
            pass
    shown = "" if name in _SECRETS else f", but is {value!r}"
    raise SettingsError(f"The value {where} must be {_TYPE_NAMES.get(kind, 'a list of names')}{shown}.")


_BOOLEANS: Final = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
_SECRETS: Final = frozenset(knob.name for knob in fields(Settings) if knob.metadata["secret"])
_TYPE_NAMES: Final = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def to_toml(settings: Settings) -> str:
    """`settings` as a TOML file, each knob with its meaning; secrets are left out."""
    lines = []
    for knob in fields(settings):
        value = getattr(settings, knob.name)
        shown = '"..."' if knob.metadata["secret"] and value else redact(json.dumps(value, ensure_ascii=False))
        lines.append(f"{knob.name} = {shown}  # {knob.metadata['meaning']}")
    return "\n".join(lines) + "\n"
