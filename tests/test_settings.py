"""Settings: one value for each knob, from the first source that has one."""

from __future__ import annotations

import argparse
import tomllib
from pathlib import Path

import pytest

from tts_provider.settings import Settings, SettingsError, add_flags, load_settings, to_toml


def test_flags_win_over_the_environment_over_the_file_over_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "tts.toml"
    file.write_text('port = 1\nhost = "file"\nidle_s = 5\n[edge]\nmax_turns = 7\n', encoding="utf-8")
    settings = load_settings({"port": "3"}, {"TTS_PORT": "2", "TTS_HOST": "environment", "PATH": "/bin"}, file)
    assert (settings.port, settings.host, settings.idle_s, settings.edge_max_turns, settings.edge_preconnect) == (
        3,
        "environment",
        5.0,
        7,
        0,
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("port", "nine"),
        ("port", "-1"),
        ("port", "70000"),
        ("log_text", "maybe"),
        ("log_level", "loud"),
        ("idle_s", ""),
        ("max_active", "0"),
    ],
)
def test_a_wrong_value_is_told_in_one_sentence(name: str, text: str) -> None:
    with pytest.raises(SettingsError, match=r"must .*\.$"):
        load_settings({}, {f"TTS_{name.upper()}": text})


def test_a_knob_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "tts.toml"
    file.write_text("prot = 9000", encoding="utf-8")
    with pytest.raises(SettingsError, match="no setting 'prot'"):
        load_settings({}, {}, file)


def test_a_file_that_is_no_toml_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "tts.toml"
    file.write_text("port: 9000", encoding="utf-8")
    with pytest.raises(SettingsError, match="not TOML"):
        load_settings({}, {}, file)
    with pytest.raises(SettingsError, match="cannot be read"):
        load_settings({}, {}, tmp_path / "missing.toml")


def test_lists_and_booleans_are_read_from_text() -> None:
    settings = load_settings({}, {"TTS_PRELOAD": "espeak, edge", "TTS_LOG_TEXT": "yes"})
    assert settings.preload == ("espeak", "edge")
    assert settings.log_text is True


def test_every_knob_has_a_flag() -> None:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    arguments = parser.parse_args(["--edge-max-turns", "5", "--preload", "espeak"])
    settings = load_settings({k: v for k, v in vars(arguments).items() if k != "config"}, {})
    assert (settings.edge_max_turns, settings.preload) == (5, ("espeak",))


def test_printed_settings_load_to_the_same(tmp_path: Path) -> None:
    """What --print-config shows is a configuration file."""
    settings = load_settings({"preload": "edge", "port": "0"}, {})
    file = tmp_path / "tts.toml"
    file.write_text(to_toml(settings), encoding="utf-8")
    assert tomllib.loads(to_toml(settings))["port"] == 0
    assert load_settings({}, {}, file) == settings
    assert load_settings({}, {}, file) != Settings()
