"""JSON as the answer of an HTTP handler."""

from __future__ import annotations

import msgspec
from starlette.responses import Response

__all__ = ["JSONResponse"]


class JSONResponse(Response):
    """A JSON body of anything that msgspec encodes."""

    media_type = "application/json"

    def render(self, content: object) -> bytes:
        return msgspec.json.encode(content)
