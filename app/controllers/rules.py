"""Rules: the platform tells each matching server what managers want of its market.

Collar (R3), band and breaker (R12), limits (R16) and fees (R17) are told when a form is saved, and
whenever a market goes live whose journal has not been told: of a new product, in a new run, or one
that was put there. The server is asked first what is in force, and only what differs is told; but
exceptions of owners are not public, so all of them are. To be told twice changes nothing: neither a
kill between two commands nor two web servers at once do any harm.
"""

import asyncio
import logging
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import msgspec

from app.controllers.base import Platform, Redirect, Request
from app.controllers.markets import Market
from app.models import rules
from app.models.db import DatabaseAway
from app.models.figures import grouped
from app.models.products import Product
from app.models.rules import Rules, Wanted
from matching import protocol
from matching.client import Away, Refused, Unanswered
from matching.limits import MONEY
from matching.order import PRICE_SCALE, ChangeLimits, ChangeSettings, Command
from matching.settings import PERCENTS

LOOK_SECONDS = 5.0
"""How often the platform looks for journals that have to be told; one that goes live, at once."""

ROUNDS = 5
"""How often it tells anew at once what was changed while it was told; then when it looks again."""

TOLD = "its exchange has been told"
AWAY = "its exchange is away, and is told as soon as it is back"
LATER = "its exchange is told in a moment"

LIMIT_PHRASES = {
    "max_quantity": "at most {} shares an order",
    "max_open_orders": "at most {} open orders",
    "max_position": "position at most {}",
    "max_notional": "an order worth {} at most",
    "max_rate": "at most {} orders a second",
}
"""R16's limits as traders are told them; money as money, shares as shares."""

log = logging.getLogger("webserver")


async def keep_telling(platform: Platform) -> None:
    """Tell every live market whose journal has not been told what is wanted, until cancelled."""
    markets = platform.markets
    busy: set[int] = set()
    complaints: dict[int, str] = {}

    async def tell_one(market: Market) -> None:
        key = market.product.id
        try:
            outcome = await tell(platform, market)
        except DatabaseAway as away:
            outcome = str(away)
        finally:
            busy.discard(key)
        is_new = complaints.get(key) != outcome
        complaints[key] = outcome
        if outcome not in (TOLD, AWAY) and is_new:
            log.warning("market %s: rules not told: %s", market.ticker, outcome)

    async with asyncio.TaskGroup() as group:
        while True:
            markets.went_live.clear()
            with suppress(DatabaseAway):  # the reconciler says so
                told = await platform.transactions.read(rules.told)
                for market in markets:
                    key = market.product.id
                    is_told = told.get(key) == market.lineage
                    if market.can_trade and not is_told and key not in busy:
                        busy.add(key)
                        group.create_task(tell_one(market))
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await markets.went_live.wait()


async def tell_of(platform: Platform, product: int) -> str:
    """Tell the market of a product; what came of it, to say after a comma."""
    market = platform.markets.get(product)
    return AWAY if market is None else await tell(platform, market)


async def tell(platform: Platform, market: Market) -> str:
    """Tell a market's journal all that is wanted of it; what came of it, in words."""
    key = market.product.id
    try:
        async with market.being_told:
            for _ in range(ROUNDS):
                hello, lineage = market.trading.hello, market.lineage
                wanted = await platform.transactions.read(rules.wanted, key)
                if wanted is None or lineage is None:
                    return AWAY
                in_force = await _in_force(market)
                seq = 0
                for command in _commands(market, wanted, in_force):
                    seq = (await market.trading.send(protocol.format(command)))["seq"]
                await market.until_shown(seq)
                if market.trading.hello is not hello:
                    continue  # connected anew meanwhile, perhaps with another journal
                note = platform.transactions.write
                if await note(rules.note_told, key, wanted, lineage):
                    return TOLD
            return LATER
    except Refused as refused:
        return f"its exchange refused that: {refused.message}"
    except (Away, Unanswered):
        return AWAY


async def _in_force(market: Market) -> Mapping[str, str]:
    """The rules in force, asked over the line that is about to change them.

    Our feed of the market may lag behind what another web server has just told it.
    """
    snapshot = await market.trading.subscribe(("trades",))
    await market.trading.subscribe(())
    in_force: Mapping[str, str] = snapshot["rules"]
    return in_force


