"""A chart: a curve of money over time, as a page draws it and as it says it in words.

The drawing is made here alone: the page's HTML and its JSON have the same, and chart.js only puts
it in its place. Paths are in a box of WIDTH × HEIGHT that the page stretches; what is written
stands beside it, so that no letter is stretched along.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from app.models.equity import FILLS, Curve, Point
from app.models.figures import cents
from matching.marketdata import format_time
from matching.order import PRICE_SCALE, format_price

WIDTH, HEIGHT = 1000, 400

SMALLEST_STEP = 100
"""Levels are a cent apart at least."""

INTERVALS = (4, 5, 3, 6)
"""So many spaces are between the levels of a chart: those that fit best, else the first."""

NOTHING = dict.fromkeys(("line", "area", "grid", "start", "now", "change", "trend", "summary"), "")
"""The texts of a chart without a curve."""

JsonObject = dict[str, Any]


def charted(curve: Curve) -> JsonObject:
    """The values of a page with a curve: `curve` for programs, and `chart`, its drawing."""
    listed = [[format_time(point.time), format_price(point.value)] for point in curve.points]
    return {"curve": listed, "chart": _drawing(curve)}


def _drawing(curve: Curve) -> JsonObject:
    points = curve.points
    if not points:
        return {**NOTHING, "levels": [], "times": []}
    values = [point.value for point in points]
    first, last, lowest, highest = values[0], values[-1], min(values), max(values)
    bottom, step, intervals = scale(lowest, highest)
    steps = [_place(point, points, bottom, step * intervals) for point in points]
    line = _steps(steps)
    heights = [HEIGHT - HEIGHT * level // intervals for level in range(intervals, -1, -1)]
    start = steps[0][1]
    return {
        "line": line,
        "area": f"{line}V{start}H{steps[0][0]}Z",
        "grid": "".join(f"M0,{height}H{WIDTH}" for height in heights),
        "start": f"M0,{start}H{WIDTH}",
        "now": f"M{steps[-1][0]},{steps[-1][1]}h0",
        "levels": [_level(bottom + step * level, step) for level in range(intervals, -1, -1)],
        "times": _times(points[0].time, points[-1].time),
        "change": _signed(last - first),
        "trend": "up" if last > first else "down" if last < first else "",
        "summary": f"{_since(curve)}: from {_money(first)} to {_money(last)},"
        f" lowest {_money(lowest)}, highest {_money(highest)}.",
    }


def scale(lowest: int, highest: int) -> tuple[int, int, int]:
    """Bottom, step and number of steps of the round levels that hold both, as closely as can be.

    >>> scale(500_000_000, 512_041_000)  # 50,000.00 to 51,204.10: in steps of 500
    (500000000, 5000000, 3)
    >>> scale(1_000, 1_000)
    (900, 100, 3)
    """
    power = SMALLEST_STEP
    while True:
        fitting = []
        for intervals in INTERVALS:
            for step in (power, 2 * power, 5 * power):
                bottom = lowest // step * step - (step if lowest == highest else 0)
                if bottom + intervals * step >= highest:
                    fitting.append((bottom, step, intervals))
        if fitting:
            return min(fitting, key=lambda scale: scale[1] * scale[2])
        power *= 10


def _place(point: Point, points: Sequence[Point], bottom: int, extent: int) -> tuple[int, int]:
    begin, span = points[0].time, points[-1].time - points[0].time
    x = (point.time - begin) * WIDTH // span if span else WIDTH
    return x, HEIGHT - (point.value - bottom) * HEIGHT // extent


def _steps(places: Sequence[tuple[int, int]]) -> str:
    """The path that stays at each height until the next one: nothing moves between two trades.

    >>> _steps([(0, 90), (0, 80), (50, 80), (100, 10)])
    'M0,90V80H100V10'
    """
    (x, y), *rest = places
    path = f"M{x},{y}"
    for next_x, next_y in rest:
        if next_y == y:
            continue
        path += (f"H{next_x}" if next_x != x else "") + f"V{next_y}"
        x, y = next_x, next_y
    return path if places[-1][0] == x else f"{path}H{places[-1][0]}"


def _times(first: int, last: int) -> list[str]:
    """Beginning, middle and end (UTC), as exact as there is need."""
    moments = [_moment(time) for time in (first, (first + last) // 2, last)]
    days = (moments[-1].date() - moments[0].date()).days
    form = "%H:%M:%S" if days == 0 else "%d %b %H:%M" if days < 100 else "%Y-%m-%d"
    return [moment.strftime(form) for moment in moments]


def _since(curve: Curve) -> str:
    begin = f"{_moment(curve.points[0].time):%Y-%m-%d %H:%M:%S} UTC"
    if curve.is_whole:
        return f"Since your first trade, {begin}"
    return f"Over your newest {FILLS} trades, since {begin}"


def _moment(time: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=time)


def _money(amount: int) -> str:
    return cents(format_price(amount))


def _level(amount: int, step: int) -> str:
    return _money(amount).removesuffix(".00") if step % PRICE_SCALE == 0 else _money(amount)


def _signed(change: int) -> str:
    """A change with its sign, which colour alone would not tell everybody.

    >>> _signed(12_041_000), _signed(-5_000), _signed(0)
    ('▲ +1,204.10', '▼ −0.50', '0.00')
    """
    if change > 0:
        return f"▲ +{_money(change)}"
    return f"▼ {_money(change)}" if change < 0 else _money(0)
