"""An incremental parser of multipart/form-data (RFC 7578): bytes in, events out, no I/O."""

import logging
import re
from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser

from app.http.errors import BadForm, UnsupportedForm
from app.http.grammar import (
    decode_encoded_word,
    extended_of,
    parameters_of,
    unquote,
    unquote_form,
    value_without_parameters,
)

MAX_BOUNDARY_BYTES = 70
MAX_PARTS = 32
MAX_FIELD_BYTES = 8 * 1024
MAX_HEADERS = 8
MAX_HEADER_BYTES = 4 * 1024

FILE = "file"
"""The name of the part that contains the file."""

_ONCE = frozenset({FILE, "folder", "sid"})
_IDENTITY_ENCODINGS = frozenset({b"binary", b"8bit", b"7bit"})
_HEADERS_READ = frozenset({b"content-disposition", b"content-type", b"content-transfer-encoding"})
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_BOUNDARY = re.compile(r"[ -~]*[!-~]")

# The parser logs each malformed form, so a stranger could fill the log. This logger has no parent, so that
# no other configuration reaches it.
_SILENT = logging.Logger("silent", level=logging.CRITICAL + 1)


@dataclass(frozen=True, slots=True)
class Field:
    """A complete part other than the file."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class FileStarted:
    """The unchecked filename and type from the headers of the file part."""

    filename: str
    content_type: str | None


@dataclass(frozen=True, slots=True)
class FileData:
    """The next bytes of the file; never empty."""

    data: bytes


Event = Field | FileStarted | FileData


def boundary_of(content_type: str | None) -> bytes:
    """Return a form's boundary (RFC 2046 §5.1.1). Raises UnsupportedForm for another type, else BadForm."""
    if content_type is None or value_without_parameters(content_type) != "multipart/form-data":
        raise UnsupportedForm("An upload form has the Content-Type multipart/form-data.")
    try:
        boundary = unquote(parameters_of(content_type).get("boundary", ""))
    except ValueError:
        raise BadForm("The Content-Type of the form is malformed.") from None
    if not boundary:
        raise BadForm("The Content-Type of the form names no boundary.")
    if len(boundary) > MAX_BOUNDARY_BYTES or not _BOUNDARY.fullmatch(boundary):
        raise BadForm(
            f"A boundary is at most {MAX_BOUNDARY_BYTES} printable ASCII characters, the last not a space."
        )
    return boundary.encode("ascii")


@dataclass(slots=True)
class _Part:
    header_name: bytearray = field(default_factory=bytearray)
    header_value: bytearray = field(default_factory=bytearray)
    headers: dict[bytes, bytes] = field(default_factory=dict)
    name: str = ""
    value: bytearray = field(default_factory=bytearray)


