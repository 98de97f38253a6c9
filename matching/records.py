"""A record of the journal: what one line says, as a value and as text (PROTOCOL §5).

    1700000000.020000: [9] 8 sell 500@106.00/0 id=big tif=day     a command, of order 9 of owner 8
    1700000000.040000: match 4@99.90 from 3(1) to 4(4) t=1 k=buy  what it caused
    1700000000.050000: epoch 2                                    the second start of the server

The end of a line, its numbers and CRC, is the journal's business.

>>> time, trade = parse_line("1700000000.040000: match 4@99.90 from 3(1) to 4(4) t=1 k=buy",
...                          ticker="intc")
>>> trade.price, trade.seller, trade.buy_oid
(999000, 3, 4)
>>> format_line(Record(6, time, 1, trade))
'1700000000.040000: match 4@99.90 from 3(1) to 4(4) t=1 k=buy'
"""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import assert_never

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


def format_line(record: Record) -> str:
    """A record as its line says it, without ` s= b= x=`."""
    if isinstance(record.body, Check):
        return format_body(record.body)
    return f"{format_time(record.time)}: {format_body(record.body)}"


def parse_line(line: str, *, ticker: str) -> tuple[int, Body]:
    """Time and body of a line without ` s= b= x=`; ValueError if it has no known form."""
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
    return int(text[:-7]) * 1_000_000 + int(text[-6:])


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
    match event:
        case Trade():
            taker = event.taker or "none"
            return (
                f"match {event.quantity}@{_price(event.price)}"
                f" from {event.seller}({event.sell_oid}) to {event.buyer}({event.buy_oid})"
                f" t={event.tid} k={taker}"
            )
        case Canceled():
            return f"canceled [{event.oid}] {event.quantity} {event.reason}"
        case Triggered():
            return f"triggered [{event.oid}]"
        case Decremented():
            return f"decremented [{event.oid}] {event.quantity}"
        case PhaseChanged():
            return f"phase {event.phase}"
    raise ValueError(f"{event} has no line of its own in the journal")


def _why(reason: CancelReason) -> str:
    return "" if reason is CancelReason.USER else f" why={reason}"


@lru_cache(maxsize=65_536)
def _price(price: int) -> str:
    """A price as the journal writes it: 0 for market and no stop."""
    return format_price(price) if price else "0"


_parse_price = lru_cache(maxsize=65_536)(parse_price)

_NUMBER = "(?:0|[1-9][0-9]*)"
POSITIVE = "[1-9][0-9]*"
"""A regular expression for a number from 1 on, as the journal writes it."""

_OWNER = "(?:0|[1-9][0-9]{0,8})"
PRICE = r"(?:0|(?:0|[1-9][0-9]{0,8})\.[0-9]{2}(?:[0-9]?[1-9])?)"
"""A regular expression for a price as the journal writes it: 0, or with two to four decimals."""

_AMOUNT = rf"({POSITIVE})@({PRICE})/({PRICE})"
_WHY = "(?: why=([a-z_]+))?"
_SIGNATURE = "(?: g=([0-9a-f]{16}))?"

_TIME = re.compile(rf"{_NUMBER}\.[0-9]{{6}}", re.ASCII)
_ORDER = re.compile(
    rf"\[({POSITIVE})\] ({_OWNER}) (buy|sell) {_AMOUNT}"
    rf"(?: id=({protocol.CLIENT_ID.pattern}))?(?: tif=(day|ioc|fok))?"
    rf"(?: stp=(maker|both|decrement|none))?( post)?(?: peak=({POSITIVE}))?( cod=1)?{_SIGNATURE}",
    re.ASCII,
)
_AMEND = re.compile(rf"\[({POSITIVE})\] ({_OWNER}) mod {_AMOUNT}{_SIGNATURE}", re.ASCII)
_CANCEL = re.compile(rf"\[({POSITIVE})\] ({_OWNER}) del{_WHY}{_SIGNATURE}", re.ASCII)
_CANCEL_ALL = re.compile(rf"\[0\] ({_OWNER}) del all{_WHY}{_SIGNATURE}", re.ASCII)
_VENUE = re.compile(rf"\[0\] 0 (phase|set|limit|key) (.+?){_WHY}{_SIGNATURE}", re.ASCII)
_TRADE = re.compile(
    rf"match ({POSITIVE})@({PRICE}) from ({_OWNER})\(({POSITIVE})\)"
    rf" to ({_OWNER})\(({POSITIVE})\) t=({POSITIVE}) k=(buy|sell|none)",
    re.ASCII,
)
_CANCELED = re.compile(rf"canceled \[({POSITIVE})\] ({_NUMBER}) ([a-z_]+)", re.ASCII)
_TRIGGERED = re.compile(rf"triggered \[({POSITIVE})\]", re.ASCII)
_DECREMENTED = re.compile(rf"decremented \[({POSITIVE})\] ({POSITIVE})", re.ASCII)
_PHASE = re.compile("phase ([a-z]+)", re.ASCII)
_EPOCH = re.compile(rf"epoch ({POSITIVE})", re.ASCII)
_CHECK = re.compile(rf"check ({_NUMBER}) ([0-9a-f]{{32}})", re.ASCII)

_SIDES: dict[str, Side] = {side.value: side for side in Side}
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
    match = _ORDER.fullmatch(text)
    if match is not None:
        return _parse_order(match, ticker)
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
    if match is not None:
        return _parse_venue_command(match, ticker)
    raise ValueError(f"no known form of command: {text!r}")


def _parse_order(match: re.Match[str], ticker: str) -> CommandRecord:
    (oid, owner, side, quantity, price, stop) = match.group(1, 2, 3, 4, 5, 6)
    (client_id, tif, stp, post, peak, cod, signature) = match.group(7, 8, 9, 10, 11, 12, 13)
    order = NewOrder(
        ticker=ticker,
        owner=int(owner),
        side=_SIDES[side],
        quantity=int(quantity),
        price=_parse_price(price),
        stop=_parse_price(stop),
        client_id=client_id or "",
        tif=TimeInForce(tif) if tif is not None else TimeInForce.GTC,
        stp=SelfTrade(stp) if stp is not None else SelfTrade.TAKER,
        post=post is not None,
        peak=int(peak) if peak is not None else 0,
        cod=cod is not None,
    )
    return CommandRecord(int(oid), order, signature or "")


def _parse_why(why: str | None) -> CancelReason:
    return CancelReason(why) if why is not None else CancelReason.USER


def _parse_venue_command(match: re.Match[str], ticker: str) -> CommandRecord:
    """`phase`, `set`, `limit` and `key` are written as in the grammar, but for the ticker."""
    verb, rest, why, signature = match.groups()
    command = protocol.parse(f"{verb} {ticker} {rest}")
    if isinstance(command, SetPhase) and why is not None:
        command = SetPhase(ticker=ticker, phase=command.phase, why=why)
    elif why is not None or not isinstance(
        command, SetPhase | ChangeSettings | ChangeLimits | RaiseKey
    ):
        raise ValueError(f"no known form of command: {match[0]!r}")
    return CommandRecord(0, command, signature or "")


def _parse_trade(text: str) -> Trade | None:
    match = _TRADE.fullmatch(text)
    if match is None:
        return None
    quantity, price, seller, sell_oid, buyer, buy_oid, tid, taker = match.groups()
    return Trade(
        tid=int(tid),
        price=_parse_price(price),
        quantity=int(quantity),
        buyer=int(buyer),
        seller=int(seller),
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
