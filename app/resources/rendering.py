"""Representations of responses: JSON that ends with a newline."""

from typing import Any

from pydantic import BaseModel
from starlette.responses import JSONResponse


class JSON(JSONResponse):
    """A model or a value as JSON. The newline at its end keeps a terminal's prompt on a line of its own."""

    def render(self, content: Any) -> bytes:
        text = (
            content.model_dump_json().encode() if isinstance(content, BaseModel) else super().render(content)
        )
        return text + b"\n"
