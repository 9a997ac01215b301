"""Sizes, counts, times and tokens as people read them, on a terminal, in a figure or on a page. Light."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["escaped", "human_bytes", "human_count", "human_seconds", "index_runs", "one_line", "token_label"]

LONGEST_WORD, LONGEST_LINE = 200, 2000


def escaped(text: str) -> str:
    r"""Text of which nothing acts on a terminal: escape sequences, other control characters, marks that turn the
    direction of writing, halves of surrogate pairs and line ends, each as Python would write it.

    >>> escaped("a\x1b[2Jb\u202ec\n")
    'a\\x1b[2Jb\\u202ec\\n'
    """
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def one_line(text: str) -> str:
    r"""Text as one line that can be printed: line ends and runs of blanks as one blank, words beyond measure cut.

    >>> one_line("no\n such  thing"), len(one_line("x" * 100_000))
    ('no such thing', 203)
    """
    half = LONGEST_WORD // 2
    words = [word if len(word) <= LONGEST_WORD else f"{word[:half]}...{word[-half:]}" for word in text.split()]
    line = escaped(" ".join(words))
    half = LONGEST_LINE // 2
    return line if len(line) <= LONGEST_LINE else f"{line[:half]} ... {line[-half:]}"


def human_bytes(count: float) -> str:
    """Bytes in powers of 1000.

    >>> human_bytes(1_234_567), human_bytes(12)
    ('1.23 MB', '12 B')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.0f} B" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB" if count < 999.5 else f"{count:,.0f} TB"


def human_count(count: float) -> str:
    """
    >>> human_count(124_439_808), human_count(12)
    ('124M', '12')
    """
    for unit in ("", "k", "M"):
        if count < 999.5:
            return f"{count:.3g}{unit}" if unit else f"{count:.0f}"
        count /= 1000
    return f"{count:.3g}B"


def human_seconds(seconds: float) -> str:
    """
    >>> human_seconds(4_000), human_seconds(75), human_seconds(8.2)
    ('1 h 06 min', '1 min 15 s', '8 s')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def token_label(token: str, width: int) -> str:
    """A token on at most `width` columns: blanks made visible, control characters never handed on, long ones cut.

    >>> token_label(" the", 5), token_label("unbelievable", 5), token_label("\\x1b[2J", 5)
    ('␣the', 'unbe…', '·[2J')
    """
    text = token.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥")
    text = "".join(letter if letter.isprintable() else "·" for letter in text) or "·"
    return text if len(text) <= width else text[: width - 1] + "…"


def index_runs(indices: Sequence[int]) -> str:
    """
    >>> index_runs([0, 1, 2, 5])
    '0-2, 5'
    """
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return ", ".join(f"{a}-{b}" if a != b else str(a) for a, b in runs)
