"""Downloads from the hub that report how far they are."""

from __future__ import annotations

import importlib
from typing import Any

from tts_provider.engines.base import ProgressReport

__all__ = ["progress_bar"]


def progress_bar(report: ProgressReport) -> Any:
    """A class that the hub takes for a progress bar, and that reports instead of drawing."""
    tqdm: Any = importlib.import_module("tqdm").tqdm

    def start(bar: Any, *args: Any, **kwargs: Any) -> None:
        bar.in_bytes = kwargs.get("unit") == "B"
        kwargs["disable"] = True
        tqdm.__init__(bar, *args, **kwargs)

    def update(bar: Any, n: float | None = 1) -> None:
        bar.n += n or 0
        if bar.in_bytes and bar.total:
            report(min(1.0, bar.n / bar.total), "downloading the model")

    return type("ReportingBar", (tqdm,), {"__init__": start, "update": update})
