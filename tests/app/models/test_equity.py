"""The equity curve: at every point it says what an obviously right, slow computation says."""

import random
from collections import defaultdict
from collections.abc import Callable, Sequence

import msgspec
import pytest

from app.models import equity, portfolio
from app.models.db import DAL, execute, insert, insert_many, rows, transaction
from app.models.equity import Curve, Point
from app.models.products import Product
from tests.app.models.intc import PRODUCT
from tests.database import add_user, only_sqlite

CASH = 1_000


class Match(msgspec.Struct, frozen=True, order=True):
    """A trade as the journal has it; sorted as trades are shown."""

    time: int
    ticker: str
    seq: int
    quantity: int
    price: int
    buyer: int
    seller: int
    buyer_fee: int = 0
    seller_fee: int = 0


def _follow(db: DAL, tickers: Sequence[str], *, seq: int, time: int, lineage: str = "a") -> None:
    for ticker in tickers:
        insert(db, "log_position", ticker=ticker, lineage=lineage, seq=seq, time=time, h="")


def _store(db: DAL, matches: Sequence[Match], lineage: str = "a") -> None:
    """The trades, and what log2db makes of them: positions, and the accounts' cash."""
    shares: defaultdict[tuple[str, int], int] = defaultdict(int)
    cash: defaultdict[tuple[str, int], int] = defaultdict(int)
    for match in matches:
        value = match.quantity * match.price
        shares[match.ticker, match.buyer] += match.quantity
        shares[match.ticker, match.seller] -= match.quantity
        cash[match.ticker, match.buyer] -= value + match.buyer_fee
        cash[match.ticker, match.seller] += value - match.seller_fee
    insert_many(
        db,
        '"match"',
        "match_time, ticker, seq, quantity, price, buyer, seller, buyer_fee, seller_fee, lineage,"
        " tid, buy_oid, sell_oid, taker, created_on",
        [(*msgspec.structs.astuple(match), lineage, 0, 0, 0, "buy", 0) for match in matches],
    )
    for (ticker, owner), held in shares.items():
        change = cash[ticker, owner]
        position = {"shares": held, "cost": 0, "cash": change}
        insert(db, "position", ticker=ticker, lineage=lineage, owner=owner, **position)
        execute(
            db, "UPDATE auth_user SET actual_cash = actual_cash + ? WHERE id = ?", change, owner
        )


def _of_account(db: DAL, owner: int, lasts: dict[str, int] | None = None) -> Curve:
    with transaction(db):
        return equity.of_account(db, owner, portfolio.account(db, owner, lasts or {}))


def _of_product(db: DAL, owner: int, ticker: str, last: int) -> Curve:
    product: Product = msgspec.structs.replace(PRODUCT, name=ticker)
    with transaction(db):
        result = portfolio.pandl(db, owner, product, last=last)
        return equity.of_product(db, owner, ticker, result)


def _worth(matches: Sequence[Match], owner: int, cash: int) -> list[tuple[Match, int, int]]:
    """Each trade of anybody, with what the owner had just before and just after it."""
    shares: defaultdict[str, int] = defaultdict(int)
    prices: dict[str, int] = {}
    worth = []
    before = cash
    for match in sorted(matches):
        prices[match.ticker] = match.price
        if match.buyer == owner:
            shares[match.ticker] += match.quantity
            cash -= match.quantity * match.price + match.buyer_fee
        if match.seller == owner:
            shares[match.ticker] -= match.quantity
            cash += match.quantity * match.price - match.seller_fee
        after = cash + sum(shares[ticker] * prices[ticker] for ticker in prices)
        worth.append((match, before, after))
        before = after
    return worth


def _random_matches(dice: random.Random, owner: int, tickers: Sequence[str]) -> list[Match]:
    matches = []
    for ticker in tickers:
        seq, time, price = 0, dice.randint(0, 20), 50
        owners = (owner, 901, 902) if dice.random() < 0.8 else (owner, 901, 902, 903, 904, 905)
        for _ in range(dice.randint(0, 60)):
            seq += dice.choice((1, 1, 2, 9))
            time += dice.choice((0, 0, 1, 1, 5, 40))  # several at one moment, and long pauses
            price = max(1, price + dice.randint(-3, 3))
            parties = dice.choice(owners), dice.choice(owners)
            fees = dice.choice(((0, 0), (2, -1), (-1, 2)))
            matches.append(Match(time, ticker, seq, dice.randint(1, 9), price, *parties, *fees))
    return matches


