"""``python -m tts_provider``: the same as ``tts-provider``."""

from __future__ import annotations

import sys

from tts_provider.cli import main

sys.exit(main())
