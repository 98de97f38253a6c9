"""Runs: what the end of one does to accounts, orders, journals, and what the next begins with."""

from collections.abc import Iterator
from typing import Any

import pytest
from pydal import DAL

from app.models import accounts, db, intents, portfolio, products, runs, tables, trades
from app.models.db import close, execute, insert, migrate, open_database, rows, transaction
from app.models.intents import State
from app.models.products import Product
from app.models.runs import EndedRun, Followed, Run
from app.models.trades import Wanted
from log2db.__main__ import settle_rest
from log2db.verify import verify
from matching.config import Var
from matching.disk import SystemDisk
from matching.order import Side
from tests.database import add_user, make_database, uri_of
from tests.log2db.journals import START, JournalFile

FORM = {"name": "intc", "unit_price": "100", "port": "9123", "active": "on", "allow_short": "on"}
ALICE, BOB, BOSS = 1, 2, 3
CASH = 100_000_000


@pytest.fixture
def store(var: Var) -> Iterator[DAL]:
    store = make_database(var)
    for name in ("alice", "bob"):
        add_user(store, name, cash="10000")
    yield store
    close(store)


@pytest.fixture
def intc(store: DAL) -> Product:
    boss = add_user(store, "boss", manager=True)
    with transaction(store, write=True):
        return products.register(store, products.validate(FORM), by=boss, at=START - 1)


def settle(var: Var, store: DAL) -> None:
    for _ in settle_rest("intc", var.journal_file("intc"), store):
        pass


def trade(var: Var, store: DAL, *, lineage: str = "1" * 16) -> None:
    """Alice buys 10 at 100 and 5 at 110 from Bob and from owner 4, who has no account; one order
    stays open."""
    journal = JournalFile(var, lineage=lineage)
    journal.play("2:sell intc 10@100", "1:buy intc 10@100")
    journal.play("4:sell intc 5@110", "1:buy intc 5@110", "1:buy intc 1@90 id=open")
    settle(var, store)


def end(store: DAL, *, by: int = BOSS, at: int = START + 9) -> Run:
    with transaction(store, write=True):
        return runs.end_run(store, by=by, at=at)


def cash(store: DAL) -> dict[int, int]:
    with transaction(store):
        return dict(rows(store, "SELECT id, actual_cash FROM auth_user ORDER BY id"))


def require_sound(var: Var, store: DAL) -> None:
    """The database agrees with the journal, every account's cash with ledger and trades."""
    file = SystemDisk().open(var.journal_file("intc"))
    report = verify(store, file, "intc", None)
    file.close()
    assert report.differences == []


def test_a_run_begins_with_the_first_product_and_with_the_end_of_another(
    store: DAL, intc: Product
) -> None:
    with transaction(store):
        assert runs.present(store) == Run(1, START - 1)
    assert end(store, at=START + 9) == Run(1, START - 1)
    assert end(store, by=runs.BY_THE_OPERATOR, at=START + 11) == Run(2, START + 9)
    with transaction(store):
        assert runs.present(store) == Run(3, START + 11)
        assert runs.past(store) == [
            EndedRun(2, START + 9, START + 11, "", [], 0),
            EndedRun(1, START - 1, START + 9, "boss", [], 0),
        ]


def test_after_a_run_everybody_has_their_deposits_again_and_nothing_else(
    var: Var, store: DAL, intc: Product
) -> None:
    trade(var, store)
    with transaction(store, write=True):  # paid in later
        insert(store, "ledger", owner=BOB, amount=5, reason="prize", created_on=START)
        execute(store, "UPDATE auth_user SET actual_cash = actual_cash + 5 WHERE id = ?", BOB)
        assert runs.followed(store) == [Followed("intc", 11, 2)]
    assert cash(store) == {ALICE: CASH - 15_500_000, BOB: CASH + 10_000_005, BOSS: 0}
    end(store)
    assert cash(store) == {ALICE: CASH, BOB: CASH + 5, BOSS: 0}
    require_sound(var, store)
    with transaction(store):
        assert portfolio.positions(store, ALICE) == []
        assert portfolio.open_orders(store, ALICE) == []
        assert portfolio.cash(store, ALICE).available == CASH
        assert trades.tape(store, Wanted(limit=9)) == []
        assert runs.followed(store) == []
        assert runs.past(store)[0].tickers == ["intc"]
        assert runs.past(store)[0].trades == 2
        ledger = "SELECT owner, amount, reason FROM ledger WHERE deposit = 'F' ORDER BY owner"
        assert rows(store, ledger) == [
            (ALICE, 15_500_000, "start of run 2"),
            (BOB, -10_000_000, "start of run 2"),
        ]


