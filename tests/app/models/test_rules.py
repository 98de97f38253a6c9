"""Rules: what their form takes, who is excepted from limits, and what has still to be told."""

import pytest

from app.models import portfolio, products, rules
from app.models.accounts import User
from app.models.db import DAL, Invalid, insert, rows, transaction
from app.models.products import Product
from app.models.rules import Rules, Wanted
from tests.app.models.test_products import FORM
from tests.database import add_user

LINEAGE = "9c1f0a44d2b7e683"


@pytest.fixture
def manager(db: DAL) -> User:
    return add_user(db, "manager1", manager=True)


@pytest.fixture
def product(db: DAL, manager: User) -> Product:
    return _register(db, manager)


def _register(db: DAL, by: User, **fields: str) -> Product:
    with transaction(db, write=True):
        return products.register(db, products.validate(FORM | fields), by=by, at=5)


def _wanted(db: DAL, product: Product) -> Wanted:
    with transaction(db):
        found = rules.wanted(db, product.id)
    assert found is not None
    return found


def _tell(db: DAL, product: Product, asked: Wanted | None = None) -> bool:
    asked = asked or _wanted(db, product)
    with transaction(db, write=True):
        return rules.note_told(db, product.id, asked, LINEAGE)


def _told(db: DAL, product: Product) -> str:
    with transaction(db):
        return rules.told(db)[product.id]


def _except(db: DAL, product: Product, by: User, who: str, name: str, value: str) -> None:
    with transaction(db, write=True):
        rules.except_owner(db, product.id, who=who, name=name, value=value, by=by)


def _errors_of(db: DAL, product: Product, by: User, who: str, name: str, value: str) -> set[str]:
    with pytest.raises(Invalid) as raised:
        _except(db, product, by, who, name, value)
    return set(raised.value.errors)


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("collar", "", 0),
        ("collar", "5", 50_000),
        ("band", "20.25", 202_500),
        ("breaker", "100", 1_000_000),
        ("breaker", "-0", 0),
        ("maker_fee", "-0.2", -2_000),
        ("maker_fee", "-100", -1_000_000),
        ("taker_fee", " 0.50 ", 5_000),
        ("max_quantity", "", 1_000_000),
        ("max_quantity", "0", 0),
        ("max_open_orders", "20", 20),
        ("max_position", "999999999999", 999_999_999_999),
        ("max_notional", "100000.5", 1_000_005_000),
        ("max_rate", "7", 7),
    ],
)
def test_what_a_form_says_is_what_the_command_will_carry(field: str, text: str, value: int) -> None:
    assert getattr(products.validate(FORM | {field: text}), field) == value


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("collar", "-1"),
        ("collar", "100.01"),
        ("collar", "5 %"),
        ("collar", "0.001"),
        ("band", "0,5"),
        ("breaker", "1e1"),
        ("maker_fee", "-100.01"),
        ("taker_fee", "100.5"),
        ("taker_fee", "--1"),
        ("taker_fee", "0.125"),
        ("max_quantity", "-1"),
        ("max_quantity", "1.5"),
        ("max_quantity", "1" + 12 * "0"),
        ("max_open_orders", "many"),
        ("max_position", "٣"),
        ("max_notional", "1000000000"),
        ("max_notional", "-5"),
        ("max_rate", "*"),
    ],
)
def test_a_rule_that_cannot_be_is_told_at_its_field(field: str, text: str) -> None:
    with pytest.raises(Invalid) as raised:
        products.validate(FORM | {field: text})
    assert set(raised.value.errors) == {field}
    assert raised.value.errors[field].startswith("Enter ")


def test_the_form_shows_what_it_was_told(db: DAL, manager: User) -> None:
    fields = {"collar": "5", "band": "0.25", "breaker": "0", "maker_fee": "-0.2"}
    fields |= {"taker_fee": "100", "max_quantity": "500", "max_open_orders": "9"}
    fields |= {"max_position": "0", "max_notional": "1000.50", "max_rate": "3"}
    stored = _register(db, manager, **fields)
    with transaction(db):
        assert products.get(db, stored.id) == stored
    assert rules.to_form(stored) == fields


def test_what_is_wanted_has_to_be_told_until_a_journal_knows_it(
    db: DAL, manager: User, product: Product
) -> None:
    assert (_told(db, product), _wanted(db, product)) == ("", Wanted(Rules(), {}))
    assert _tell(db, product)
    assert _told(db, product) == LINEAGE
    with transaction(db, write=True):
        products.edit(db, product.id, products.validate(FORM), by=manager, at=6)
    assert _told(db, product) == ""  # [Save] sets it again, whatever a program has set


