"""The command grammar: text ⇄ command, and the JSON form of events (PROTOCOL §1, §4).

The same text is signed, sent, parsed and shown. It is ASCII, at most 256 bytes, its words parted by
one space, matched whole:

    [owner:]buy|sell ticker quantity[@price][/stop] [id= tif= stp= post peak= ts=]
    [owner:]del ticker oid|id=x|all [ts=]
    [owner:]mod ticker oid|id=x quantity[@price][/stop] [ts=]
    phase ticker auction|continuous|halted|closed [ts=]
    set ticker name=value … [ts=]
    limit ticker *|owner name=value … [ts=]
    key ticker owner generation [ts=]
    [owner:]login ticker nonce= [cod=1] ts=

>>> command = parse("7:buy intc 100@50.25/49.9 ts=1700000000000 id=a1")
>>> command.quantity, command.price, command.stop, command.client_id
(100, 502500, 499000, 'a1')
>>> format(command)
'7:buy intc 100@50.25/49.90 id=a1 ts=1700000000000'
>>> try:
...     parse("7:buy intc 1O0@50.25")
... except BadSyntax as error:
...     print(error)
column 13: expected quantity[@price][/stop], found '1O0@50.25'
"""

import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from sys import intern
from typing import NoReturn, assert_never

from matching import events
from matching.order import (
    PRICE_SCALE,
    TICKER,
    Amend,
    Cancel,
    CancelAll,
    ChangeLimits,
    ChangeSettings,
    Command,
    Login,
    NewOrder,
    Phase,
    RaiseKey,
    SelfTrade,
    SetPhase,
    Side,
    TimeInForce,
    format_price,
    parse_price,
)

TEXT_LIMIT = 256
"""The longest command, in bytes."""

CLIENT_ID = re.compile(r"[A-Za-z0-9_.:-]{1,36}", re.ASCII)
"""A client order id (R14)."""

_OWNER = r"(?:0|[1-9][0-9]{0,8})"
_PRICE = r"[0-9]{1,9}(?:\.[0-9]{1,4})?"
_HEAD = re.compile(rf"(?:({_OWNER}):)?([a-z]+)", re.ASCII)
_OWNER_WORD = re.compile(_OWNER, re.ASCII)
_AMOUNT = re.compile(rf"([0-9]{{1,12}})(?:@({_PRICE}))?(?:/({_PRICE}))?", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,12}", re.ASCII)
_TIMESTAMP = re.compile(r"[0-9]{1,15}", re.ASCII)
_NONCE = re.compile(r"[0-9a-f]{32}", re.ASCII)
_NAME = re.compile(r"[a-z_]{1,32}", re.ASCII)
_DECIMAL = re.compile(rf"-?{_PRICE}", re.ASCII)

_MONEY_LIMITS = frozenset({"max_notional"})


class BadSyntax(ValueError):
    """The text is not a command; `column` counts from 1."""

    def __init__(self, column: int, message: str) -> None:
        super().__init__(f"column {column}: {message}")
        self.column = column
        self.message = message


def parse(text: str, *, ticker: str | None = None, owner: int = 0) -> Command | Login:
    """The command that `text` says; BadSyntax if it is none.

    `ticker` and `owner` are what a session implies where buy, sell, del and mod leave them out.
    Without `ticker` the text must name its product.
    """
    words = _Words(text)
    head = words.take(_HEAD, "a command")
    owner_text, verb = head[1], head[2]
    if owner_text is not None:
        owner = int(owner_text)
    if verb in ("buy", "sell"):
        return _parse_order(words, Side(verb), _parse_ticker(words, ticker), owner)
    if verb == "del":
        return _parse_cancel(words, _parse_ticker(words, ticker), owner)
    if verb == "mod":
        return _parse_amend(words, _parse_ticker(words, ticker), owner)
    if verb == "login":
        session_owner = int(owner_text) if owner_text is not None else None
        return _parse_login(words, _parse_ticker(words, None), session_owner)
    if verb in _VENUE_VERBS:
        if owner_text is not None:
            words.fail_at(0, f"{verb} is the venue's command and takes no owner")
        return _VENUE_VERBS[verb](words, _parse_ticker(words, None))
    words.fail_at(0, f"{verb!r} is no command: {', '.join(_VERBS)}")