def test_a_second_run_begins_as_the_first_did(var: Var, store: DAL, intc: Product) -> None:
    for number in (1, 2):
        trade(var, store, lineage=f"{number}" * 16)
        assert cash(store)[ALICE] == CASH - 15_500_000
        require_sound(var, store)
        end(store, at=START + number)
        assert cash(store) == {ALICE: CASH, BOB: CASH, BOSS: 0}
        require_sound(var, store)
    with transaction(store):
        assert runs.run_of(store, "intc", "2" * 16) == 2
        assert runs.run_of(store, "intc", "3" * 16) is None


def test_a_new_account_begins_without_what_its_number_traded_in_past_runs(
    var: Var, store: DAL, intc: Product
) -> None:
    trade(var, store)
    end(store)
    trade(var, store, lineage="2" * 16)
    late = add_user(store, "late", cash="10000")
    assert late.id == 4
    assert cash(store)[late.id] == CASH + 5_500_000  # of the second run alone
    require_sound(var, store)
    end(store)
    assert cash(store)[late.id] == CASH
    require_sound(var, store)


def test_orders_on_their_way_are_given_up_unless_a_new_server_takes_them(
    var: Var, store: DAL, intc: Product
) -> None:
    trade(var, store)

    def reserve(client_id: str) -> intents.Intent:
        with transaction(store, write=True):
            return intents.reserve(
                store,
                ALICE,
                intc,
                intents.Request(side=Side.BUY, quantity=10, price=50_000, client_id=client_id),
                bids=[],
                asks=[],
                last=1_000_000,
                ts=1,
                at=START,
            )

    lost, late, journaled = reserve("lost"), reserve("late"), reserve("open")
    with transaction(store, write=True):
        intents.unknown(store, lost.id, at=START)
        intents.accepted(store, journaled.id, oid=5, at=START)
        key = {"owner": ALICE, "ticker": "intc", "lineage": "never followed", "buy_sell": "buy"}
        insert(store, "amend_intent", oid=7, quantity=9, value_price=50_000, **key)
        assert portfolio.cash(store, ALICE).intents == 2 * 500_000 + 450_000
    end(store)
    with transaction(store):
        states = {name: intents.get(store, ALICE, "intc", name) for name in ("lost", "late")}
        assert {intent.state for intent in states.values() if intent} == {State.NEVER}
        assert portfolio.cash(store, ALICE).available == CASH
    with transaction(store, write=True):
        intents.accepted(store, late.id, oid=1, at=START)
        assert portfolio.cash(store, ALICE).intents == 500_000


def test_between_runs_what_a_journal_fixes_can_be_changed(
    var: Var, store: DAL, intc: Product
) -> None:
    trade(var, store)
    form = products.validate({**FORM, "unit_price": "50"})
    with transaction(store):
        boss = accounts.get(store, BOSS)
    assert boss is not None
    with pytest.raises(db.Invalid), transaction(store, write=True):
        products.edit(store, intc.id, form, by=boss, at=START)
    end(store)
    with transaction(store, write=True):
        assert products.edit(store, intc.id, form, by=boss, at=START).unit_price == 500_000


class OldTables:
    """A database of before there were runs: its definitions, without what they have brought."""

    def __init__(self, store: DAL) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def define_table(self, name: str, *fields: Any, **options: Any) -> None:
        new = {("ledger", "deposit"), ("log_position", "run")}
        old = [field for field in fields if (name, field.name) not in new]
        if name != "run":
            self._store.define_table(name, *old, **options)


def test_a_database_of_before_there_were_runs_is_brought_up_to_date(
    var: Var, monkeypatch: pytest.MonkeyPatch
) -> None:
    define, indexes = tables.define, tables.INDEXES
    monkeypatch.setattr(tables, "define", lambda store: define(OldTables(store)))
    monkeypatch.setattr(tables, "INDEXES", [sql for sql in indexes if "log_run" not in sql])
    migrate(uri_of(var), var)
    old = open_database(uri_of(var))
    add_user(old, "ada", cash="5")
    with transaction(old, write=True):
        insert(old, "log_position", ticker="intc", lineage="a" * 16, h="x")
    close(old)
    monkeypatch.setattr(tables, "define", define)
    monkeypatch.setattr(tables, "INDEXES", indexes)
    store = make_database(var)
    assert end(store).number == 1
    assert cash(store) == {1: 50_000}
    with transaction(store):
        assert runs.past(store)[0].tickers == ["intc"]
    close(store)
