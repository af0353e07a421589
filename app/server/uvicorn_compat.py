"""What protocol.py leans on in uvicorn beyond the documented interface, and whether it is there."""

import inspect

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

_METHODS: dict[type, dict[str, list[str]]] = {
    HttpToolsProtocol: {
        "_start_asgi_task": ["self", "cycle", "app"],
        "handle_websocket_upgrade": ["self"],
        "on_message_begin": ["self"],
        "on_header": ["self", "name", "value"],
        "on_headers_complete": ["self"],
        "on_body": ["self", "body"],
        "on_message_complete": ["self"],
        "on_response_complete": ["self"],
        "timeout_keep_alive_handler": ["self"],
    },
    RequestResponseCycle: {"send": ["self", "message"]},
    FlowControl: {"__init__": ["self", "transport"], "drain": ["self"], "resume_reading": ["self"]},
}
_ATTRIBUTES: dict[type, set[str]] = {
    HttpToolsProtocol: {
        "config",
        "cycle",
        "flow",
        "loop",
        "parser",
        "pipeline",
        "scheme",
        "server_state",
        "transport",
    },
    RequestResponseCycle: {
        "body",
        "chunked_encoding",
        "disconnected",
        "expected_content_length",
        "keep_alive",
        "message_event",
        "more_body",
        "on_response",
        "response_complete",
        "response_started",
        "scope",
        "waiting_for_100_continue",
    },
    FlowControl: {"read_paused", "write_paused"},
}


def missing() -> list[str]:
    """What is not there."""
    methods = [
        f"{owner.__name__}.{name}"
        for owner, known in _METHODS.items()
        for name, parameters in known.items()
        if list(inspect.signature(getattr(owner, name, missing)).parameters) != parameters
    ]
    attributes = [
        f"{owner.__name__}.{name}"
        for owner, names in _ATTRIBUTES.items()
        for name in sorted(names - {*owner.__init__.__code__.co_names})  # type: ignore[misc]
    ]
    return methods + attributes