class _Words:
    """The words of one command text, taken from left to right."""

    __slots__ = ("_next", "_words")

    def __init__(self, text: str) -> None:
        if len(text) > TEXT_LIMIT:
            raise BadSyntax(TEXT_LIMIT + 1, f"a command has at most {TEXT_LIMIT} bytes")
        self._words = text.split(" ")
        self._next = 0

    @property
    def left(self) -> bool:
        return self._next < len(self._words)

    def peek(self) -> str:
        """The next word; empty at the end, and where a space stands too many."""
        return self._words[self._next] if self.left else ""

    def skip(self) -> None:
        self._next += 1

    def take(self, pattern: re.Pattern[str], what: str) -> re.Match[str]:
        """The next word, which must match whole."""
        word = self.peek()
        match = pattern.fullmatch(word)
        if match is None:
            self.fail(f"expected {what}", within=_matching_prefix(pattern, word))
        self._next += 1
        return match

    def fail(self, message: str, *, within: int = 0) -> NoReturn:
        """BadSyntax at the next word, `within` characters into it."""
        found = repr(self.peek()) if self.left else "the end"
        raise BadSyntax(self._column(self._next) + within, f"{message}, found {found}")

    def fail_at(self, index: int, message: str) -> NoReturn:
        """BadSyntax at the word of that index."""
        raise BadSyntax(self._column(index), message)

    def _column(self, index: int) -> int:
        end = sum(map(len, self._words)) + len(self._words)
        return min(sum(len(word) + 1 for word in self._words[:index]) + 1, end)

    def options(self, allowed: tuple[str, ...]) -> dict[str, str]:
        """The rest of the text: `name=value` words (and the bare `post`), each at most once."""
        found: dict[str, str] = {}
        while self.left:
            name, equals, value = self.peek().partition("=")
            if name not in allowed or bool(equals) == (name in _FLAGS):
                self.fail(f"expected one of {', '.join(_spelled(name) for name in allowed)}")
            if name in found:
                self.fail(f"{name} stands twice")
            pattern = _OPTION_VALUES.get(name)
            if pattern is not None and pattern.fullmatch(value) is None:
                self.fail(f"{value!r} is no value of {name}", within=len(name) + 1)
            found[name] = value
            self._next += 1
        return found


def _matching_prefix(pattern: re.Pattern[str], word: str) -> int:
    match = pattern.match(word)
    return match.end() if match is not None else 0


def _spelled(option: str) -> str:
    return option if option in _FLAGS else f"{option}="


def _values(choice: type[StrEnum]) -> re.Pattern[str]:
    return re.compile("|".join(choice))


_FLAGS = frozenset({"post"})
_OPTION_VALUES = {
    "id": CLIENT_ID,
    "tif": _values(TimeInForce),
    "stp": _values(SelfTrade),
    "peak": re.compile(r"(?=0*[1-9])[0-9]{1,12}", re.ASCII),
    "ts": _TIMESTAMP,
    "nonce": _NONCE,
    "cod": re.compile(r"1"),
}
_ORDER_OPTIONS = ("id", "tif", "stp", "post", "peak", "ts")


def _parse_ticker(words: _Words, implied: str | None) -> str:
    word = words.peek()
    if TICKER.fullmatch(word) is not None:
        words.skip()
        return intern(word)  # each resting order keeps its command
    if implied is None:
        words.fail("expected a ticker")
    return implied


def _parse_amount(words: _Words) -> re.Match[str]:
    return words.take(_AMOUNT, "quantity[@price][/stop]")