def _commands(market: Market, wanted: Wanted, in_force: Mapping[str, str]) -> Iterator[Command]:
    """What there is to tell: exceptions first, so that nobody is refused what he may do."""
    ticker = market.ticker
    for owner, limits in wanted.exceptions.items():
        own = tuple((name, _scaled(name, value)) for name, value in limits.items())
        ts = market.trading.clock.now_ms()
        yield ChangeLimits(ticker=ticker, owner=owner, limits=own, ts=ts)
    differing = {name for name, _, _ in differences(wanted.rules, in_force)}
    values = msgspec.structs.asdict(wanted.rules)
    if differing.intersection(rules.SETTINGS):
        settings = tuple((name, values[name]) for name in rules.SETTINGS)
        yield ChangeSettings(ticker=ticker, settings=settings, ts=market.trading.clock.now_ms())
    if differing.intersection(rules.LIMITS):
        limits_of_all = tuple((name, _scaled(name, values[name])) for name in rules.LIMITS)
        ts = market.trading.clock.now_ms()
        yield ChangeLimits(ticker=ticker, owner=None, limits=limits_of_all, ts=ts)


def _scaled(name: str, value: int | None) -> int | None:
    """A limit's value as its command carries it."""
    return value if value is None or name in MONEY else value * PRICE_SCALE


def wanted_texts(wanted: Rules) -> dict[str, str]:
    """Rules as a market's feed tells them."""
    values = msgspec.structs.asdict(wanted)
    settings, limits = (
        {name: values[name] for name in names} for names in (rules.SETTINGS, rules.LIMITS)
    )
    return protocol.rules_to_dict(settings, limits)


def differences(wanted: Rules, in_force: Mapping[str, str]) -> list[tuple[str, str, str | None]]:
    """Where a market's rules are not those that are wanted: (name, wanted, in force)."""
    return [
        (name, text, in_force.get(name))
        for name, text in wanted_texts(wanted).items()
        if in_force.get(name) != text
    ]


def in_force(platform: Platform, product: Product) -> dict[str, str]:
    """The rules that count in a market: what its server said last, else what is wanted of it."""
    market = platform.markets.get(product.id)
    return (
        dict(market.feed.rules)
        if market is not None and market.feed.rules
        else wanted_texts(product)
    )


def differences_in(platform: Platform, product: Product) -> list[dict[str, str | None]]:
    """Where the rules in force, as far as they are known, are not those that are wanted."""
    return [
        {"name": name, "wanted": text, "in_force": now}
        for name, text, now in differences(product, in_force(platform, product))
    ]


def in_words(texts: Mapping[str, str]) -> str:
    """The rules that are on, in one line; "" if none but the usual largest quantity is.

    >>> off = wanted_texts(Rules())
    >>> in_words(off | {"collar": "10", "maker_fee": "-0.2", "max_position": "5000"})
    'collar 10 % · maker fee −0.2 bp, taker fee 0 bp · position at most 5,000'
    """
    told = [f"{name} {texts[name]} %" for name in PERCENTS if texts[name] != "0"]
    maker, taker = grouped(texts["maker_fee"]), grouped(texts["taker_fee"])
    if maker != taker:
        told.append(f"maker fee {maker} bp, taker fee {taker} bp")
    elif maker != "0":
        told.append(f"fees {maker} bp")
    usual = wanted_texts(Rules())
    for name, phrase in LIMIT_PHRASES.items():
        if texts[name] not in (usual[name], "0"):
            told.append(phrase.format(grouped(texts[name])))
    return " · ".join(told)


# -- the exceptions on the page of a product


async def exceptions_of(platform: Platform, product: int) -> list[dict[str, Any]]:
    """The exceptions from a product's limits, as its page lists them."""
    found = await platform.transactions.read(rules.exceptions, product)
    return [
        {
            "owner": exception.owner,
            "username": exception.username,
            "limit": exception.name,
            "value": rules.value_text(exception.name, exception.value),
        }
        for exception in found
    ]


async def change_exceptions(request: Request, product: Product) -> Redirect | dict[str, Any]:
    """Fields owner, limit, value: make an exception; `remove=7 max_rate`: take one back.

    Invalid with a sentence for each field that is wrong.
    """
    platform, form = request.platform, request.form
    write = platform.transactions.write
    if "remove" in form:
        owner, _, name = form["remove"].partition(" ")
        number = int(owner) if owner.isascii() and owner.isdecimal() and len(owner) <= 18 else 0
        removed = await write(
            rules.remove_exception, product.id, owner=number, name=name, by=request.trader
        )
        what = "The exception is removed" if removed else "There is no such exception any more"
    else:
        made = await write(
            rules.except_owner,
            product.id,
            who=form.get("owner", ""),
            name=form.get("limit", ""),
            value=form.get("value", ""),
            by=request.trader,
        )
        value = grouped(rules.value_text(made.name, made.value))
        limit = LIMIT_PHRASES[made.name].format(value) if made.value else "no limit of this kind"
        what = f"{made.username}: {limit}"
    outcome = await tell_of(platform, product.id)
    if request.wants_json:
        exceptions = await exceptions_of(platform, product.id)
        return {"message": f"{what}; {outcome}", "exceptions": exceptions}
    return Redirect(f"/default/edit_product/{product.id}#exceptions", f"{what}; {outcome}")
