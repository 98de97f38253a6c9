"""Rules: what a product's market is to obey, and the owners who are excepted from its limits.

Collar (R3), band and breaker (R12), fees (R17) and limits (R16) stand in the product's row, in the
units of `matching.settings` and `matching.limits`; exceptions are rows of `product_limit`. They are
what managers want. What is in force is the matching server's journal, which has to be told:

    asked = wanted(db, product)              # tell this to the matching server, then
    note_told(db, product, asked, lineage)   # False: changed meanwhile, tell again

`product.rules_lineage` names the journal that was told all of it; "" after every change. So a
killed platform tells again, and so does every new journal get to know its rules.
"""

import re
from collections.abc import Mapping

import msgspec

from app.models.accounts import User
from app.models.db import DAL, Invalid, execute, lock_row, rows
from matching.limits import DEFAULTS, MONEY, BadLimit, read_limit
from matching.order import HOUSE, PRICE_SCALE, format_price, parse_price
from matching.settings import FEES, NAMES, PERCENTS, BadSetting, read_settings

SETTINGS = NAMES
LIMITS = tuple(DEFAULTS)

REMOVED = -1
"""The value of an exception that is gone, until the matching server has been told so."""

EXCEPTIONS = 1_000
"""The most exceptions of one product: each new journal has to be told all of them."""

_SIGNED = re.compile(r"-?[0-9][0-9.]*", re.ASCII)
_COUNT = re.compile(r"[0-9]{1,12}", re.ASCII)


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """A product's rules: percents and basis points in ten-thousandths, limits as R16 counts them.

    All are off as a new journal has them, but for the largest quantity.
    """

    collar: int = 0
    band: int = 0
    breaker: int = 0
    maker_fee: int = 0
    taker_fee: int = 0
    max_quantity: int = DEFAULTS["max_quantity"]
    max_open_orders: int = 0
    max_position: int = 0
    max_notional: int = 0
    max_rate: int = 0


class LimitException(msgspec.Struct, frozen=True):
    """One owner's limit in place of the product's; `value` as R16 counts it, 0: off."""

    owner: int
    username: str
    name: str
    value: int


class Wanted(msgspec.Struct, frozen=True):
    """All that the matching server of a product is to be told; None: the exception is to go."""

    rules: Rules
    exceptions: dict[int, dict[str, int | None]]


def read_rules(form: Mapping[str, str], errors: dict[str, str]) -> Rules:
    """The rules of a filled-in form; an empty field is what a new journal has.

    A sentence in `errors` for each field that is wrong.
    """
    values: dict[str, int] = {}
    for name in (*SETTINGS, *LIMITS):
        text = form.get(name, "").strip()
        if not text:
            continue
        try:
            values[name] = _read_setting(name, text) if name in SETTINGS else read_value(name, text)
        except ValueError:
            errors[name] = _expected(name)
    return Rules(**values)


def _read_setting(name: str, text: str) -> int:
    if _SIGNED.fullmatch(text) is None:
        raise BadSetting(text)
    size = parse_price(text.removeprefix("-"))
    value = -size if text.startswith("-") else size
    return read_settings(((name, value),))[name]


def read_value(name: str, text: str) -> int:
    """A limit's value from text; ValueError if it cannot be one.

    >>> read_value("max_position", "200"), read_value("max_notional", "0.50")
    (200, 5000)
    """
    if name not in MONEY and _COUNT.fullmatch(text) is None:
        raise BadLimit(text)
    scaled = parse_price(text) if name in MONEY else int(text) * PRICE_SCALE
    value = read_limit(name, scaled, is_of_owner=False)
    assert value is not None
    return value


def _expected(name: str) -> str:
    if name in PERCENTS:
        return "Enter a percentage from 0 to 100, with at most two decimals; 0 is off"
    if name in FEES:
        return "Enter basis points from -100 to 100, with at most two decimals"
    if name in MONEY:
        return "Enter an amount below 1,000,000,000, with at most four decimals; 0 is off"
    return "Enter a whole number of at most 12 digits; 0 is off"


def to_form(rules: Rules) -> dict[str, str]:
    """The rules as their form shows them.

    >>> shown = to_form(Rules(collar=50_000, taker_fee=-2_000, max_notional=10_000))
    >>> shown["collar"], shown["taker_fee"], shown["max_quantity"], shown["max_notional"]
    ('5', '-0.2', '1000000', '1.00')
    """
    values = msgspec.structs.asdict(rules)
    shown = {name: shortest(values[name]) for name in SETTINGS}
    return shown | {name: value_text(name, values[name]) for name in LIMITS}


def value_text(name: str, value: int) -> str:
    """A limit's value as people read and write it."""
    return format_price(value) if name in MONEY and value else str(value)


def shortest(value: int) -> str:
    """Ten-thousandths with no more decimals than needed.

    >>> shortest(50_000), shortest(-2_000), shortest(0)
    ('5', '-0.2', '0')
    """
    return format_price(value).rstrip("0").rstrip(".")


