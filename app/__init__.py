"""Seekable: a small, fast, self-hosted media server."""

from pydantic import BaseModel

# Pydantic builds a model when it is first used. A start would otherwise build 50 models for OpenAPI documents
# in FastAPI alone. Here, because the models of libraries are built when they are imported.
BaseModel.model_config["defer_build"] = True