def _price_or(text: str | None, absent: int) -> int:
    return absent if text is None else parse_price(text)


def _timestamp(options: dict[str, str]) -> int | None:
    return int(options["ts"]) if "ts" in options else None


def _parse_order(words: _Words, side: Side, ticker: str, owner: int) -> NewOrder:
    amount = _parse_amount(words)
    options = words.options(_ORDER_OPTIONS) if words.left else {}
    return NewOrder(
        ticker=ticker,
        owner=owner,
        side=side,
        quantity=int(amount[1]),
        price=_price_or(amount[2], 0),
        stop=_price_or(amount[3], 0),
        client_id=options.get("id", ""),
        tif=TimeInForce(options["tif"]) if "tif" in options else TimeInForce.GTC,
        stp=SelfTrade(options["stp"]) if "stp" in options else SelfTrade.TAKER,
        post="post" in options,
        peak=int(options.get("peak", 0)),
        ts=_timestamp(options),
    )


def _parse_target(words: _Words) -> tuple[int, str]:
    """The order that del and mod name: (oid, "") or (0, client id)."""
    word = words.peek()
    if word.startswith("id="):
        if CLIENT_ID.fullmatch(word, 3) is None:
            words.fail(f"{word[3:]!r} is no client id", within=3)
        words.skip()
        return 0, word[3:]
    return int(words.take(_NUMBER, "an oid or id=")[0]), ""


def _parse_cancel(words: _Words, ticker: str, owner: int) -> Cancel | CancelAll:
    if words.peek() == "all":
        words.skip()
        return CancelAll(ticker=ticker, owner=owner, ts=_timestamp(words.options(("ts",))))
    oid, client_id = _parse_target(words)
    ts = _timestamp(words.options(("ts",)))
    return Cancel(ticker=ticker, owner=owner, oid=oid, client_id=client_id, ts=ts)


def _parse_amend(words: _Words, ticker: str, owner: int) -> Amend:
    oid, client_id = _parse_target(words)
    amount = _parse_amount(words)
    return Amend(
        ticker=ticker,
        owner=owner,
        oid=oid,
        client_id=client_id,
        quantity=int(amount[1]),
        price=None if amount[2] is None else parse_price(amount[2]),
        stop=None if amount[3] is None else parse_price(amount[3]),
        ts=_timestamp(words.options(("ts",))),
    )


def _parse_login(words: _Words, ticker: str, owner: int | None) -> Login:
    options = words.options(("nonce", "cod", "ts"))
    for needed in ("nonce", "ts"):
        if needed not in options:
            words.fail(f"expected {needed}=")
    return Login(
        ticker=ticker,
        owner=owner,
        nonce=options["nonce"],
        cod="cod" in options,
        ts=int(options["ts"]),
    )


def _parse_phase(words: _Words, ticker: str) -> SetPhase:
    phase = Phase(words.take(_values(Phase), "|".join(Phase))[0])
    return SetPhase(ticker=ticker, phase=phase, ts=_timestamp(words.options(("ts",))))


def _parse_settings(words: _Words, ticker: str) -> ChangeSettings:
    values, ts = _parse_assignments(words, _DECIMAL, "a decimal number")
    settings = tuple((name, _ten_thousandths(value)) for name, value in values)
    return ChangeSettings(ticker=ticker, settings=settings, ts=ts)


def _parse_limits(words: _Words, ticker: str) -> ChangeLimits:
    owner = None
    if words.peek() == "*":
        words.skip()
    else:
        owner = int(words.take(_OWNER_WORD, "* or an owner")[0])
    values, ts = _parse_assignments(words, _LIMIT_VALUE, "a number or *")
    limits = tuple(
        (name, None if value == "*" else _ten_thousandths(value)) for name, value in values
    )
    return ChangeLimits(ticker=ticker, owner=owner, limits=limits, ts=ts)


_LIMIT_VALUE = re.compile(rf"\*|-?[0-9]{{1,12}}|{_DECIMAL.pattern}", re.ASCII)


