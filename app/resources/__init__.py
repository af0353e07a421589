"""Thin HTTP modules: each route parses a request, makes one call, and shapes the response."""

import sys

# FastAPI imports `pydantic.v1`, 1.4 MiB, to recognize models of Pydantic 1, which Seekable does not have.
# None makes that import fail, and FastAPI continues as with a Pydantic that has no such part.
sys.modules.setdefault("pydantic.v1", None)  # type: ignore[arg-type]
