"""``doctor``: what is installed, what each engine lacks, and the command that fixes it."""

from __future__ import annotations

import platform
import re
import shlex
import sys
import tomllib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Final

from tts_provider.engines.catalog import Catalog, Entry

__all__ = ["Report", "Requirement", "Trial", "examine", "read_requirements"]

DISTRIBUTION: Final = "tts-provider"
DEVELOPERS_EXTRAS: Final = ("dev", "test")

Trial = Callable[[], Awaitable[float]]
"""Has the default engine speak; the seconds that it took. What it raises says why it cannot."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """A package that the whole needs, or one of its extras."""

    name: str
    specifier: str = ""
    """Such as ``>=2.8,<3``."""
    extra: str = ""

    @classmethod
    def parse(cls, text: str, extra: str = "") -> Requirement:
        """From the notation of PEP 508, as far as this project uses it."""
        requirement, _, marker = text.partition(";")
        match = re.match(r"\s*([A-Za-z0-9._-]+)\s*(?:\[[^\]]*\])?(.*)", requirement)
        assert match is not None, text
        named = re.search(r"""extra\s*==\s*["']([^"']+)["']""", marker)
        return cls(match[1], "".join(match[2].split()), named[1] if named else extra)

    @property
    def version(self) -> str | None:
        """The installed version; None when there is none."""
        try:
            return metadata.version(self.name)
        except metadata.PackageNotFoundError:
            return None

    @property
    def met(self) -> bool:
        """Whether a version that fits is installed."""
        return self.version is not None and fits(self.version, self.specifier)

    def __str__(self) -> str:
        return self.name + self.specifier


def fits(version: str, specifier: str) -> bool:
    """Whether `version` satisfies each of the ``>=``, ``<`` and ``==`` in `specifier`; other clauses count as satisfied."""
    have = _numbers(version)
    for clause in filter(None, specifier.split(",")):
        operator, wanted = re.match(r"([<>=!~]+)(.*)", clause).groups()  # type: ignore[union-attr]
        want = _numbers(wanted)
        if (operator == ">=" and have < want) or (operator == "<" and have >= want) or (operator == "==" and have != want):
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    """The release's numbers without what is local to a build, such as ``+cpu``, and without zeros at the end."""
    release = re.match(r"[0-9.]*", version)
    numbers = [int(number) for number in (release[0] if release else "").split(".") if number]
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


def read_requirements() -> list[Requirement]:
    """What the project says that it needs: from the installed package, else from the checkout that this runs in."""
    try:
        found = [Requirement.parse(line) for line in metadata.requires(DISTRIBUTION) or []]
    except metadata.PackageNotFoundError:
        file = Path(__file__).parent.parent / "pyproject.toml"
        if not file.is_file():
            return []
        project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
        found = [Requirement.parse(line) for line in project["dependencies"]]
        for extra, lines in project["optional-dependencies"].items():
            found += [Requirement.parse(line, extra) for line in lines]
    return [item for item in found if item.extra not in DEVELOPERS_EXTRAS and item.name != DISTRIBUTION]


@dataclass
class Report:
    """What was found."""

    lines: list[str] = field(default_factory=list)
    fixes: list[str] = field(default_factory=list)
    """Commands. What an engine lacks stands with the engine, which knows its own cure."""
    healthy: bool = True
    """Whether the default engine can work."""

    @property
    def text(self) -> str:
        fixes = ["", "To fix:", *(f"  {fix}" for fix in self.fixes)] if self.fixes else []
        verdict = "The default engine works." if self.healthy else "The default engine does not work."
        return "\n".join([*self.lines, *fixes, "", verdict])


async def examine(
    entries: Iterable[Entry],
    default_model: str,
    *,
    requirements: Sequence[Requirement],
    players: Sequence[str],
    trial: Trial | None,
    explain: Callable[[BaseException], str],
) -> Report:
    """Look at everything.

    Args:
        trial: has the default engine speak; None leaves that out.
        explain: an error of the trial as a sentence.

    Raises:
        UnknownModel: there is no engine named `default_model`.
    """
    catalog = Catalog(entries, default=default_model)
    report = Report()
    report.lines += [f"Python {platform.python_version()} on {platform.system()} {platform.machine()}", "", "Packages"]
    _examine_packages(report, requirements)
    report.lines += ["", "Engines"]
    await _examine_engines(report, catalog, trial, explain)
    report.lines += ["", f"Players installed: {', '.join(players) or 'none'}"]
    if not players:
        report.fixes.append(_install("miniaudio"))
    return report


def _examine_packages(report: Report, requirements: Sequence[Requirement]) -> None:
    width = max((len(str(item)) for item in requirements), default=0)
    for item in sorted(requirements, key=lambda item: (item.extra, item.name)):
        version = item.version
        state = "missing" if version is None else version if item.met else f"{version} is too old or too new"
        purpose = f"  for {item.extra}" if item.extra else ""
        report.lines.append(f"  {str(item).ljust(width)}  {state}{purpose}")
    broken = [str(item) for item in requirements if not item.extra and not item.met]
    if broken:
        report.healthy = False
        report.fixes.append(_install(*broken))
    torch = _version("torch") or ""
    if "+cpu" in torch and "+cpu" not in (_version("torchaudio") or "+cpu"):
        report.fixes.append(
            f"{shlex.quote(sys.executable)} -m pip uninstall torchaudio"
            "  # built for CUDA; beside a CPU torch it breaks the import of transformers"
        )


def _version(package: str) -> str | None:
    return Requirement(package).version


async def _examine_engines(
    report: Report, catalog: Catalog, trial: Trial | None, explain: Callable[[BaseException], str]
) -> None:
    for entry in catalog.entries:
        is_default = entry.name == catalog.default
        reason = entry.unavailable()
        if reason is None and is_default and trial is not None:
            try:
                seconds = await trial()
            except Exception as error:
                reason = explain(error)
            else:
                report.lines.append(f"  {entry.name} (default): spoke after {seconds:.1f} s")
                continue
        name = f"{entry.name} (default)" if is_default else entry.name
        report.lines.append(f"  {name}: {reason or 'installed'}")
        if reason is not None and is_default:
            report.healthy = False


def _install(*packages: str) -> str:
    return shlex.join([sys.executable, "-m", "pip", "install", *packages])
