"""Whether a command printed what its documentation shows: the words, and the numbers to the digits that are written.

A line `...` stands for any lines. Times, and what a machine is (its speed, its free memory), differ from run to run and
are not compared; sizes may differ by a tenth. Space at the ends of lines does not count.
"""

from __future__ import annotations

import re

__all__ = ["difference"]

NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?(?![\d])")
DATE = re.compile(r"\d{4}-\d\d-\d\d(?:T\d\d:\d\d:\d\d)?")
CHANGING = re.compile(r"(?P<number>-?\d[\d,]*(?:\.\d+)?) (?P<unit>s|ms|tokens/s|[kMG]?B/s|[kMG]i?B|B)(?![\w/])")
PEAK = re.compile(r"peak memory  .*")


def difference(shown: str, printed: str) -> str | None:
    """The first line that is not as shown, and what was printed there; None where all is."""
    wanted = [line.rstrip() for line in shown.strip("\n").splitlines()]
    got = [line.rstrip() for line in printed.strip("\n").splitlines()]
    return _compare(wanted, got)


def _compare(wanted: list[str], got: list[str]) -> str | None:
    for i, line in enumerate(wanted):
        if line == "...":
            rest = wanted[i + 1 :]
            tails = range(i, len(got) + 1) if rest else ()
            if not rest or any(_compare(rest, got[begin:]) is None for begin in tails):
                return None
            return f"nothing that was printed ends in {rest[0]!r} and what follows it"
        if i >= len(got):
            return f"{line!r} is shown, and nothing more was printed"
        if not _same_line(line, got[i]):
            return f"{line!r} is shown, and {got[i]!r} was printed"
    if len(got) > len(wanted):
        return f"{got[len(wanted)]!r} was printed, and is not shown"
    return None


def _same_line(shown: str, printed: str) -> bool:
    """Words, spacing of more than one space aside, and numbers."""
    if shown == printed:
        return True
    sizes, words = _taken_apart(shown)
    other_sizes, other_words = _taken_apart(printed)
    if len(sizes) != len(other_sizes) or any(
        abs(a - b) > 0.1 * max(a, b) for a, b in zip(sizes, other_sizes, strict=True)
    ):
        return False
    if _without_numbers(words) != _without_numbers(other_words):
        return False
    numbers, other_numbers = NUMBER.findall(words), NUMBER.findall(other_words)
    return all(_same_number(a, b) for a, b in zip(numbers, other_numbers, strict=True))


def _taken_apart(line: str) -> tuple[list[float], str]:
    """Sizes in bytes, and the line without sizes, times and dates."""
    sizes: list[float] = []

    def taken(found: re.Match[str]) -> str:
        unit = found["unit"]
        if unit.endswith("B"):
            scale = {"k": 1e3, "M": 1e6, "G": 1e9}.get(unit[0], 1.0)
            sizes.append(float(found["number"].replace(",", "")) * scale)
            return "#B"
        return "#"

    return sizes, CHANGING.sub(taken, PEAK.sub("peak memory  #", DATE.sub("#", line)))


def _without_numbers(line: str) -> str:
    return " ".join(NUMBER.sub("#", line).split())


def _same_number(shown: str, printed: str) -> bool:
    """Equal to one of the last digit that is shown; whole numbers exactly."""
    mantissa, _, exponent = shown.replace(",", "").partition("e")
    if "." not in mantissa and not exponent:
        return shown == printed
    digits = len(mantissa.partition(".")[2])
    step = 10.0 ** (int(exponent or 0) - digits)
    return abs(float(shown.replace(",", "")) - float(printed.replace(",", ""))) <= 1.0001 * step
