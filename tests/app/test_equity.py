"""The curves of the profits/loss pages: in step with their figures, drawn and in words."""

import re
from typing import Any

import pytest

from app.controllers import chart
from app.models.accounts import User
from app.models.db import insert
from app.models.equity import Curve, Point
from app.models.products import Product
from tests.app.venue import Web

MOMENT = 1_700_000_000_000_000
"""2023-11-14, 22:13:20 UTC."""


@pytest.fixture(scope="module")
def intc(web: Web, manager: User, trader: User) -> Product:
    """trader1 bought 10 at 100.00; others have traded at 110.00 since, a minute later."""
    product = web.add_product("intc", by=manager)
    with web.database(write=True) as db:
        key = {"ticker": "intc", "lineage": "a"}
        insert(db, "log_position", **key, seq=9, time=MOMENT + 80_000_000, h="")
        for seq, at, buyer, price in ((3, 0, trader.id, 1_000_000), (5, 60, 8, 1_100_000)):
            row = {"seq": seq, "tid": seq, "quantity": 10, "price": price, "taker": "buy"}
            row |= {"buyer": buyer, "seller": 9, "match_time": MOMENT + at * 1_000_000}
            insert(db, "match", **key, **row)
        holding = {"shares": 10, "cost": 10_000_000, "cash": -10_000_000}
        insert(db, "position", **key, owner=trader.id, **holding)
        db.executesql("UPDATE auth_user SET actual_cash = 990000000 WHERE username = 'trader1'")
    return product


def ask(web: Web, user: User, path: str) -> Any:
    answer = web.browser(user).get(f"/default/{path}")
    assert answer.status == 200, answer.text
    return answer.json()


def test_the_curve_ends_with_the_figures_of_its_page(web: Web, trader: User, intc: Product) -> None:
    times = [f"2023-11-14T22:{time}.000000Z" for time in ("13:20", "13:20", "14:20", "14:40")]
    page = ask(web, trader, "pandl.json")
    values = ["100000.00", "100000.00", "100100.00", "100100.00"]
    assert page["curve"] == [list(point) for point in zip(times, values, strict=True)]
    assert page["curve"][-1][1] == page["equity"]
    page = ask(web, trader, f"pandl.json/{intc.id}")
    assert [value for _, value in page["curve"]] == ["0.00", "0.00", "100.00", "100.00"]
    assert page["curve"][-1][1] == page["now"]["balance"]


def test_the_page_draws_what_its_json_says_and_says_it_in_words(
    web: Web, trader: User, intc: Product
) -> None:
    for path, name in (("", "Equity over time"), (f"/{intc.id}", "Profits/loss over time")):
        drawing = ask(web, trader, f"pandl.json{path}")["chart"]
        shown = web.browser(trader).get(f"/default/pandl{path}").text
        panel = shown.partition('id="chart"')[2].partition("</section>")[0]
        assert f">{name}</span>" in panel
        for part in ("grid", "area", "start", "line", "now"):
            assert f'<path class="{part}" d="{drawing[part]}">' in panel
        for text in (*drawing["levels"], *drawing["times"], drawing["summary"]):
            assert f">{text}</" in panel
        assert "▲ +100.00" in panel
        assert " style=" not in panel, "the policy of the pages forbids it"
    assert (
        "Since your first trade, 2023-11-14 22:13:20 UTC: from 0.00 to 100.00,"
        " lowest 0.00, highest 100.00." in panel
    )


def test_without_a_trade_the_page_says_how_the_curve_begins(
    web: Web, manager: User, intc: Product
) -> None:
    for path, sentence in (
        ("", "Your first trade begins the curve."),
        (f"/{intc.id}", "Your first trade in intc begins the curve."),
    ):
        assert ask(web, manager, f"pandl.json{path}")["curve"] == []
        shown = web.browser(manager).get(f"/default/pandl{path}").text
        assert re.search(f'id="chart-empty">{sentence}<', shown)
        assert re.search(r'id="chart-drawing" hidden', shown)


def drawing_of(*points: tuple[int, int], is_whole: bool = True) -> Any:
    curve = Curve([Point(time, value) for time, value in points], is_whole)
    return chart.charted(curve)["chart"]


def test_a_chart_stays_at_each_value_until_the_next() -> None:
    drawing = drawing_of((0, 0), (0, 10_000), (50, 40_000), (100, 20_000))
    assert drawing["line"] == "M0,400V300H500V0H1000V200"
    assert drawing["area"] == f"{drawing['line']}V400H0Z"
    assert drawing["start"] == "M0,400H1000"
    assert drawing["now"] == "M1000,200h0"
    assert drawing["levels"] == ["4", "3", "2", "1", "0"]
    assert drawing["grid"] == "M0,0H1000M0,100H1000M0,200H1000M0,300H1000M0,400H1000"


@pytest.mark.parametrize(
    ("values", "change", "trend", "levels"),
    [
        ((500_000_000, 512_041_000), "▲ +1,204.10", "up", ["51,500", "51,000", "50,500", "50,000"]),
        ((0, -3_000_000), "▼ −300.00", "down", ["0", *(f"−{part}" for part in range(50, 301, 50))]),
        ((10_000, 10_000), "0.00", "", ["1.02", "1.01", "1.00", "0.99"]),
        ((10_000, 10_001), "▲ +0.00", "up", ["1.03", "1.02", "1.01", "1.00"]),
    ],
)
def test_a_chart_has_round_levels_and_a_sign(
    values: tuple[int, int], change: str, trend: str, levels: list[str]
) -> None:
    drawing = drawing_of((0, values[0]), (9, values[1]))
    assert (drawing["change"], drawing["trend"], drawing["levels"]) == (change, trend, levels)


@pytest.mark.parametrize("lowest", [-987_654_321, -1, 0, 123, 10**15])
@pytest.mark.parametrize("extent", [0, 1, 399, 400, 401, 12_345_678, 10**13])
def test_the_levels_hold_the_curve_and_are_half_filled_by_it(lowest: int, extent: int) -> None:
    bottom, step, intervals = chart.scale(lowest, lowest + extent)
    assert bottom % step == 0
    assert bottom <= lowest <= lowest + extent <= bottom + step * intervals
    assert step == chart.SMALLEST_STEP or extent * 2 >= step * intervals


@pytest.mark.parametrize(
    ("seconds", "times"),
    [
        (0, ["22:13:20", "22:13:20", "22:13:20"]),
        (600, ["22:13:20", "22:18:20", "22:23:20"]),
        (86_400, ["14 Nov 22:13", "15 Nov 10:13", "15 Nov 22:13"]),
        (400 * 86_400, ["2023-11-14", "2024-06-01", "2024-12-18"]),
    ],
)
def test_a_chart_says_when(seconds: int, times: list[str]) -> None:
    drawing = drawing_of((MOMENT, 0), (MOMENT + seconds * 1_000_000, 1))
    assert drawing["times"] == times


def test_a_chart_that_begins_in_the_middle_says_so() -> None:
    summary = drawing_of((MOMENT, 1), is_whole=False)["summary"]
    assert summary.startswith("Over your newest 500 trades, since 2023-11-14 22:13:20 UTC: from")
