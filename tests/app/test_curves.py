"""Curves that are kept: drawn again when their owner has traded or some seconds are over."""

import pytest

from app.controllers import curves as curves_module
from app.controllers.curves import Curves
from app.models.equity import Curve, Point

DRAWN = Curve([Point(1, 100), Point(2, 90)], is_whole=True)


class Asked:
    """Somebody who asks for a curve, and counts how often it was drawn."""

    def __init__(self) -> None:
        self.curves = Curves()
        self.drawn = 0

    def ask(
        self, value: int, *, owner: int = 7, ticker: str = "intc", holdings: int = 1
    ) -> list[int]:
        """The values of the curve."""

        def draw() -> Curve:
            self.drawn += 1
            return DRAWN

        curve = self.curves.get(owner, ticker, holdings=holdings, value=value, draw=draw)
        assert [point.time for point in curve.points] == sorted(p.time for p in curve.points)
        return [point.value for point in curve.points]


def test_a_kept_curve_ends_with_what_is_true_now() -> None:
    asked = Asked()
    assert asked.ask(90) == [100, 90]
    assert asked.ask(95) == [100, 90, 95]
    assert asked.ask(90) == [100, 90]
    assert asked.drawn == 1


def test_it_is_drawn_again_when_its_owner_has_traded() -> None:
    asked = Asked()
    asked.ask(90)
    asked.ask(90, holdings=2)
    assert asked.drawn == 2


def test_each_owner_and_product_has_its_own() -> None:
    asked = Asked()
    for owner, ticker in ((7, "intc"), (8, "intc"), (7, ""), (7, "intc")):
        asked.ask(90, owner=owner, ticker=ticker)
    assert asked.drawn == 3


def test_it_is_drawn_again_when_its_seconds_are_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves_module, "KEPT_SECONDS", 0.0)
    asked = Asked()
    asked.ask(90)
    asked.ask(90)
    assert asked.drawn == 2


def test_no_more_than_so_many_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves_module, "KEPT", 2)
    asked = Asked()
    for owner in (1, 2, 3, 1):
        asked.ask(90, owner=owner)
    assert asked.drawn == 4


@pytest.mark.parametrize("points", [[], [Point(1, 100), Point(1, 90)]])
def test_what_spans_no_time_yet_is_not_kept(points: list[Point]) -> None:
    curves, drawn = Curves(), []

    def draw() -> Curve:
        drawn.append(points)
        return Curve(points, is_whole=True)

    for _ in range(2):
        assert curves.get(7, "", holdings=(), value=90, draw=draw).points == points
    assert len(drawn) == 2