def _parse_assignments(
    words: _Words, value_pattern: re.Pattern[str], what: str
) -> tuple[list[tuple[str, str]], int | None]:
    """`name=value` words, at least one, each name once; a last `ts=` is returned apart."""
    values: dict[str, str] = {}
    while words.left and not words.peek().startswith("ts="):
        name, _, value = words.peek().partition("=")
        if _NAME.fullmatch(name) is None:
            words.fail("expected name=value")
        if value_pattern.fullmatch(value) is None:
            words.fail(f"expected {what} after {name}=", within=len(name) + 1)
        if name in values:
            words.fail(f"{name} stands twice")
        values[name] = value
        words.skip()
    if not values:
        words.fail("expected name=value")
    return list(values.items()), _timestamp(words.options(("ts",)))


def _ten_thousandths(text: str) -> int:
    whole, _, decimals = text.removeprefix("-").partition(".")
    value = int(whole) * PRICE_SCALE + int(decimals.ljust(4, "0"))
    return -value if text.startswith("-") else value


def _parse_key(words: _Words, ticker: str) -> RaiseKey:
    owner = int(words.take(_OWNER_WORD, "an owner")[0])
    generation = int(words.take(_NUMBER, "a generation")[0])
    ts = _timestamp(words.options(("ts",)))
    return RaiseKey(ticker=ticker, owner=owner, generation=generation, ts=ts)


_VENUE_VERBS: dict[str, Callable[[_Words, str], Command]] = {
    "phase": _parse_phase,
    "set": _parse_settings,
    "limit": _parse_limits,
    "key": _parse_key,
}
_VERBS = ("buy", "sell", "del", "mod", *_VENUE_VERBS, "login")


def format(command: Command | Login) -> str:
    """The canonical text of a command: `parse(format(command)) == command`.

    The owner is always written, options in the grammar's order, defaults left out. What only the
    server adds (a reason, `why`, `cod` of an order) has no place in the grammar and is not written.
    """
    return _format_body(command) + (f" ts={command.ts}" if command.ts is not None else "")


def _format_body(command: Command | Login) -> str:
    ticker = command.ticker
    match command:
        case NewOrder():
            amount = format_amount(command.quantity, command.price or None, command.stop or None)
            options = format_order_options(command)
            return f"{command.owner}:{command.side} {ticker} {amount}{options}"
        case Cancel():
            return f"{command.owner}:del {ticker} {_format_target(command)}"
        case CancelAll():
            return f"{command.owner}:del {ticker} all"
        case Amend():
            amount = format_amount(command.quantity, command.price, command.stop)
            return f"{command.owner}:mod {ticker} {_format_target(command)} {amount}"
        case SetPhase():
            return f"phase {ticker} {command.phase}"
        case ChangeSettings():
            return f"set {ticker} {format_settings(command)}"
        case ChangeLimits():
            owner_text = "*" if command.owner is None else command.owner
            return f"limit {ticker} {owner_text} {format_limits(command)}"
        case RaiseKey():
            return f"key {ticker} {command.owner} {command.generation}"
        case Login():
            head = "login" if command.owner is None else f"{command.owner}:login"
            cod = " cod=1" if command.cod else ""
            return f"{head} {ticker} nonce={command.nonce}{cod}"
    assert_never(command)


def _format_target(command: Cancel | Amend) -> str:
    return f"id={command.client_id}" if command.client_id else str(command.oid)


def format_amount(quantity: int, price: int | None, stop: int | None) -> str:
    """`quantity[@price][/stop]`; None leaves a part out."""
    text = str(quantity)
    if price is not None:
        text += f"@{format_price(price)}"
    if stop is not None:
        text += f"/{format_price(stop)}"
    return text


