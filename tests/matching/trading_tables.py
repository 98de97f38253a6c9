"""Rules as tables that a trader can sign: a command on the left, what it causes on the right.

    1:sell intc 100@50.25 | #1 accepted
    2:buy intc 150@50.25  | #2 accepted; trade 100@50.25 maker #1 taker #2
    2:buy intc 1@50.255   | rejected bad_tick: 50.255 is not a multiple of 0.01
    book                  | bids 50@50.25; asks -
    3:sell intc 60@50.20  | #3 accepted
                          | trade 50@50.25 maker #2 taker #3

A row that begins with one of `QUESTIONS` asks for the state instead. `nothing` on the right means a
command that succeeds without an event; what stands after a reject's code and colon is its message,
and may be left out; a row without a left side goes on with the right side above it; `#` begins a
comment line. The clock stands still, but for lines like `+1.5s`.

Every command is parsed by the protocol, and applied to the engine and to the reference engine,
which must agree. After every row the engine checks itself, and the account book kept here from the
events alone must agree with it: shares, cash, every order's quantity, the levels a feed would show.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from matching import protocol
from matching.account import Order
from matching.clientids import REMEMBERED_IDS
from matching.engine import Engine
from matching.events import (
    Accepted,
    Amended,
    Canceled,
    Decremented,
    Duplicate,
    Event,
    Rejected,
    Trade,
)
from matching.order import HOUSE, PRICE_SCALE, Command, Login, NewOrder, Phase, Side, format_price
from matching.scenario import event_as_json, event_words, read_rows, rejection_words
from tests.reference import ReferenceEngine, ReferenceOrder


def check(table: str, *, tick: int = 100, lot: int = 1) -> None:
    """Play the table on a new product; AssertionError shows the first row that differs."""
    trading = Trading(tick=tick, lot=lot)
    played: list[str] = []
    begin = trading.time
    for row in read_rows(table):
        left, expected = row.left, row.expected
        trading.time = begin + row.at
        found = trading.play(left, with_messages="rejected" in expected and ":" in expected)
        played.append(f"{left} | {found}")
        assert found == expected, "\n".join([*played, f"{'expected':>{len(left)}} | {expected}"])


class Trading:
    """A product under test: the engine, the reference beside it, and an account book.

    `time` is the clock in microseconds; `played` are the rows so far, to be read as a table;
    `journal` is what was carried out: the time, the command and its events.
    """

    def __init__(
        self,
        *,
        tick: int = 100,
        lot: int = 1,
        reference: int = 1_000_000,
        phase: Phase = Phase.CONTINUOUS,
        remembered_ids: int = REMEMBERED_IDS,
    ) -> None:
        self.engine = Engine("intc", tick=tick, lot=lot, reference=reference, phase=phase)
        self.reference = ReferenceEngine(tick, lot, reference, remembered_ids, phase)
        self.accounts = AccountBook()
        self.time = 1_700_000_000_000_000
        self.played: list[str] = []
        self.journal: list[tuple[int, Command, Sequence[Event]]] = []

    def play(self, left: str, *, with_messages: bool = False) -> str:
        """A row's right side, from its left."""
        name, _, argument = left.partition(" ")
        if name in QUESTIONS:
            return QUESTIONS[name](self.engine, argument)
        events = self.apply(command_of(left))
        return _words(events, with_messages)

    def apply(self, command: Command) -> Sequence[Event]:
        """The engine's events, once everything that can be compared has been."""
        before = state_of(self.engine)
        expected = self.reference.apply(command, self.time)
        self.played.append(f"{protocol.format(command)} | {_words(expected)}")
        events = self.engine.apply(command, self.time)
        assert _without_messages(events) == expected, f"the engine: {_words(events, True)}"
        if any(isinstance(event, Rejected | Duplicate) for event in events):
            assert len(events) == 1
            assert state_of(self.engine) == before, "a refused command changed something"
        else:
            self.journal.append((self.time, command, events))
        self.engine.check()
        compare_engines(self.engine, self.reference)
        self.accounts.enter(command, events)
        self.accounts.compare(self.engine)
        return events

    def wait(self, microseconds: int) -> None:
        """Let the clock go on."""
        self.time += microseconds
        if microseconds:
            self.played.append(f"+{microseconds / 1_000_000:.6f}s")


