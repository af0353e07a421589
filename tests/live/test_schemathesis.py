"""Schemathesis asks what the OpenAPI document allows, and what it does not, and holds us to it."""

import json
from pathlib import Path

import pytest

from tests.live.clients import BIN
from tests.support import run, running

pytestmark = pytest.mark.live

# The same requests in every run, to every operation of the document, with all of its checks. A name may be
# refused (400) that a JSON schema takes for valid: no pattern there tells bytes of UTF-8, or NFC.
CONFIG = """
[cache]
enabled = false

[generation]
deterministic = true
max-examples = 100

[checks.positive_data_acceptance]
expected-statuses = ["2xx", "3xx", "400", "403", "404", "409", "412", "416"]

[checks.response_schema_conformance]
validate-formats = true
"""


def test_every_operation_answers_as_it_is_documented(
    tmp_path: Path, backend_settings: dict[str, object]
) -> None:
    config, report = tmp_path / "schemathesis.toml", tmp_path / "report.json"
    config.write_text(CONFIG)
    with running(tmp_path / "server", **backend_settings) as server:
        result = run(
            *(BIN / "schemathesis", "--config-file", config, "run", f"{server.url}/openapi.json"),
            *("--no-color", "--continue-on-failure", "--report", "json", "--report-json-path", report),
            timeout=110,
            check=False,
        )
        assert result.returncode == 0, result.stdout
        with server.client() as http:
            paths = http.get("/openapi.json").json()["paths"]
        assert "Traceback" not in server.log()
    told = json.loads(report.read_text())
    assert told["operations"]["tested"] == sum(len(methods) for methods in paths.values())
    assert told["test_cases"]["generated"] > 500
    for operation, phases in told["valid_rates"].items():
        counts = [(phase["accepted"], phase["unreachable"], phase["conflicts"]) for phase in phases.values()]
        assert any(map(any, counts)), f"all that was asked of {operation} was refused unseen"
