"""NaN and Inf are found where they arise, and named; they are never replaced."""

from __future__ import annotations

from collections.abc import Callable

import torch

from attlas.errors import NotFiniteError

__all__ = ["check_finite"]


def check_finite(x_HND: torch.Tensor, describe: Callable[[int, int, float], str]) -> None:
    """Raise NotFiniteError at the first row, then head, of x_HND with a value that is not finite.

    describe(head, row, value) -> the message.
    """
    # one pass without a second array; a sum that overflows although all is finite only costs the closer look
    if bool(torch.isfinite(x_HND.sum(dtype=torch.float32))):
        return
    finite_HND = torch.isfinite(x_HND)
    if bool(finite_HND.all()):
        return
    bad_HN = ~finite_HND.all(dim=2)
    row = int(bad_HN.any(dim=0).nonzero()[0, 0])
    head = int(bad_HN[:, row].nonzero()[0, 0])
    value = x_HND[head, row][~finite_HND[head, row]][0].item()
    raise NotFiniteError(describe(head, row, value))