def compare_engines(engine: Engine, reference: ReferenceEngine) -> None:
    """Assert that both have the same state: all of it that both know."""
    assert orders_of(engine) == [reference_state(order) for order in reference.open_orders()]
    for side in Side:
        resting = reference.resting(side)
        assert queue_of(engine, side) == [(order.oid, order.shown) for order in resting]
        assert engine.book.levels(side) == [
            (price, sum(order.shown for order in orders), len(orders))
            for price, orders in _by_price(resting).items()
        ]
    assert engine.last == reference.last
    assert engine.phase is reference.phase
    assert engine.breaker_reference == reference.breaker_reference
    assert (engine.next_oid, engine.next_tid) == (
        len(reference.orders) + 1,
        len(reference.trades) + 1,
    )
    assert {name: value for name, value in engine.settings.items() if value} == {
        name: value for name, value in reference.settings.items() if value
    }
    found, indicative = engine.indicative(), reference.indicative()
    assert indicative == (found and (found.price, found.volume, found.surplus))
    owners = {order.owner for order in reference.orders}
    for owner in owners:
        assert engine.position(owner) == reference.position(owner)
    for owner in owners | reference.generations.keys():
        assert engine.generation(owner) == reference.generations.get(owner, 1)
    _compare_limits(engine, reference)
    _compare_ids(engine, reference)


def _compare_limits(engine: Engine, reference: ReferenceEngine) -> None:
    owners = {owner for owner, _ in reference.limits}
    for owner in owners | {order.owner for order in reference.orders}:
        if owner == HOUSE:
            continue
        in_force = engine.limits.product
        if owner is not None:
            in_force = in_force | engine.limits.exceptions.get(owner, {})
        for name, value in in_force.items():
            scale = 1 if name == "max_notional" else PRICE_SCALE
            assert value * scale == reference.limit(owner, name), (owner, name)


def _compare_ids(engine: Engine, reference: ReferenceEngine) -> None:
    """Finished orders too, as long as R14 remembers them."""
    for owner, client_id in {(order.owner, order.asked.client_id) for order in reference.orders}:
        found = engine.find(owner, client_id)
        known = reference.known_by_id(owner, client_id) if client_id else None
        if known is None:
            assert found is None, f"{found!r} is remembered"
            continue
        assert found is not None, f"#{known.oid} is forgotten"
        assert order_state(found) == reference_state(known)


class AccountBook:
    """What the events alone say: orders' quantities, owners' shares and cash, the feed."""

    def __init__(self) -> None:
        self.open: dict[int, int] = {}
        self.filled: defaultdict[int, int] = defaultdict(int)
        self.shares: defaultdict[int, int] = defaultdict(int)
        self.cash: defaultdict[int, int] = defaultdict(int)
        self.levels: dict[tuple[Side, int], tuple[int, int]] = {}

    def enter(self, command: Command, events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event, Accepted):
                assert isinstance(command, NewOrder)
                self.open[event.oid] = command.quantity
            elif isinstance(event, Trade):
                value = event.price * event.quantity
                self.shares[event.buyer] += event.quantity
                self.shares[event.seller] -= event.quantity
                self.cash[event.buyer] -= value
                self.cash[event.seller] += value
                for oid in (event.buy_oid, event.sell_oid):
                    self.open[oid] -= event.quantity
                    self.filled[oid] += event.quantity
            elif isinstance(event, Amended):
                if event.quantity > self.filled[event.oid]:
                    self.open[event.oid] = event.quantity - self.filled[event.oid]
            elif isinstance(event, Decremented):
                self.open[event.oid] -= event.quantity
            elif isinstance(event, Canceled):
                assert self.open[event.oid] == event.quantity, "a cancel names another quantity"
                self.open[event.oid] = 0

    def compare(self, engine: Engine) -> None:
        working = {oid: quantity for oid, quantity in self.open.items() if quantity}
        assert working == {order.oid: order.remaining for order in engine.open_orders()}
        assert sum(self.cash.values()) == 0
        for owner, shares in self.shares.items():
            assert engine.position(owner) == shares
        for side, price, quantity, count in engine.book.take_changed_levels():
            self.levels[side, price] = (quantity, count)
            if quantity == 0:
                assert count == 0
                del self.levels[side, price]
        assert self.levels == {
            (side, price): (quantity, count)
            for side in Side
            for price, quantity, count in engine.book.levels(side)
        }