def format_order_options(order: NewOrder) -> str:
    """` id=big tif=day stp=maker post peak=50`, each with its space, defaults left out.

    The journal writes an order's options in the same form and order (PROTOCOL §5).
    """
    text = f" id={order.client_id}" if order.client_id else ""
    if order.tif is not TimeInForce.GTC:
        text += f" tif={order.tif}"
    if order.stp is not SelfTrade.TAKER:
        text += f" stp={order.stp}"
    if order.post:
        text += " post"
    if order.peak:
        text += f" peak={order.peak}"
    return text


def format_settings(command: ChangeSettings) -> str:
    """`collar=5 maker_fee=-0.2`: the shortest decimals (also in the journal)."""
    return " ".join(f"{name}={_format_decimal(value)}" for name, value in command.settings)


def format_limits(command: ChangeLimits) -> str:
    """`max_position=200 max_notional=100000.00`: money as prices, else the shortest decimals."""
    return " ".join(f"{name}={_format_limit(name, value)}" for name, value in command.limits)


def rules_to_dict(settings: Mapping[str, int], limits: Mapping[str, int]) -> dict[str, str]:
    """A product's settings and limits as the feed shows them (PROTOCOL §4): the text of commands.

    Settings are in ten-thousandths, limits in shares, orders and ten-thousandths of money.

    >>> rules_to_dict({"collar": 50_000}, {"max_quantity": 1_000_000, "max_notional": 5_000})
    {'collar': '5', 'max_quantity': '1000000', 'max_notional': '0.50'}
    """
    texts = {name: _format_decimal(value) for name, value in settings.items()}
    for name, value in limits.items():
        texts[name] = format_price(value) if name in _MONEY_LIMITS else str(value)
    return texts


def _format_limit(name: str, value: int | None) -> str:
    if value is None:
        return "*"
    return format_price(value) if name in _MONEY_LIMITS else _format_decimal(value)


def _format_decimal(value: int) -> str:
    whole, decimals = divmod(abs(value), PRICE_SCALE)
    text = f"{whole}.{decimals:04d}".rstrip("0").rstrip(".")
    return f"-{text}" if value < 0 else text


def event_to_dict(event: events.Event) -> dict[str, object]:
    """The JSON object of one event (PROTOCOL §4): prices as text, null for market and no stop."""
    match event:
        case events.Accepted():
            return {"event": "accepted", "oid": event.oid}
        case events.Trade():
            return {
                "event": "trade",
                "tid": event.tid,
                "price": format_price(event.price),
                "quantity": event.quantity,
                "buy": event.buy_oid,
                "sell": event.sell_oid,
                "taker": event.taker or "none",
            }
        case events.Canceled():
            return {
                "event": "canceled",
                "oid": event.oid,
                "quantity": event.quantity,
                "reason": event.reason,
            }
        case events.Triggered():
            return {"event": "triggered", "oid": event.oid}
        case events.Amended():
            return {
                "event": "amended",
                "oid": event.oid,
                "quantity": event.quantity,
                "price": price_or_null(event.price),
                "stop": price_or_null(event.stop),
            }
        case events.Decremented():
            return {"event": "decremented", "oid": event.oid, "quantity": event.quantity}
        case events.PhaseChanged():
            return {"event": "phase", "phase": event.phase}
        case events.SettingChanged():
            return {"event": "set", "name": event.name, "value": _format_decimal(event.value)}
        case events.LimitChanged():
            return {
                "event": "limit",
                "owner": event.owner,
                "name": event.name,
                "value": _format_limit(event.name, event.value),
            }
        case events.KeyRaised():
            return {"event": "key", "owner": event.owner, "generation": event.generation}
        case events.Duplicate():
            return {"event": "duplicate", "oid": event.oid}
        case events.Rejected():
            return {"code": event.code, "rule": event.rule, "message": event.message}
    assert_never(event)


def price_or_null(price: int) -> str | None:
    """A price as JSON shows it: null where 0 means "market" or "no stop" (PROTOCOL §4)."""
    return format_price(price) if price else None
