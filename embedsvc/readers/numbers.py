"""Numbers as spreadsheets store them, to what a person reads: 1234.5, 45%, 2024-03-01."""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta

_NOT_CODE = re.compile(r'"[^"]*"|\\.|_.|\*.|\[(?!(?:h+|m+|s+)\])[^\]]*\]', re.IGNORECASE)
"""What in a format code is literal, padding, a colour, a condition or a currency."""
_DATES = {*range(14, 18), *range(27, 32), 36, *range(50, 59)}
_TIMES = {18, 19, 20, 21, 32, 33, 34, 35, 45, 47}
_PERCENT = {9, 10}
_BUILT_IN = {22: "datetime", 46: "duration"}
_LARGEST = 1e15
"""From here on spreadsheets do not keep every integer; infinity and what is no number lie beyond, too."""
_LAST_DAY = 2_958_466
"""31 December 9999, where calendars of spreadsheets end."""


def kind_of(format_id: int, code: str = "") -> str:
    """What numbers of a format are: "date", "time", "datetime", "duration", "percent" or "number"."""
    if not code:
        kinds = ((_DATES, "date"), (_TIMES, "time"), (_PERCENT, "percent"))
        return next((kind for ids, kind in kinds if format_id in ids), _BUILT_IN.get(format_id, "number"))
    bare = _NOT_CODE.sub("", code).partition(";")[0].lower()
    if "general" in bare:
        return "number"
    if re.search(r"\[(?:h+|m+|s+)\]", bare):
        return "duration"
    has_time = bool(re.search(r"[hs]", bare))
    if re.search(r"[yd]|m{3}", bare):
        return "datetime" if has_time else "date"
    if has_time:
        return "time"
    return "percent" if "%" in bare else "number"


def shown(number: float, kind: str, *, from_1904: bool = False) -> str:
    """``number`` as a person reads it. A date that no calendar has stays a number."""
    if not abs(number) < _LARGEST:
        return plain(number)
    if kind == "percent":
        return f"{plain(number * 100)}%"
    if kind == "duration":
        seconds = round(abs(number) * 86400)
        sign = "-" if number < 0 else ""
        return f"{sign}{seconds // 3600}:{seconds // 60 % 60:02}" + (f":{seconds % 60:02}" if seconds % 60 else "")
    if kind == "number" or not 0 <= number < _LAST_DAY - 1462 * from_1904:
        return plain(number)
    day, seconds = divmod(round(number * 86400), 86400)
    moment = datetime.min + timedelta(seconds=seconds)
    time = moment.strftime("%H:%M:%S" if moment.second else "%H:%M")
    if kind == "time" and not day:
        return time
    if from_1904:
        calendar = date(1904, 1, 1) + timedelta(day)
    else:
        # Day 60 is 29 February 1900, which there never was; Excel has it for the sake of Lotus 1-2-3.
        calendar = date(1899, 12, 30 if day > 60 else 31) + timedelta(day)
    return f"{calendar} {time}" if seconds else str(calendar)


def plain(number: float) -> str:
    """``number`` with the 15 digits that spreadsheets keep, without an exponent where it is of human size."""
    if abs(number) < _LARGEST and number == int(number):
        return str(int(number))
    text = f"{number:.15g}"
    if "e" in text and 1e-6 <= abs(number) < 1e21:
        text = f"{number:.20f}".rstrip("0").rstrip(".") if abs(number) < 1 else f"{number:.0f}"
    return text