class FormReader:
    """A parser for one form. Buffers at most the current headers and the current field.

    `boundary` comes from `boundary_of`. `feed` returns the events of the given bytes, at most one FileData
    among them: no byte of the file waits for the next call, except those that may begin a boundary.
    """

    def __init__(self, boundary: bytes) -> None:
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._on_part_begin,
                "on_header_field": self._on_header_field,
                "on_header_value": self._on_header_value,
                "on_header_end": self._on_header_end,
                "on_headers_finished": self._on_headers_finished,
                "on_part_data": self._on_part_data,
                "on_part_end": self._on_part_end,
                "on_end": self._on_end,
            },
            max_header_count=MAX_HEADERS,
            max_header_size=MAX_HEADER_BYTES,
        )
        self._parser.logger = _SILENT
        self._events: list[Event] = []
        self._slices: list[bytes] = []
        self._part = _Part()
        self._parts = 0
        self._seen: set[str] = set()
        self._started = self._ended = self._failed = False

    def feed(self, data: bytes) -> list[Event]:
        """Return the events in the next bytes of the body. Raises BadForm; after an error, each time."""
        if self._failed:
            raise BadForm("The form was refused.")
        if not self._started:
            # After a line break the parser would skip everything up to the first hyphen.
            data = data.lstrip(b"\r\n")
            self._started = bool(data)
        self._failed = True
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise BadForm(
                "The form is not well-formed multipart/form-data, or a part has too many or too long headers."
            ) from error
        self._failed = False
        self._flush_file()
        events, self._events = self._events, []
        return events

    def finish(self) -> None:
        """Mark the end of the body. Raises BadForm unless the form was complete and contained a file."""
        if not self._ended:
            raise BadForm("The form ends before its closing boundary. Upload the file again.")
        if FILE not in self._seen:
            raise BadForm(f"The form has no part named {FILE!r}.")

    def _on_part_begin(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise BadForm(f"A form has at most {MAX_PARTS} parts.")
        self._part = _Part()

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._part.header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._part.header_value += data[start:end]

    def _on_header_end(self) -> None:
        part = self._part
        name, value = bytes(part.header_name).lower(), bytes(part.header_value).strip(b" \t")
        part.header_name.clear()
        part.header_value.clear()
        if _CONTROL.search(value):
            raise BadForm("A header of a part holds a control character.")
        if name in part.headers:
            raise BadForm("A part has the same header twice.")
        if name in _HEADERS_READ:
            part.headers[name] = value

    def _on_headers_finished(self) -> None:
        headers = self._part.headers
        name, filename = _names(headers.get(b"content-disposition"))
        if headers.get(b"content-transfer-encoding", b"binary").lower() not in _IDENTITY_ENCODINGS:
            raise UnsupportedForm(
                "A part of the form has a Content-Transfer-Encoding that is not decoded here."
            )
        if name in _ONCE and name in self._seen:
            raise BadForm(f"The form has more than one part named {name!r}.")
        self._seen.add(name)
        self._part.name = name
        if name == FILE:
            self._events.append(_file_started(filename, headers.get(b"content-type")))
        elif filename:
            raise BadForm(f"A file belongs in the part named {FILE!r}; no other has a filename.")

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._part.name == FILE:
            self._slices.append(data[start:end])  # slicing a whole object copies nothing
            return
        if len(self._part.value) + end - start > MAX_FIELD_BYTES:
            raise BadForm(f"A field of the form is at most {MAX_FIELD_BYTES} bytes long.")
        self._part.value += data[start:end]

    def _on_part_end(self) -> None:
        if self._part.name == FILE:
            self._flush_file()
            return
        try:
            value = self._part.value.decode()
        except UnicodeDecodeError:
            raise BadForm("A field of the form is not valid UTF-8.") from None
        self._events.append(Field(self._part.name, value))

    def _on_end(self) -> None:
        self._ended = True

    def _flush_file(self) -> None:
        if self._slices:
            slices, self._slices = self._slices, []
            self._events.append(FileData(slices[0] if len(slices) == 1 else b"".join(slices)))


def _names(disposition: bytes | None) -> tuple[str, str | None]:
    """Return the name and the filename of a part, from its Content-Disposition (RFC 7578 §4.2)."""
    try:
        text = (disposition or b"").decode()
        parameters = parameters_of(text)
    except UnicodeDecodeError:
        raise BadForm("The Content-Disposition of a part is not valid UTF-8.") from None
    except ValueError:
        raise BadForm("The Content-Disposition of a part is malformed.") from None
    name = unquote_form(parameters.get("name", ""))
    if value_without_parameters(text) != "form-data" or not name:
        raise BadForm("Every part of a form has a Content-Disposition of form-data, with a name.")
    return name, _filename(text, parameters.get("filename"))


def _filename(disposition: str, given: str | None) -> str | None:
    """Return the filename. .NET sends a forbidden `filename*` (RFC 7578 §4.2) beside an encoded-word."""
    filename = None if given is None else unquote_form(given)
    decoded = None if filename is None else decode_encoded_word(filename)
    return filename if decoded is None else extended_of(disposition, "filename") or decoded


def _file_started(filename: str | None, content_type: bytes | None) -> FileStarted:
    if not filename:
        raise BadForm(f"The part named {FILE!r} has no filename.")
    return FileStarted(filename, None if content_type is None else content_type.decode("latin-1"))
