"""The whole law book in the database: what the engine decided is what its rows say, and verifies.

A few hundred commands of every kind in every phase, decided by the real engine, with fees, a
breaker, limits, icebergs and amends. The engine's own state is the witness: it counts another way.
"""

import random
from pathlib import Path

import pytest

from app.models.db import DAL, rows, transaction
from log2db.settlement import resume, settle, steps
from log2db.verify import verify
from matching.account import Order
from matching.config import Var
from matching.disk import SystemDisk
from matching.journal import read_batches
from matching.order import Phase, Status
from tests.database import add_user, make_var
from tests.log2db.journals import START, JournalFile

COMMANDS = 1_200
SEEDS = range(2)
KINDS = (
    (20, "{owner}:{side} intc {quantity}@{price} stp={stp}"),
    (4, "{owner}:{side} intc {quantity}@{price} tif={tif}"),
    (4, "{owner}:{side} intc {quantity}"),
    (6, "{owner}:{side} intc {quantity}@{price} peak={peak} stp={stp}"),
    (3, "{owner}:{side} intc {quantity}@0/{stop}"),
    (3, "{owner}:{side} intc {quantity}@{price}/{stop}"),
    (2, "{owner}:{side} intc {quantity}@{price} post"),
    (12, "{target}:mod intc {oid} {total}@{price}"),
    (8, "{target}:mod intc {oid} {less}"),
    (2, "{target}:mod intc {oid} {total}@{price}/{stop}"),
    (4, "{target}:del intc {oid}"),
    (1, "phase intc {phase}"),
    (2, "set intc maker_fee={fee} taker_fee={fee2} breaker={percent}"),
    (1, "set intc collar={percent} band={percent}"),
    (2, "limit intc {owner} max_quantity={most} max_position={position}"),
    (1, "limit intc * max_open_orders=30 max_notional=100000 max_rate=0"),
)


class Witness:
    """A journal of random commands, and every order that its engine had open at some time."""

    def __init__(self, var: Var, seed: int) -> None:
        self.journal = JournalFile(var)
        self.orders: dict[int, Order] = {}
        self._dice = random.Random(seed)

    def trade(self, count: int) -> None:
        weights, texts = zip(*KINDS, strict=True)
        for _ in range(count):
            (text,) = self._dice.choices(texts, weights)
            reopens = {Phase.CONTINUOUS: 0, Phase.AUCTION: 0.05}.get(self.journal.engine.phase, 0.5)
            if self._dice.random() < reopens:
                text = "phase intc continuous"
            self.journal.try_to_play(self._filled_in(text))
            self.orders |= {order.oid: order for order in self.journal.engine.open_orders()}
            if self._dice.random() < 0.1:
                self.journal.commit()
        self.journal.commit()

    def _filled_in(self, text: str) -> str:
        dice = self._dice
        target = dice.choice([*self.journal.engine.open_orders(), None])
        quantity = dice.randrange(1, 50)
        return text.format(
            owner=dice.randrange(5),
            side=dice.choice(("buy", "sell")),
            quantity=quantity,
            price=dice.randrange(95, 106),
            stop=dice.randrange(95, 106),
            stp=dice.choice(("none", "taker", "maker", "both", "decrement", "decrement")),
            tif=dice.choice(("day", "ioc", "fok")),
            peak=max(1, quantity // dice.randrange(1, 6)),
            target=target.owner if target else 0,
            oid=target.oid if target else 1,
            total=dice.randrange(1, 60),
            less=max(1, target.quantity - dice.randrange(30)) if target else 1,
            phase=dice.choice(("auction", "halted", "closed")),
            fee=dice.choice(("-0.5", "0", "0.25", "3")),
            fee2=dice.choice(("0", "0.5", "7.25")),
            percent=dice.choice(("0", "0", "3", "5")),
            most=dice.choice(("*", "*", "40")),
            position=dice.choice(("*", "*", "400")),
        )


@pytest.fixture(params=SEEDS)
def witness(request: pytest.FixtureRequest, var: Var, db: DAL) -> Witness:
    for name in ("alice", "bob", "carol"):
        add_user(db, name, cash="10000")
    witness = Witness(var, request.param)
    witness.trade(COMMANDS)
    return witness


def _settle(db: DAL, journal: JournalFile) -> None:
    file = SystemDisk().open(journal.path)
    with transaction(db, write=True):
        position = resume(db, journal.header)
    for step in steps(read_batches(file, journal.header, position)):
        with transaction(db, write=True):
            settle(db, journal.header, position, step, at=START)
        position = step.after
    report = verify(db, file, "intc", None)
    file.close()
    assert report.differences == [], report.summary


def test_every_row_says_what_the_engine_says(db: DAL, witness: Witness) -> None:
    _settle(db, witness.journal)
    engine = witness.journal.engine
    with transaction(db):
        stored = {
            oid: tuple(row)
            for oid, *row in rows(
                db,
                "SELECT oid, status, quantity, price,"
                " CASE status WHEN 'pending_stop' THEN stop_price ELSE 0 END,"
                " CASE status WHEN 'canceled' THEN 0 ELSE filled END FROM buy_sell_order",
            )
        }
        traded = dict(
            rows(
                db,
                'SELECT oid, SUM(quantity) FROM (SELECT buy_oid AS oid, quantity FROM "match"'
                ' UNION ALL SELECT sell_oid, quantity FROM "match") t GROUP BY oid',
            )
        )
        filled = dict(rows(db, "SELECT oid, filled FROM buy_sell_order WHERE filled > 0"))
        positions = rows(db, "SELECT owner, shares, cash FROM position ORDER BY owner")
    assert len(witness.orders) > COMMANDS // 5
    for oid, order in witness.orders.items():
        is_canceled = order.status is Status.CANCELED
        waits = order.stop if order.status is Status.PENDING_STOP else 0
        expected = (str(order.status), order.quantity, order.price, waits)
        assert stored[oid] == (*expected, 0 if is_canceled else order.filled), order
    assert filled == {oid: int(quantity) for oid, quantity in traded.items()}
    assert {owner: shares for owner, shares, _ in positions if shares} == {
        owner: shares for owner in range(5) if (shares := engine.position(owner))
    }
    assert sum(shares for _, shares, _ in positions) == 0
    assert sum(cash for _, _, cash in positions) == 0


def test_the_journals_have_all_that_there_is(tmp_path: Path) -> None:
    """Otherwise the test above would prove little."""
    text = ""
    for seed in SEEDS:
        witness = Witness(make_var(tmp_path / str(seed)), seed)
        witness.trade(COMMANDS)
        text += witness.journal.path.read_text("ascii")
    for form in (
        " k=none s=",
        "decremented [",
        "triggered [",
        ": phase halted",
        " peak=",
        " limit ",
    ):
        assert form in text, form
    for reason in ("breaker", "collar", "amended", "self_trade", "end_of_day", "fok", "ioc"):
        assert f" {reason} s=" in text, reason
