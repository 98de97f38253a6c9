"""A record of the journal: what one line says, as a value and as text (PROTOCOL §5).

    1700000000.020000: [9] 8 sell 500@106.00/0 id=big tif=day     a command, of order 9 of owner 8
    1700000000.040000: match 4@99.90 from 3(1) to 4(4) t=1 k=buy  what it caused
    1700000000.050000: epoch 2                                    the second start of the server

A record is read from one text only, the one that is written of it: so who has read a line need not
write it again to know that it is right. The end of a line, its numbers and CRC, is the journal's
business.

>>> time, trade = parse_line("1700000000.040000: match 4@99.90 from 3(1) to 4(4) t=1 k=buy",
...                          ticker="intc")
>>> trade.price, trade.seller, trade.buy_oid
(999000, 3, 4)
>>> format_time(time), format_body(trade)
('1700000000.040000', 'match 4@99.90 from 3(1) to 4(4) t=1 k=buy')
"""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, assert_never

import msgspec

from matching import protocol
from matching.events import (
    Accepted,
    Amended,
    Canceled,
    Decremented,
    Event,
    KeyRaised,
    LimitChanged,
    PhaseChanged,
    SettingChanged,
    Trade,
    Triggered,
)
from matching.order import (
    Amend,
    Cancel,
    CancelAll,
    CancelReason,
    ChangeLimits,
    ChangeSettings,
    Command,
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


class CommandRecord(msgspec.Struct, frozen=True, gc=False):
    """A command that the engine carried out. oid: the order it made or changed, 0 if none or many.

    Orders are named by oid, an amend has all three values that it led to, and `ts` is gone.
    `signature_prefix` is set on commands that were sent by themselves: 16 hex digits.
    """

    oid: int
    command: Command
    signature_prefix: str = ""


class Epoch(msgspec.Struct, frozen=True, gc=False):
    """The `number`-th start of the matching server on this journal."""

    number: int


class Tick(msgspec.Struct, frozen=True, gc=False):
    """Seals an idle journal: what came before it is surely whole."""


class Check(msgspec.Struct, frozen=True, gc=False):
    """The hash of the engine's state after record `seq`; the one record without a time."""

    seq: int
    digest: str


JournaledEvent = Trade | Canceled | Triggered | Decremented | PhaseChanged
"""The events with a line of their own. The other kinds are told by their command's line."""

Body = CommandRecord | JournaledEvent | Epoch | Tick | Check


class Record(msgspec.Struct, frozen=True, gc=False):
    """One line of the journal. time: microseconds since 1970; 0 for a check."""

    seq: int
    time: int
    batch: int
    body: Body


def command_lines(
    command: Command, events: Sequence[Event], *, oid: int, signature_prefix: str = ""
) -> list[str]:
    """The line of a command that was carried out and those of its events, without time.

    An amend's line needs its first event, `Amended`: it says the values that the amend led to.
    ValueError if the events are not those of such a command, or not of the order `oid`.
    """
    told = _told_by_command(command, events, oid)
    if isinstance(command, Amend):
        command = _amend_with_all_values(command, events[0])
    lines = [_format_command(command, oid, signature_prefix)]
    if len(events) > told:
        lines += [_format_event(event) for event in events[told:]]
    return lines


def event_lines(command: Command, events: Sequence[Event], oid: int, stamp: str) -> tuple[int, str]:
    """The lines of the events of a command that was read and carried out again, with its time.

    So many they are, in one text, each behind the newline that ends the line before it. The
    command's own line is what `command_lines` would make of it, and needs no look: only one text is
    read as this record. ValueError if it is another that the events are of.
    """
    if type(command) is NewOrder and type(first := events[0]) is Accepted and first.oid == oid:
        if len(events) == 1:  # as of most commands
            return 0, ""
        told = 1
    elif type(command) is Cancel and type(first := events[0]) is Canceled and first.oid == oid:
        if len(events) == 1:  # as of most others
            return 1, f"\n{stamp}: {_format_canceled(first)}"
        told = 0
    else:
        told = _told_by_command(command, events, oid)
        if type(command) is Amend and _amend_with_all_values(command, events[0]) != command:
            raise ValueError(f"{command} led to {events[0]}")
    lines = [f"\n{stamp}: {_format_event(event)}" for event in events[told:]]
    return len(lines), "".join(lines)


_FIRST_EVENT: dict[type, type[Event]] = {
    NewOrder: Accepted,
    Amend: Amended,
    Cancel: Canceled,
    SetPhase: PhaseChanged,
    ChangeSettings: SettingChanged,
    ChangeLimits: LimitChanged,
    RaiseKey: KeyRaised,
}


def _told_by_command(command: Command, events: Sequence[Event], oid: int) -> int:
    """How many of the first events have no line because the command's own line says as much."""
    kind = _FIRST_EVENT.get(type(command))
    about = told = 0
    if kind is not None:
        if not events or type(events[0]) is not kind:
            raise ValueError(f"{command} was not carried out: {events}")
        about = getattr(events[0], "oid", 0)
        if kind is SettingChanged or kind is LimitChanged:
            told = sum(1 for event in events if type(event) is kind)
        elif kind is not Canceled:
            told = 1
    if about != oid:
        raise ValueError(f"order {oid} is not the one of {command} and {events}")
    return told


def _amend_with_all_values(amend: Amend, amended: Event) -> Amend:
    assert isinstance(amended, Amended)
    return Amend(
        ticker=amend.ticker,
        owner=amend.owner,
        oid=amended.oid,
        quantity=amended.quantity,
        price=amended.price,
        stop=amended.stop,
    )


def parse_line(line: str, *, ticker: str) -> tuple[int, Body]:
    """Time and body of a line without ` s= b= x=`; ValueError if it has no known form."""
    usual = _ORDER_OR_TRADE.fullmatch(line)
    if usual is not None:
        stamp, number, acting, quantity, prices, options, *trade = usual.groups()
        time = known_time(stamp)
        if number is None:
            return time, _trade_of_words(*trade)
        order = order_of_words(number, acting, quantity, prices, options, ticker)
        return time, CommandRecord(*order)
    time_text, separator, text = line.partition(": ")
    if not separator:
        match = _CHECK.fullmatch(line)
        if match is None:
            raise ValueError(f"no known form of line: {line!r}")
        return 0, Check(int(match[1]), match[2])
    return parse_time(time_text), parse_body(text, ticker=ticker)


def format_time(microseconds: int) -> str:
    """
    >>> format_time(1_700_000_000_010_000)
    '1700000000.010000'
    """
    seconds, rest = divmod(microseconds, 1_000_000)
    return f"{seconds}.{rest:06d}"


def parse_time(text: str) -> int:
    """Microseconds; ValueError if it is not a time as `format_time` writes it."""
    if _TIME.fullmatch(text) is None:
        raise ValueError(f"{text!r} is not a time")
    return known_time(text)


def known_time(text: str) -> int:
    """Microseconds of a text that is known to have the form of TIME."""
    return int(text.replace(".", ""))


def format_line(time: int, body: Body) -> str:
    """The line without ` s= b= x=`, as `parse_line` reads it, of a record that has a time."""
    return f"{format_time(time)}: {format_body(body)}"


def format_body(body: Body) -> str:
    """A record without its time."""
    match body:
        case CommandRecord():
            return _format_command(body.command, body.oid, body.signature_prefix)
        case Epoch():
            return f"epoch {body.number}"
        case Tick():
            return "tick"
        case Check():
            return f"check {body.seq} {body.digest}"
        case Trade() | Canceled() | Triggered() | Decremented() | PhaseChanged():
            return _format_event(body)
    assert_never(body)


def _format_command(command: Command, oid: int, signature_prefix: str) -> str:
    signature = f" g={signature_prefix}" if signature_prefix else ""
    match command:
        case NewOrder():
            options = protocol.format_order_options(command)
            cod = " cod=1" if command.cod else ""
            return (
                f"[{oid}] {command.owner} {command.side} {command.quantity}"
                f"@{_price(command.price)}/{_price(command.stop)}{options}{cod}{signature}"
            )
        case Cancel():
            return f"[{oid}] {command.owner} del{_why(command.reason)}{signature}"
        case CancelAll():
            return f"[0] {command.owner} del all{_why(command.reason)}{signature}"
        case Amend():
            if command.price is None or command.stop is None:
                raise ValueError(f"an amend is journaled with all its values: {command}")
            return (
                f"[{oid}] {command.owner} mod {command.quantity}"
                f"@{_price(command.price)}/{_price(command.stop)}{signature}"
            )
        case SetPhase():
            why = f" why={command.why}" if command.why else ""
            return f"[0] 0 phase {command.phase}{why}{signature}"
        case ChangeSettings():
            return f"[0] 0 set {protocol.format_settings(command)}{signature}"
        case ChangeLimits():
            owner = "*" if command.owner is None else command.owner
            return f"[0] 0 limit {owner} {protocol.format_limits(command)}{signature}"
        case RaiseKey():
            return f"[0] 0 key {command.owner} {command.generation}{signature}"
    assert_never(command)


def _format_event(event: Event) -> str:
    form = _EVENT_FORMS.get(type(event))
    if form is None:
        raise ValueError(f"{event} has no line of its own in the journal")
    return form(event)


def _format_trade(trade: Trade) -> str:
    return (
        f"match {trade.quantity}@{_price(trade.price)}"
        f" from {trade.seller}({trade.sell_oid}) to {trade.buyer}({trade.buy_oid})"
        f" t={trade.tid} k=" + (trade.taker or "none")
    )


def _format_canceled(canceled: Canceled) -> str:
    return f"canceled [{canceled.oid}] {canceled.quantity} " + canceled.reason


def _format_decremented(decremented: Decremented) -> str:
    return f"decremented [{decremented.oid}] {decremented.quantity}"


_EVENT_FORMS: dict[type[Event], Callable[[Any], str]] = {
    Trade: _format_trade,
    Canceled: _format_canceled,
    Triggered: lambda triggered: f"triggered [{triggered.oid}]",
    Decremented: _format_decremented,
    PhaseChanged: lambda changed: f"phase {changed.phase}",
}


def _why(reason: CancelReason) -> str:
    return "" if reason is CancelReason.USER else f" why={reason}"


@lru_cache(maxsize=65_536)
def _price(price: int) -> str:
    """A price as the journal writes it: 0 for market and no stop."""
    return format_price(price) if price else "0"


_NUMBER = "(?:0|[1-9][0-9]*+)"
"""A regular expression for a number as the journal writes it; no digit may come after it."""

POSITIVE = "[1-9][0-9]*+"
"""A regular expression for a number from 1 on, as the journal writes it; no digit may follow."""

TIME = rf"{_NUMBER}\.[0-9]{{6}}"
"""A regular expression for a time as `format_time` writes it."""

_OWNER_DIGITS = 9
_OWNER = "(?:0|[1-9][0-9]{0,8})"
PRICE = r"(?:0|(?:0|[1-9][0-9]{0,8})\.[0-9]{2}(?:[0-9]?[1-9])?)"
"""A regular expression for a price as the journal writes it: 0, or with two to four decimals."""

_AMOUNT = rf"({POSITIVE})@({PRICE})/({PRICE})"
_WHY = r"(?: why=(?!user\b)([a-z_]+))?"
_SIGNATURE = "(?: g=([0-9a-f]{16}))?"

_TIME = re.compile(TIME, re.ASCII)
_PRICE = re.compile(PRICE, re.ASCII)
_OPTIONS = re.compile(
    rf"(?: id=({protocol.CLIENT_ID.pattern}))?"
    rf"(?:$|(?: tif=(day|ioc|fok))?(?: stp=(maker|both|decrement|none))?( post)?"
    rf"(?: peak=({POSITIVE}))?( cod=1)?{_SIGNATURE})",  # most have an id, and no more
    re.ASCII,
)
# Orders and plain cancels are most of a journal. Many lines of them are taken apart at once, into
# words whose form is looked at only where they are new. What a command caused stays one text, to be
# compared as a whole. `*+` and `++` give nothing back: none of it could be what has to follow.
_TERMS = rf"({POSITIVE})@([0-9./]++)(| .+?)"
_ORDER = rf"\[({POSITIVE})\] ([0-9]++ (?:buy|sell)) {_TERMS}"
"""A regular expression for what may be an order; its groups are for `order_of_words` to judge."""

_USUAL = re.compile(
    rf"\[({POSITIVE})\] (?:([0-9]++ (?:buy|sell)) {_TERMS}|([0-9]++) del)$",
    re.ASCII | re.MULTILINE,
)
_CAUSED = r"(?:match|canceled|triggered|decremented|phase) .*+"
_LINES = re.compile(
    rf"^(?:({TIME}): (?:(?:{_USUAL.pattern}|\[.*+)((?:\n\1: {_CAUSED})*)|.*+)|.*+)",
    re.ASCII | re.MULTILINE,
)
_AMEND = re.compile(rf"\[({POSITIVE})\] ({_OWNER}) mod {_AMOUNT}{_SIGNATURE}", re.ASCII)
_CANCEL = re.compile(rf"\[({POSITIVE})\] ({_OWNER}) del{_WHY}{_SIGNATURE}", re.ASCII)
_CANCEL_ALL = re.compile(rf"\[0\] ({_OWNER}) del all{_WHY}{_SIGNATURE}", re.ASCII)
_VENUE = re.compile(rf"\[0\] 0 (phase|set|limit|key) (.+?){_WHY}{_SIGNATURE}", re.ASCII)
_TRADE = re.compile(
    rf"match ({POSITIVE})@([0-9.]+) from ([0-9]+)\(({POSITIVE})\)"
    rf" to ([0-9]+)\(({POSITIVE})\) t=({POSITIVE}) k=(buy|sell|none)",
    re.ASCII,
)
# The two that most lines of a journal are, at one look.
_ORDER_OR_TRADE = re.compile(rf"({TIME}): (?:{_ORDER}|{_TRADE.pattern})", re.ASCII)
_CANCELED = re.compile(rf"canceled \[({POSITIVE})\] ({_NUMBER}) ([a-z_]+)", re.ASCII)
_TRIGGERED = re.compile(rf"triggered \[({POSITIVE})\]", re.ASCII)
_DECREMENTED = re.compile(rf"decremented \[({POSITIVE})\] ({POSITIVE})", re.ASCII)
_PHASE = re.compile("phase ([a-z]+)", re.ASCII)
_EPOCH = re.compile(rf"epoch ({POSITIVE})", re.ASCII)
_CHECK = re.compile(rf"check ({_NUMBER}) ([0-9a-f]{{32}})", re.ASCII)

_SIDES: dict[str, Side] = {side.value: side for side in Side}
_TIFS = {"": TimeInForce.GTC, **{tif.value: tif for tif in TimeInForce}}
_SELF_TRADES = {"": SelfTrade.TAKER, **{mode.value: mode for mode in SelfTrade}}
_TAKERS: dict[str, Side | None] = {**_SIDES, "none": None}


def parse_body(text: str, *, ticker: str) -> Body:
    """The record that a line without its time says; ValueError if it has no known form.

    Commands that were given by client id are named by their oid here, and have no `ts`.
    """
    if text.startswith("["):
        return parse_command(text, ticker=ticker)
    if text == "tick":
        return Tick()
    parse = _PARSERS.get(text.partition(" ")[0])
    body = parse(text) if parse is not None else None
    if body is None:
        raise ValueError(f"no known form of line: {text!r}")
    return body


def parse_command(text: str, *, ticker: str) -> CommandRecord:
    """The record of a line that begins with `[oid]`; ValueError if it has no known form."""
    usual = _USUAL.fullmatch(text)
    if usual is not None:
        number, acting, quantity, prices, options, owner = usual.groups()
        if owner is not None:
            return CommandRecord(*cancel_of_words(number, owner, ticker))
        return CommandRecord(*order_of_words(number, acting, quantity, prices, options, ticker))
    try:
        record = _parse_other(text, ticker)
    except ValueError:
        record = None
    if record is None:
        raise ValueError(f"no known form of command: {text!r}")
    return record


def usual_words(lines: Sequence[str]) -> list[tuple[str, str, str, str, str, str, str, str]]:
    """Of each line its time, its words if it is an order or a plain cancel, and what it caused.

    After the time and the oid come four words for `order_of_words`, then one for `cancel_of_words`.
    The last is, behind a command, the text of all events that follow it at its time, as
    `event_lines` makes it: these lines have no words of their own. What a line has not is empty.
    """
    return _LINES.findall("\n".join(lines)) if lines else []


def cancel_of_words(number: str, owner: str, ticker: str) -> tuple[int, Cancel, str]:
    """Oid, command and signature of a cancel by the user; ValueError."""
    oid = int(number)
    try:
        cancel = Cancel(ticker=ticker, owner=_parse_owner(owner), oid=oid)
    except ValueError as error:
        raise ValueError(f"no known form of command: {f'[{number}] {owner} del'!r}") from error
    return oid, cancel, ""


def order_of_words(
    number: str, acting: str, quantity: str, prices: str, options: str, ticker: str
) -> tuple[int, NewOrder, str]:
    """Oid, command and signature of an order, by the groups of _ORDER; ValueError.

    `acting` is `OWNER buy` or `OWNER sell`, `prices` are `PRICE/STOP`.
    """
    try:
        owner, side = _parse_acting(acting)
        price, stop = _parse_prices(prices)
        words = _parse_options(options) if options else None
    except ValueError as error:
        text = f"[{number}] {acting} {quantity}@{prices}{options}"
        raise ValueError(f"no known form of command: {text!r}") from error
    total = _number(quantity)
    if words is None:  # as of most
        plain = NewOrder(
            ticker=ticker, owner=owner, side=side, quantity=total, price=price, stop=stop
        )
        return int(number), plain, ""
    client_id, tif, stp, post, peak, cod, signature = words
    order = NewOrder(
        ticker=ticker,
        owner=owner,
        side=side,
        quantity=total,
        price=price,
        stop=stop,
        client_id=client_id,
        tif=tif,
        stp=stp,
        post=post,
        peak=peak,
        cod=cod,
    )
    return int(number), order, signature


def _parse_options(text: str) -> tuple[str, TimeInForce, SelfTrade, bool, int, bool, str]:
    """From client id to signature, as an order's line has them; ValueError."""
    match = _OPTIONS.fullmatch(text)
    if match is None:
        raise ValueError(f"no options of an order: {text!r}")
    client_id, tif, stp, post, peak, cod, signature = match.groups("")
    return (
        client_id,
        _TIFS[tif],
        _SELF_TRADES[stp],
        post != "",
        int(peak) if peak else 0,
        cod != "",
        signature,
    )


def _parse_other(text: str, ticker: str) -> CommandRecord | None:
    match = _CANCEL.fullmatch(text)
    if match is not None:
        oid, owner, why, signature = match.groups()
        cancel = Cancel(ticker=ticker, owner=int(owner), oid=int(oid), reason=_parse_why(why))
        return CommandRecord(int(oid), cancel, signature or "")
    match = _CANCEL_ALL.fullmatch(text)
    if match is not None:
        owner, why, signature = match.groups()
        everything = CancelAll(ticker=ticker, owner=int(owner), reason=_parse_why(why))
        return CommandRecord(0, everything, signature or "")
    match = _AMEND.fullmatch(text)
    if match is not None:
        oid, owner, quantity, price, stop, signature = match.groups()
        amend = Amend(
            ticker=ticker,
            owner=int(owner),
            oid=int(oid),
            quantity=int(quantity),
            price=_parse_price(price),
            stop=_parse_price(stop),
        )
        return CommandRecord(int(oid), amend, signature or "")
    match = _VENUE.fullmatch(text)
    return _parse_venue_command(match, ticker) if match is not None else None


# What was read before need not be read again: owners, seconds, and many quantities and prices.


@lru_cache(maxsize=65_536)
def _parse_acting(text: str) -> tuple[int, Side]:
    """`OWNER buy` or `OWNER sell`; ValueError."""
    owner, _, side = text.partition(" ")
    return _parse_owner(owner), Side(side)


@lru_cache(maxsize=65_536)
def _parse_owner(text: str) -> int:
    if len(text) > _OWNER_DIGITS:
        raise ValueError(f"no owner: {text!r}")
    return _parse_number(text)


@lru_cache(maxsize=65_536)
def _parse_prices(text: str) -> tuple[int, int]:
    """`PRICE/STOP`; ValueError."""
    price, _, stop = text.partition("/")
    return _parse_price(price), _parse_price(stop)


@lru_cache(maxsize=65_536)
def _parse_price(text: str) -> int:
    """A price of the form of PRICE; ValueError for another, and a 0 that is written as a price."""
    if text == "0.00" or _PRICE.fullmatch(text) is None:
        raise ValueError(f"no price as it is written: {text!r}")
    return parse_price(text)


@lru_cache(maxsize=65_536)
def _parse_number(text: str) -> int:
    number = int(text)
    if number < 0 or text != str(number):
        raise ValueError(f"no number: {text!r}")
    return number


@lru_cache(maxsize=65_536)
def _number(text: str) -> int:
    """Of a text that is known to have the form of one."""
    return int(text)


def _parse_why(why: str | None) -> CancelReason:
    return CancelReason(why) if why is not None else CancelReason.USER


def _parse_venue_command(match: re.Match[str], ticker: str) -> CommandRecord | None:
    """`phase`, `set`, `limit` and `key` are written as in the grammar, but for the ticker."""
    verb, rest, why, signature = match.groups()
    command = protocol.parse(f"{verb} {ticker} {rest}")
    if isinstance(command, SetPhase) and why is not None:
        command = SetPhase(ticker=ticker, phase=command.phase, why=why)
    elif why is not None or not isinstance(
        command, SetPhase | ChangeSettings | ChangeLimits | RaiseKey
    ):
        return None
    record = CommandRecord(0, command, signature or "")
    return record if format_body(record) == match[0] else None


def _parse_trade(text: str) -> Trade | None:
    match = _TRADE.fullmatch(text)
    return _trade_of_words(*match.groups()) if match is not None else None


def _trade_of_words(
    quantity: str,
    price: str,
    seller: str,
    sell_oid: str,
    buyer: str,
    buy_oid: str,
    tid: str,
    taker: str,
) -> Trade:
    """A trade by the groups of _TRADE; ValueError."""
    return Trade(
        tid=int(tid),
        price=_parse_price(price),
        quantity=_number(quantity),
        buyer=_parse_owner(buyer),
        seller=_parse_owner(seller),
        buy_oid=int(buy_oid),
        sell_oid=int(sell_oid),
        taker=_TAKERS[taker],
    )


def _parse_canceled(text: str) -> Canceled | None:
    match = _CANCELED.fullmatch(text)
    return Canceled(int(match[1]), int(match[2]), CancelReason(match[3])) if match else None


def _parse_triggered(text: str) -> Triggered | None:
    match = _TRIGGERED.fullmatch(text)
    return Triggered(int(match[1])) if match else None


def _parse_decremented(text: str) -> Decremented | None:
    match = _DECREMENTED.fullmatch(text)
    return Decremented(int(match[1]), int(match[2])) if match else None


def _parse_phase(text: str) -> PhaseChanged | None:
    match = _PHASE.fullmatch(text)
    return PhaseChanged(Phase(match[1])) if match else None


def _parse_epoch(text: str) -> Epoch | None:
    match = _EPOCH.fullmatch(text)
    return Epoch(int(match[1])) if match else None


_PARSERS: dict[str, Callable[[str], Body | None]] = {
    "match": _parse_trade,
    "canceled": _parse_canceled,
    "triggered": _parse_triggered,
    "decremented": _parse_decremented,
    "phase": _parse_phase,
    "epoch": _parse_epoch,
}
