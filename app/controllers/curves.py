"""Curves that pages have asked for of late, kept for some seconds each.

To draw one takes tens of milliseconds, and every open page asks for it every two seconds. While its
owner has not traded, only its end moves: that is put on anew each time, the rest now and then.
"""

import time
from collections.abc import Callable

import msgspec

from app.models.db import now
from app.models.equity import Curve, Point

KEPT_SECONDS = 10.0
"""So long the rest of a curve is good for: what the market did meanwhile shows up after that."""

KEPT = 1_000
"""At most so many curves are kept; then all are forgotten."""


class _Kept(msgspec.Struct, frozen=True):
    holdings: object
    until: float
    curve: Curve


class Curves:
    """The curves of one web server. Its methods are called from worker threads."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, str], _Kept] = {}

    def get(
        self,
        owner: int,
        ticker: str,
        *,
        holdings: object,
        value: int,
        draw: Callable[[], Curve],
    ) -> Curve:
        """The owner's curve in a product ("": in all), which ends with `value`.

        `holdings` is whatever changes when the owner trades: then it is drawn again.
        """
        key = (owner, ticker)
        kept = self._kept.get(key)
        if kept is not None and kept.holdings == holdings and time.monotonic() < kept.until:
            return _ended(kept.curve, value)
        curve = draw()
        if len(self._kept) >= KEPT:
            self._kept.clear()
        if _spans_time(curve):
            self._kept[key] = _Kept(holdings, time.monotonic() + KEPT_SECONDS, curve)
        return curve


def _spans_time(curve: Curve) -> bool:
    """Whether there is something to keep: just after the first trade there is but one moment."""
    return bool(curve.points) and curve.points[0].time < curve.points[-1].time


def _ended(curve: Curve, value: int) -> Curve:
    points = curve.points
    if points[-1].value == value:
        return curve
    end = Point(max(now(), points[-1].time), value)
    return msgspec.structs.replace(curve, points=[*points, end])