def _expect(
    curve: Curve, matches: Sequence[Match], owner: int, *, cash: int, now: Point, fills: int
) -> None:
    """Check every point: the first, those after trades, and the last, which is `now`."""
    worth = _worth(matches, owner, cash)
    own = [place for place, (match, *_) in enumerate(worth) if owner in (match.buyer, match.seller)]
    if not own:
        assert curve == Curve([], is_whole=True)
        return
    sides = 0
    window: list[int] = []
    for place in reversed(own):
        match = worth[place][0]
        sides += 2 if match.buyer == match.seller else 1
        if sides > fills:
            break
        window.insert(0, place)
    assert curve.is_whole == (len(window) == len(own))
    if not window:
        return
    oldest, before, _ = worth[window[0]]
    assert curve.points[0] == Point(oldest.time, before)
    assert curve.points[-1] == now
    after = {(match.time, value) for match, _, value in worth[window[0] :]}
    wrong = [point for point in curve.points[1:-1] if (point.time, point.value) not in after]
    assert not wrong, f"{wrong} are not among {sorted(after)}"
    times = [point.time for point in curve.points]
    assert times == sorted(times)


@pytest.mark.parametrize("fills", [500, 7])
def test_every_point_is_what_a_slow_computation_over_all_trades_says(
    db: DAL, fills: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However few of the trades of others are looked at, and however few moments are kept."""
    monkeypatch.setattr(equity, "FILLS", fills)
    owner = add_user(db, "alice", cash="0.1").id
    tickers = ("a", "b", "c")
    clear = [f"DELETE FROM {table}" for table in ('"match"', "position", "log_position")]
    longest = 0
    for seed in range(8):
        dice = random.Random(seed)
        matches = _random_matches(dice, owner, tickers)
        end = max((match.time for match in matches), default=0)
        lasts = {ticker: dice.randint(1, 99) for ticker in tickers}
        with transaction(db, write=True):
            for statement in clear:
                execute(db, statement)
            execute(db, "UPDATE auth_user SET actual_cash = ?", CASH)
            _follow(db, tickers, seq=1_000, time=end + 5)
            _store(db, matches)
        with transaction(db):
            now = Point(end + 5, portfolio.account(db, owner, lasts).equity)
            positions = {ticker: portfolio.position(db, owner, ticker) for ticker in tickers}
        for probes, buckets in ((200, 64), (3, 10_000), (20, 5)):
            monkeypatch.setattr(equity, "PROBES", probes)
            monkeypatch.setattr(equity, "BUCKETS", buckets)
            curve = _of_account(db, owner, lasts)
            _expect(curve, matches, owner, cash=CASH, now=now, fills=fills)
            longest = max(longest, len(curve.points))
            for ticker, held in positions.items():
                some = [match for match in matches if match.ticker == ticker]
                profit = Point(end + 5, held.cash + held.shares * lasts[ticker])
                curve = _of_product(db, owner, ticker, lasts[ticker])
                _expect(curve, some, owner, cash=0, now=profit, fills=fills)
    assert longest > 10


def test_the_curve_begins_before_the_first_trade_and_ends_now(db: DAL) -> None:
    owner = add_user(db, "alice", cash="0.1").id
    with transaction(db, write=True):
        _follow(db, ("intc",), seq=9, time=99)
        _store(
            db,
            [
                Match(10, "intc", 1, 1, 50, 8, 9),
                Match(20, "intc", 3, 10, 50, owner, 8, buyer_fee=2),
                Match(30, "intc", 5, 1, 60, 8, 9),
                Match(40, "intc", 7, 4, 55, 8, owner, seller_fee=-1),
            ],
        )
    assert _of_account(db, owner, {"intc": 70}) == Curve(
        [
            Point(20, 1_000),
            Point(20, 998),  # the fee
            Point(30, 1_098),  # others trade at 60
            Point(40, 1_049),  # 4 are sold at 55, and 6 are left
            Point(99, 1_139),  # which count at 70
        ],
        is_whole=True,
    )
    values = [point.value for point in _of_product(db, owner, "intc", 70).points]
    assert values == [0, -2, 98, 49, 139]


def test_a_short_position_gains_when_the_price_falls(db: DAL) -> None:
    owner = add_user(db, "alice", cash="0.1").id
    with transaction(db, write=True):
        _follow(db, ("intc",), seq=9, time=99)
        _store(db, [Match(20, "intc", 3, 10, 50, 8, owner), Match(30, "intc", 5, 1, 45, 8, 9)])
    values = [point.value for point in _of_account(db, owner, {"intc": 30}).points]
    assert values == [1_000, 1_000, 1_050, 1_200]


def test_a_trade_with_oneself_is_one_point_and_costs_both_fees(db: DAL) -> None:
    owner = add_user(db, "alice", cash="0.1").id
    with transaction(db, write=True):
        _follow(db, ("intc",), seq=9, time=99)
        _store(db, [Match(20, "intc", 3, 10, 50, owner, owner, buyer_fee=3, seller_fee=2)])
    points = _of_account(db, owner, {"intc": 70}).points
    assert points == [Point(20, 1_000), Point(20, 995), Point(99, 995)]


def test_without_a_trade_there_is_no_curve(db: DAL) -> None:
    owner = add_user(db, "alice", cash="0.1").id
    with transaction(db, write=True):
        _follow(db, ("intc",), seq=9, time=99)
        _store(db, [Match(20, "intc", 3, 10, 50, 8, 9)])
    assert _of_account(db, owner) == Curve([], is_whole=True)
    assert _of_product(db, owner, "intc", 70).points == []
    assert _of_product(db, owner, "none", 70).points == []


def test_a_journal_that_is_no_longer_followed_leaves_its_cash_and_no_points(db: DAL) -> None:
    owner = add_user(db, "alice", cash="0.1").id
    with transaction(db, write=True):
        _follow(db, ("intc",), seq=9, time=9, lineage="old")
        _store(db, [Match(5, "intc", 3, 10, 50, 8, owner)], lineage="old")
        execute(db, "UPDATE log_position SET closed = 'T'")
    assert _of_account(db, owner).points == []
    with transaction(db, write=True):
        _follow(db, ("intc",), seq=9, time=99)
        _store(db, [Match(20, "intc", 3, 1, 50, owner, 8)])
    values = [point.value for point in _of_account(db, owner, {"intc": 51}).points]
    assert values == [1_500, 1_500, 1_501]


def test_a_product_held_before_the_window_counts_at_its_price_then(
    db: DAL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(equity, "FILLS", 2)
    owner = add_user(db, "alice", cash="0.1").id
    prices = [Match(10 * time, "gs", time, 1, time, 8, 9) for time in range(2, 100)]
    bought = [Match(500, "intc", 1, 1, 5, owner, 9), Match(605, "intc", 2, 1, 5, owner, 9)]
    with transaction(db, write=True):
        _follow(db, ("gs", "intc"), seq=99, time=999)
        _store(db, [Match(10, "gs", 1, 10, 1, owner, 9), *prices, *bought])
    curve = _of_account(db, owner, {"gs": 99, "intc": 5})
    assert not curve.is_whole
    assert curve.points[0] == Point(
        500, 1_000 - 10 + 10 * 50
    )  # of trades at one moment, gs is first
    assert Point(605, 1_000 - 10 + 10 * 60) in curve.points
    assert curve.points[-1] == Point(999, 1_000 - 10 + 10 * 99)


def _moments(points: Sequence[tuple[int, int]]) -> list[equity._Moment]:
    """Moments at these times, with so much cash and no shares."""
    trades = [equity._Trade(time, "intc", seq, 5) for seq, (time, _) in enumerate(points)]
    return [
        equity._Moment(trade, cash, {"intc": 0}, {"intc": trade})
        for trade, (_, cash) in zip(trades, points, strict=True)
    ]


@pytest.mark.parametrize("count", [1, 192, 193, 5_000])
def test_thinning_keeps_the_end_highs_and_lows(count: int) -> None:
    dice = random.Random(count)
    moments = _moments([(time * time, dice.randint(-1000, 1000)) for time in range(count)])
    thinned = equity._thinned(moments)
    assert len(thinned) <= 192
    assert thinned == [moment for moment in moments if moment in thinned]
    assert thinned[-1] == moments[-1]
    values = [moment.value for moment in moments]
    kept = [moment.value for moment in thinned]
    assert (min(kept), max(kept)) == (min(values), max(values))


def test_a_thinned_curve_keeps_the_value_at_which_a_pause_began() -> None:
    burst = [(time, time % 10) for time in range(305)]
    moments = _moments([*burst, (1_000_000, 9)])
    assert equity._thinned(moments)[-2:] == moments[-2:]


@only_sqlite
@pytest.mark.parametrize(
    "ask",
    [_of_account, lambda db, owner: _of_product(db, owner, "a", 5)],
    ids=["account", "product"],
)
def test_trades_are_found_by_an_index_however_many_there_are(
    db: DAL, monkeypatch: pytest.MonkeyPatch, ask: Callable[[DAL, int], Curve]
) -> None:
    monkeypatch.setattr(equity, "FILLS", 3)
    owner = add_user(db, "alice", cash="0.1").id
    with transaction(db, write=True):
        _follow(db, ("a", "b"), seq=1_000, time=1_000)
        _store(db, _random_matches(random.Random(1), owner, ("a", "b")))
    plans: list[str] = []

    def explain(database: DAL, sql: str, *values: object) -> list[tuple[object, ...]]:
        if '"match"' in sql:
            plans.extend(row[3] for row in rows(database, f"EXPLAIN QUERY PLAN {sql}", *values))
        return rows(database, sql, *values)

    monkeypatch.setattr(equity, "rows", explain)
    assert ask(db, owner).points
    assert any("match_seq" in plan for plan in plans)
    assert not [plan for plan in plans if plan.split()[:2] in (["SCAN", "m"], ["SCAN", "b"])]
