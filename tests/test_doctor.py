"""What `doctor` finds and advises."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.fake_engine import FakeEngine, entry
from tts_provider.doctor import Report, Requirement, Trial, examine, fits, read_requirements
from tts_provider.errors import UnknownModel

PRESENT = Requirement("trio", ">=0.20")
ABSENT = Requirement("a-package-that-nobody-has", ">=1")


async def spoke() -> float:
    return 0.5


async def failed() -> float:
    raise OSError("The line is dead.")


async def report(
    *requirements: Requirement, default: str = "fake", trial: Trial | None = spoke, players: Sequence[str] = ("ffplay",)
) -> Report:
    """What is found on a machine with a working and a broken engine."""
    return await examine(
        [entry(FakeEngine(), "tones"), entry(FakeEngine("broken"), unavailable=lambda: "Install this: pip install it")],
        default,
        requirements=requirements,
        players=players,
        trial=trial,
        explain=str,
    )


async def test_all_is_well_when_the_default_engine_spoke() -> None:
    found = await report(PRESENT, default="TONES")
    assert found.healthy
    assert found.fixes == []
    assert "fake (default): spoke after 0.5 s" in found.text
    assert "broken: Install this: pip install it" in found.text


async def test_a_default_engine_that_does_not_speak_is_no_health() -> None:
    found = await report(trial=failed)
    assert not found.healthy
    assert "fake (default): The line is dead." in found.text


async def test_without_a_trial_it_counts_that_the_engine_is_installed() -> None:
    assert (await report(trial=None)).healthy
    found = await report(default="broken", trial=spoke)
    assert not found.healthy
    assert "broken (default): Install this" in found.text


async def test_a_missing_package_is_named_with_the_command_that_installs_it() -> None:
    found = await report(PRESENT, ABSENT)
    assert not found.healthy
    assert [fix for fix in found.fixes if fix.endswith("-m pip install 'a-package-that-nobody-has>=1'")]


async def test_a_missing_package_of_an_extra_does_no_harm() -> None:
    found = await report(Requirement("a-package-that-nobody-has", extra="broken"), Requirement("trio", "<0.1", "old"))
    assert found.healthy
    assert "missing  for broken" in found.text
    assert "is too old or too new  for old" in found.text


async def test_a_missing_player_has_a_cure() -> None:
    found = await report(players=())
    assert found.healthy
    assert "pip install miniaudio" in found.text


async def test_an_unknown_default_engine_is_an_error() -> None:
    with pytest.raises(UnknownModel):
        await report(default="gpt")


@pytest.mark.parametrize(
    ("version", "specifier", "expected"),
    [
        ("2.8", ">=2.8", True),
        ("2.10.1", ">=2.9,<3", True),
        ("2.13.0+cpu", ">=2.8,<2.13.1", True),
        ("3.0", ">=2.9,<3", False),
        ("2.7.9", ">=2.8", False),
        ("0.2.4", "==0.2.4", True),
        ("0.2.4.0", "==0.2.4", True),
        ("0.2.5", "==0.2.4", False),
        ("1.0rc1", ">=1.0", True),
        ("1", "", True),
    ],
)
def test_versions_are_compared_by_their_numbers(version: str, specifier: str, expected: bool) -> None:
    assert fits(version, specifier) is expected


def test_requirements_are_read_as_the_project_writes_them() -> None:
    assert Requirement.parse("torch>=2.8; extra == 'zonos'") == Requirement("torch", ">=2.8", "zonos")
    assert Requirement.parse("edge-tts <8, >=7.3.1") == Requirement("edge-tts", "<8,>=7.3.1")
    assert Requirement.parse("a[b]>=1", "play") == Requirement("a", ">=1", "play")
    found = read_requirements()
    assert {item.extra for item in found} >= {"", "espeak", "sesame", "zonos", "play"}
    assert {"trio", "anyio", "edge-tts"} <= {item.name for item in found if not item.extra}
    assert all(item.extra not in ("dev", "test") for item in found)