# -- exceptions


def exceptions(db: DAL, product: int) -> list[LimitException]:
    """The exceptions from a product's limits, by username."""
    found = rows(
        db,
        "SELECT e.owner, u.username, e.name, e.value FROM product_limit e"
        " JOIN auth_user u ON u.id = e.owner WHERE e.product = ? AND e.value >= 0"
        " ORDER BY lower(u.username), e.name",
        product,
    )
    return [LimitException(*row) for row in found]


def except_owner(
    db: DAL, product: int, *, who: str, name: str, value: str, by: User
) -> LimitException:
    """Give the owner with this username or number a limit of its own, in place of one it has.

    Invalid with a sentence for each field, `owner`, `limit` and `value`, that is wrong.
    PermissionError: not a manager.
    """
    _require_manager(by)
    lock_row(db, "product", product)
    errors: dict[str, str] = {}
    account = _account(db, who.strip(), errors)
    number = 0
    if name not in LIMITS:
        errors["limit"] = f"A limit is one of {', '.join(LIMITS)}"
    else:
        try:
            number = read_value(name, value.strip())
        except ValueError:
            errors["value"] = _expected(name)
    if errors:
        raise Invalid(errors)
    owner, username = account
    _store(db, product, owner, name, number)
    if _count(db, product) > EXCEPTIONS:
        raise Invalid({"": f"A product has at most {EXCEPTIONS:,} exceptions"})
    return LimitException(owner, username, name, number)


def remove_exception(db: DAL, product: int, *, owner: int, name: str, by: User) -> bool:
    """The owner has the product's limit again; False if it had no other.

    PermissionError: not a manager.
    """
    _require_manager(by)
    lock_row(db, "product", product)
    removed = execute(
        db,
        "UPDATE product_limit SET value = ? WHERE product = ? AND owner = ? AND name = ?"
        " AND value >= 0",
        REMOVED,
        product,
        owner,
        name,
    )
    forget_told(db, product)
    return removed > 0


def _account(db: DAL, who: str, errors: dict[str, str]) -> tuple[int, str]:
    is_number = _COUNT.fullmatch(who) is not None
    if is_number and int(who) == HOUSE:
        errors["owner"] = "0 is the house, which has no limits"
        return HOUSE, ""
    found = (
        rows(db, "SELECT id, username FROM auth_user WHERE lower(username) = ?", who.lower())
        if who and "\0" not in who
        else []
    )
    if not found and is_number:
        found = rows(db, "SELECT id, username FROM auth_user WHERE id = ?", int(who))
    if not found:
        errors["owner"] = "There is no user with this name or number"
        return HOUSE, ""
    owner, username = found[0]
    return owner, username


def _count(db: DAL, product: int) -> int:
    return int(rows(db, "SELECT COUNT(*) FROM product_limit WHERE product = ?", product)[0][0])


def _store(db: DAL, product: int, owner: int, name: str, value: int) -> None:
    execute(
        db,
        "INSERT INTO product_limit (product, owner, name, value) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (product, owner, name) DO UPDATE SET value = excluded.value",
        product,
        owner,
        name,
        value,
    )
    forget_told(db, product)


# -- what the matching server has been told


def wanted(db: DAL, product: int) -> Wanted | None:
    """What the matching server of a product is to be told; None if there is no such product."""
    names = (*SETTINGS, *LIMITS)
    found = rows(db, f"SELECT {', '.join(names)} FROM product WHERE id = ?", product)
    if not found:
        return None
    by_owner: dict[int, dict[str, int | None]] = {}
    for owner, name, value in rows(
        db,
        "SELECT owner, name, value FROM product_limit WHERE product = ? ORDER BY owner, name",
        product,
    ):
        by_owner.setdefault(owner, {})[name] = None if value == REMOVED else value
    return Wanted(Rules(**dict(zip(names, found[0], strict=True))), by_owner)


def told(db: DAL) -> dict[int, str]:
    """Product → lineage of the journal that was told all that is wanted of it; "" for none."""
    return dict(rows(db, "SELECT id, rules_lineage FROM product"))


def note_told(db: DAL, product: int, asked: Wanted, lineage: str) -> bool:
    """The journal `lineage` has been told `asked`. False, and nothing is stored, if by now
    something else is wanted: then it has to be told again.
    """
    lock_row(db, "product", product)
    if wanted(db, product) != asked:
        return False
    execute(db, "UPDATE product SET rules_lineage = ? WHERE id = ?", lineage, product)
    execute(db, "DELETE FROM product_limit WHERE product = ? AND value = ?", product, REMOVED)
    return True


def forget_told(db: DAL, product: int) -> None:
    """Something else is wanted now, or the same once more: whatever is in force, tell it."""
    execute(db, "UPDATE product SET rules_lineage = '' WHERE id = ?", product)


def _require_manager(user: User) -> None:
    if not user.manager:
        raise PermissionError("only managers change a product's rules")