def test_what_changed_while_it_was_being_told_is_told_again(
    db: DAL, manager: User, product: Product
) -> None:
    asked = _wanted(db, product)
    with transaction(db, write=True):
        form = products.validate(FORM | {"band": "7"})
        products.edit(db, product.id, form, by=manager, at=6)
    assert not _tell(db, product, asked)
    assert _told(db, product) == ""
    assert _tell(db, product)
    asked = _wanted(db, product)
    _except(db, product, manager, "manager1", "max_rate", "3")
    assert not _tell(db, product, asked)
    assert _wanted(db, product).exceptions == {manager.id: {"max_rate": 3}}


def test_an_exception_is_of_one_owner_and_limit_and_told_when_it_goes(
    db: DAL, manager: User, product: Product
) -> None:
    alice = add_user(db, "Alice")
    _except(db, product, manager, " alice ", "max_position", "200")
    _except(db, product, manager, str(alice.id), "max_notional", "10.50")
    _except(db, product, manager, "alice", "max_position", "300")
    with transaction(db):
        assert [(e.username, e.name, e.value) for e in rules.exceptions(db, product.id)] == [
            ("Alice", "max_notional", 105_000),
            ("Alice", "max_position", 300),
        ]
    assert _tell(db, product)
    with transaction(db, write=True):
        assert rules.remove_exception(
            db, product.id, owner=alice.id, name="max_position", by=manager
        )
        assert not rules.remove_exception(db, product.id, owner=9, name="max_position", by=manager)
    assert _told(db, product) == ""
    asked = _wanted(db, product)
    assert asked.exceptions == {alice.id: {"max_notional": 105_000, "max_position": None}}
    with transaction(db):
        assert [e.name for e in rules.exceptions(db, product.id)] == ["max_notional"]
    assert _tell(db, product, asked)
    assert _wanted(db, product).exceptions == {alice.id: {"max_notional": 105_000}}


def test_an_exception_needs_a_user_a_limit_and_a_number(
    db: DAL, manager: User, product: Product
) -> None:
    for who in ("", "nobody", "99", "0", "00", "a\0b", "-1"):
        assert _errors_of(db, product, manager, who, "max_rate", "1") == {"owner"}, who
    assert _errors_of(db, product, manager, "manager1", "collar", "1") == {"limit"}
    for value in ("", "-1", "1.5", "*", "1" + 12 * "0"):
        assert _errors_of(db, product, manager, "manager1", "max_rate", value) == {"value"}
    with transaction(db):
        assert rows(db, "SELECT id FROM product_limit") == []


def test_there_is_an_end_to_exceptions(
    db: DAL, manager: User, product: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "EXCEPTIONS", 1)
    _except(db, product, manager, "manager1", "max_rate", "1")
    assert _errors_of(db, product, manager, "manager1", "max_position", "1") == {""}
    _except(db, product, manager, "manager1", "max_rate", "2")
    assert _wanted(db, product).exceptions == {manager.id: {"max_rate": 2}}


def test_only_managers_make_exceptions(db: DAL, product: Product) -> None:
    alice = add_user(db, "alice")
    with pytest.raises(PermissionError):
        _except(db, product, alice, "alice", "max_rate", "0")
    with pytest.raises(PermissionError), transaction(db, write=True):
        rules.remove_exception(db, product.id, owner=alice.id, name="max_rate", by=alice)


@pytest.mark.parametrize(("wanted", "settled", "counts"), [("7", 0, 7), ("0", 9, 9), ("7", 9, 9)])
def test_buys_reserve_the_larger_of_the_fee_that_is_wanted_and_the_one_in_the_journal(
    db: DAL, manager: User, wanted: str, settled: int, counts: int
) -> None:
    """Between the form and the settlement of its `set`, either may be what a trade costs (R17)."""
    _register(db, manager, taker_fee=wanted)
    fee = settled * 10_000
    with transaction(db, write=True):
        insert(db, "log_position", ticker="gs", lineage=LINEAGE, h="", taker_fee=fee)
        insert(db, "log_position", ticker="gone", lineage=LINEAGE, h="", taker_fee=5)
    with transaction(db):
        assert portfolio.taker_fees(db) == {"gs": counts * 10_000, "gone": 5}
