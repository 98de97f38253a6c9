"""The state that a journal's replay has come to, as lines that a person reads, and as their hash.

The state is all that the next command's outcome depends on. Each line says one thing of it; they
are sorted as ASCII text, and the state's hash, `check`'s in PROTOCOL §5, is the blake2b-128 of all
of them, each with a newline. Journals hold such hashes: another form of line needs other `rules=`.

    ask 000000001 TERMS filled=2 hidden=0    resting, in book order: best price first, then time
    bid 000000001 TERMS filled=0 hidden=40   hidden: what of an iceberg is not shown now (R9)
    breaker 100.00                           what the breaker measures from (R12)
    id TERMS                                 a remembered client id (R14): the order as entered
    id TERMS filled=80 canceled              … which has ended, and how
    id TERMS now=80@99.95/- filled=80        … with other values than it was entered with
    key 7 2                                  owner and generation, where one was raised
    last 99.95                               R15
    limit * max_quantity 1000000             R16's of the product; limit 7 …: an owner's own;
                                             max_notional in ten-thousandths
    next oid 5 tid 2                         the numbers of the next order and the next trade
    phase continuous
    position 4 -8                            an owner's net shares, if any
    rate 7 1700000000.050000 2               then so many orders and amends were accepted of an
                                             owner but the house, within a second before the last
                                             record (R16)
    setting collar 50000                     R3, R12, R17, in ten-thousandths
    stop-buy 000000001 TERMS filled=0 hidden=0   waiting, in order of election (R7)
    stop-sell 000000001 TERMS filled=0 hidden=0  likewise

Prices and times are the journal's, `-` is none. TERMS is an order as the journal's line of it says
it, `[oid] owner side quantity@price/stop` and options; amends, decrements (R5) and an election (R7)
have changed those of open orders.

Beside the state, a server must know of the records before it, in lines likewise:

    seen 5 TIME: [4] 4 buy … g=5d2e8a60b1c7… record 5: the last 10 s' commands sent by themselves
    starts 3                                 the number of the last epoch
    time 1700000000.050000                   the last record's
    trade 6 TIME: match 4@99.90 …            record 6: the last 50 trades
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b

import msgspec

from matching.account import Order
from matching.book import BookSide
from matching.clientids import ClientIds
from matching.engine import Engine
from matching.events import Trade
from matching.order import HOUSE, Command, NewOrder, Side, format_price
from matching.records import CommandRecord, format_body, format_line, format_time
from matching.stops import WaitingStops


class SeenSignature(msgspec.Struct, frozen=True, gc=False):
    """A command that was sent by itself and is in the journal's last 10 s (PROTOCOL §2)."""

    prefix: str
    oid: int
    time: int
    seq: int
    command: Command


class PastTrade(msgspec.Struct, frozen=True, gc=False):
    """A trade that the journal holds, for those who watch the market from now on."""

    seq: int
    time: int
    trade: Trade


class State(msgspec.Struct, frozen=True):
    """What a replay has come to: all that the next command's outcome and the server's first answers
    depend on. `trades` and `signatures` are the oldest first.

    `time` is the last record's (microseconds), `starts` the number of the last epoch. Only
    `session_owners` have open orders that are to live no longer than their session (`cod=1`).
    """

    engine: Engine
    time: int
    starts: int
    trades: Sequence[PastTrade]
    signatures: Sequence[SeenSignature]
    session_owners: frozenset[int]


def state_lines(state: State) -> list[str]:
    """The state's lines, sorted, as this module's docstring describes them."""
    return sorted(_engine_lines(state.engine, state.time))


def record_lines(state: State) -> list[str]:
    """The lines of what else the records tell, sorted."""
    lines = [
        f"time {format_time(state.time)}",
        f"starts {state.starts}",
        *(f"trade {past.seq} {format_line(past.time, past.trade)}" for past in state.trades),
    ]
    for seen in state.signatures:
        record = CommandRecord(seen.oid, seen.command, seen.prefix)
        lines.append(f"seen {seen.seq} {format_line(seen.time, record)}")
    return sorted(lines)


def state_digest(state: State) -> str:
    """The hash that a `check` record has of this state: 32 hex digits."""
    text = "".join([f"{line}\n" for line in state_lines(state)])
    return blake2b(text.encode("ascii"), digest_size=16).hexdigest()


# The engine, taken apart: beside this module and `savedstate`, nothing outside the engine knows how
# it is made.


def _engine_lines(engine: Engine, time: int) -> Iterator[str]:
    yield f"phase {engine.phase}"
    yield f"last {_price_or_none(engine.last)}"
    yield f"breaker {_price_or_none(engine.breaker_reference)}"
    yield f"next oid {engine.next_oid} tid {engine.next_tid}"
    for name, value in engine.settings.items():
        yield f"setting {name} {value}"
    for name, value in engine.limits.product.items():
        yield f"limit * {name} {value}"
    for owner, own in engine.limits.exceptions.items():
        for name, value in own.items():
            yield f"limit {owner} {name} {value}"
    for owner, generation in engine._generations.items():
        yield f"key {owner} {generation}"
    for account in engine._accounts.values():
        if account.position:
            yield f"position {account.owner} {account.position}"
    for owner, entries in engine._recent.by_owner(time).items():
        if owner == HOUSE:
            continue
        for entry, count in Counter(entries).items():
            yield f"rate {owner} {format_time(entry)} {count}"
    yield from _queue_lines("bid", _resting(engine.book.bids))
    yield from _queue_lines("ask", _resting(engine.book.asks))
    yield from _queue_lines("stop-buy", _waiting(engine._stops, Side.BUY))
    yield from _queue_lines("stop-sell", _waiting(engine._stops, Side.SELL))
    yield from _id_lines(engine._ids)


def _resting(side: BookSide) -> Iterator[Order]:
    for level in side:
        yield from level


def _waiting(stops: WaitingStops, side: Side) -> Iterator[Order]:
    yield from (stops._buys if side is Side.BUY else stops._sells).values()


def _queue_lines(kind: str, orders: Iterable[Order]) -> Iterator[str]:
    for number, order in enumerate(orders, start=1):
        terms = format_body(CommandRecord(order.oid, order.terms))
        yield f"{kind} {number:09d} {terms} filled={order.filled} hidden={order.hidden}"


def _id_lines(ids: ClientIds) -> Iterator[str]:
    for oid, order in ids.by_oid.items():
        entered = ids.commands[oid]
        line = f"id {format_body(CommandRecord(oid, entered))}"
        yield line if order.remaining else f"{line}{_what_became(order, entered)}"


def _what_became(order: Order, entered: NewOrder) -> str:
    quantity, price, stop = order.quantity, order.price, order.stop
    now = ""
    if (quantity, price, stop) != (entered.quantity, entered.price, entered.stop):
        now = f" now={quantity}@{_price_or_none(price)}/{_price_or_none(stop)}"
    return f"{now} filled={order.filled}{' canceled' if order.canceled else ''}"


def _price_or_none(price: int | None) -> str:
    return format_price(price) if price else "-"
