"""HTTP-dates (RFC 9110 §5.6.7). Independent of the locale, hence without strftime. Pure."""

import re
from datetime import UTC, datetime, timedelta

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_LONG_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

_DAY = rf"(?:{'|'.join(_DAYS)})"
_LONG_DAY = rf"(?:{'|'.join(_LONG_DAYS)})"
_MONTH = rf"(?P<month>{'|'.join(_MONTHS)})"
_TIME = "(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-5][0-9]|60)"  # 60 is a leap second

_FORMATS = (
    re.compile(rf"{_DAY}, (?P<day>[0-9]{{2}}) {_MONTH} (?P<year>[0-9]{{4}}) {_TIME} GMT"),
    re.compile(rf"{_LONG_DAY}, (?P<day>[0-9]{{2}})-{_MONTH}-(?P<year>[0-9]{{2}}) {_TIME} GMT"),
    re.compile(rf"{_DAY} {_MONTH} (?P<day>[0-9]{{2}}| [0-9]) {_TIME} (?P<year>[0-9]{{4}})"),
)
"""IMF-fixdate, rfc850-date and asctime-date."""

_RESOLUTION = timedelta(milliseconds=1)
"""The smallest difference between two dates that every database keeps."""


def format_date(moment: datetime) -> str:
    """Format a moment as an IMF-fixdate, without its fraction of a second (RFC 9110 §5.6.7)."""
    utc = moment.astimezone(UTC)
    day, month = _DAYS[utc.weekday()], _MONTHS[utc.month - 1]
    return f"{day}, {utc.day:02} {month} {utc.year:04} {utc.hour:02}:{utc.minute:02}:{utc.second:02} GMT"


def parse_date(value: str, now: datetime | None = None) -> datetime | None:
    """Parse an HTTP-date in any format, or return None; `now` resolves two-digit years (RFC 9110 §5.6.7)."""
    for pattern in _FORMATS:
        match = pattern.fullmatch(value)
        if match is not None:
            return _moment(match, now)
    return None


def _moment(match: re.Match[str], now: datetime | None) -> datetime | None:
    month = _MONTHS.index(match["month"]) + 1
    day, hour, minute, second = (int(match[name]) for name in ("day", "hour", "minute", "second"))
    year = int(match["year"])
    if len(match["year"]) == 2:
        year = _full_year(year, (month, day, hour, minute, second), now or datetime.now(UTC))
    try:
        # Seconds are added because a datetime has no leap second.
        return datetime(year, month, day, hour, minute, tzinfo=UTC) + timedelta(seconds=second)
    except (ValueError, OverflowError):
        return None


def _full_year(year: int, rest: tuple[int, ...], now: datetime) -> int:
    """Resolve a two-digit year: more than 50 years ahead means the past (RFC 9110 §5.6.7)."""
    year += now.year - now.year % 100
    # Tuples are compared because 50 years from a 29 February there may be no such day.
    is_far_ahead = (year - 50, *rest) > now.astimezone(UTC).timetuple()[:6]
    return year - 100 if is_far_ahead else year


def modification_date(date: datetime, previous: datetime | None, now: datetime) -> datetime:
    """Return the modification date of a version of this date that replaces one of the date `previous`.

    It lies in a later second than every Last-Modified that was sent for that one: HTTP-dates have whole
    seconds, so If-Modified-Since could not distinguish the two otherwise. It may be up to a second in the
    future; responses send the present instead (RFC 9110 §8.8.2.1).
    """
    date = min(date, now)
    if previous is None:
        return date
    for candidate in (date, now):
        if candidate.replace(microsecond=0) > previous.replace(microsecond=0):
            return candidate
    return max(previous + _RESOLUTION, now.replace(microsecond=0) + timedelta(seconds=1))