def command_of(text: str) -> Command:
    command = protocol.parse(text, ticker="intc")
    assert not isinstance(command, Login)
    return command


def event_text(event: Event, with_messages: bool) -> str:
    """An event in the words of the tables."""
    if isinstance(event, Rejected):
        words = rejection_words({"code": event.code, "rule": event.rule})
        return words + f": {event.message}" * with_messages
    return event_words(event_as_json(event))


def _words(events: Sequence[Event], with_messages: bool = False) -> str:
    return "; ".join(event_text(event, with_messages) for event in events) or "nothing"


def _without_messages(events: Sequence[Event]) -> list[Event]:
    """The reference does not write sentences; the tables say what they are."""
    return [
        Rejected(event.code, "", event.rule) if isinstance(event, Rejected) else event
        for event in events
    ]


def _book(engine: Engine, _: str) -> str:
    return str(engine.book)


def _orders(engine: Engine, _: str) -> str:
    """Both queues with their oids, best first: what priority is about."""
    bids, asks = ([oid for oid, _ in queue_of(engine, side)] for side in Side)
    return f"bids {_oids(bids)}; asks {_oids(asks)}"


def _stops(engine: Engine, _: str) -> str:
    waiting = [order.oid for order in engine.open_orders() if order.status == "pending_stop"]
    return _oids(waiting)


def _last(engine: Engine, _: str) -> str:
    return format_price(engine.last) if engine.last is not None else "-"


def _position(engine: Engine, owner: str) -> str:
    return str(engine.position(int(owner)))


def _open(engine: Engine, owner: str) -> str:
    return _oids([order.oid for order in engine.open_orders(int(owner))])


def _order(engine: Engine, oid: str) -> str:
    return _order_text(engine.order(int(oid)))


def _find(engine: Engine, name: str) -> str:
    owner, _, client_id = name.partition(":")
    return _order_text(engine.find(int(owner), client_id))


def _phase_of(engine: Engine, _: str) -> str:
    return engine.phase


QUESTIONS: dict[str, Callable[[Engine, str], str]] = {
    "book": _book,
    "queues": _orders,
    "stops": _stops,
    "last": _last,
    "position": _position,
    "open": _open,
    "order": _order,
    "find": _find,
    "phase?": _phase_of,
}


def _oids(oids: list[int]) -> str:
    return " ".join(f"#{oid}" for oid in oids) or "-"


def _order_text(order: Order | None) -> str:
    if order is None:
        return "-"
    return (
        f"#{order.oid} {order.side} {order.quantity}, {order.filled} filled,"
        f" {order.remaining} remaining, {order.status}"
    )


def _by_price(orders: Iterable[ReferenceOrder]) -> dict[int, list[ReferenceOrder]]:
    levels: defaultdict[int, list[ReferenceOrder]] = defaultdict(list)
    for order in orders:
        levels[order.price].append(order)
    return levels


def queue_of(engine: Engine, side: Side) -> list[tuple[int, int]]:
    """(oid, shown quantity) of the side's orders, in the order in which they trade."""
    return [(order.oid, order.shown) for level in engine.book.side(side) for order in level]


def orders_of(engine: Engine) -> list[tuple[object, ...]]:
    """Everything about every open order, in oid order."""
    return [order_state(order) for order in engine.open_orders()]


def order_state(order: Order) -> tuple[object, ...]:
    return (
        *(order.oid, order.owner, order.side, order.price, order.stop),
        *(order.quantity, order.filled, order.remaining, order.status),
        *(order.tif, order.stp, order.post, order.peak, order.client_id, order.cod),
    )


def reference_state(order: ReferenceOrder) -> tuple[object, ...]:
    asked = order.asked
    return (
        *(order.oid, order.owner, order.side, order.price, order.stop),
        *(order.total, order.filled, order.remaining, order.status),
        *(asked.tif, asked.stp, asked.post, asked.peak, asked.client_id, asked.cod),
    )


def state_of(engine: Engine) -> tuple[object, ...]:
    """What a refused command must leave as it was."""
    return (
        orders_of(engine),
        [queue_of(engine, side) for side in Side],
        *(engine.phase, engine.last, engine.next_oid, engine.next_tid, engine.breaker_reference),
        dict(engine.settings),
        dict(engine.limits.product),
        {owner: dict(own) for owner, own in engine.limits.exceptions.items()},
    )
