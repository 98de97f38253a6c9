"""The matching engine of one product: commands in, events out, by docs/RULES.md and nothing else.

It is a function of its state and a command with its time (R18): no clock, dice, file, thread or
hash order in here, so that the journal's commands give the journal's events again. A trader's
mistake is an answer, one `Rejected`, and changes nothing; an exception is a bug of ours.

>>> from matching import protocol
>>> engine = Engine("intc")
>>> engine.apply(protocol.parse("1:sell intc 100@50.25"), at=1_700_000_000_000_000)
[Accepted(oid=1)]
>>> accepted, trade = engine.apply(protocol.parse("2:buy intc 150@50.25"), at=1_700_000_000_020_000)
>>> trade.quantity, trade.price, trade.sell_oid, trade.buy_oid
(100, 502500, 1, 2)
>>> print(engine.book)
bids 50@50.25; asks -
"""

from collections import deque
from collections.abc import Sequence
from typing import assert_never

from msgspec.structs import replace

from matching.book import BookSide, Order, OrderBook, WaitingStops
from matching.events import (
    Accepted,
    Canceled,
    Decremented,
    Duplicate,
    Event,
    KeyRaised,
    PhaseChanged,
    Rejected,
    Trade,
    Triggered,
)
from matching.order import (
    HOUSE,
    MAX_ORDER_VALUE,
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
)

MAX_QUANTITY = 1_000_000
"""The largest total of one order (R16's `max_quantity`)."""

REMEMBERED_IDS = 200_000
"""So many of the latest accepted client ids are remembered after their order has ended (R14)."""

# CPython 3.11 takes as long to look a member up in its Enum as to create an event.
_BUY = Side.BUY
_CONTINUOUS = Phase.CONTINUOUS
_FOK = TimeInForce.FOK
_IOC = TimeInForce.IOC
_NONE = SelfTrade.NONE


class Engine:
    """One product: its book, its waiting stops and what the rules need to remember.

    tick and reference are in ten-thousandths. `last` is the price of the last trade, None before
    the first (R15); `next_oid` and `next_tid` number the next order and the next trade.
    """

    def __init__(
        self,
        ticker: str,
        *,
        tick: int = 100,
        lot: int = 1,
        reference: int = 1_000_000,
        phase: Phase = Phase.CONTINUOUS,
    ) -> None:
        if phase is Phase.AUCTION:
            raise ValueError("call auctions are not offered by this engine yet")
        self.ticker = ticker
        self.tick = tick
        self.lot = lot
        self.reference = reference
        self.phase = phase
        self.last: int | None = None
        self.next_oid = 1
        self.next_tid = 1
        self.time = 0
        self.book = OrderBook()
        self._stops = WaitingStops()
        self._open_of: dict[int, dict[int, Order]] = {}
        self._positions: dict[int, int] = {}
        self._ids = _ClientIds()
        self._generations: dict[int, int] = {}

    def apply(self, command: Command, at: int) -> Sequence[Event]:
        """What the command causes, in order; one Rejected if the rules refuse it.

        `at` is the journal's time in microseconds; it never goes back (R18).
        """
        assert at >= self.time, f"time went back from {self.time} to {at}"
        self.time = at
        if isinstance(command, NewOrder):
            return self._enter(command)
        if isinstance(command, Cancel):
            return self._cancel(command)
        if isinstance(command, CancelAll):
            return self._cancel_all(command)
        if isinstance(command, Amend):
            return [_not_offered("invalid_order", "amending an order", "R6")]
        if isinstance(command, SetPhase):
            return self._set_phase(command)
        if isinstance(command, ChangeSettings):
            return [_not_offered("invalid_setting", "a collar, band, breaker or fee")]
        if isinstance(command, ChangeLimits):
            return [_not_offered("invalid_setting", "changing limits", "R16")]
        if isinstance(command, RaiseKey):
            return self._raise_key(command)
        assert_never(command)

    # Reading

    def order(self, oid: int) -> Order | None:
        """The order, while it is open or R14 remembers its client id."""
        return self._open_order(oid) or self._ids.by_oid.get(oid)

    def find(self, owner: int, client_id: str) -> Order | None:
        """The owner's order with that client id, while R14 remembers it."""
        return self._ids.find(owner, client_id)

    def open_orders(self, owner: int | None = None) -> list[Order]:
        """Resting orders and waiting stops, of one owner or (None) of all, in oid order."""
        if owner is not None:
            return list(self._open_of.get(owner, {}).values())
        everything = [*self.book.orders.values(), *self._stops.orders.values()]
        return sorted(everything, key=lambda order: order.oid)

    def position(self, owner: int) -> int:
        """The owner's net shares: bought less sold, by trades here."""
        return self._positions.get(owner, 0)

    def generation(self, owner: int) -> int:
        """The generation of the owner's key that counts (PROTOCOL §2)."""
        return self._generations.get(owner, 1)

    # Orders

    def _enter(self, command: NewOrder) -> Sequence[Event]:
        if command.client_id:
            known = self._ids.find(command.owner, command.client_id)
            if known is not None:
                return [_answer_again(known, command)]
        rejected = self._why_not(command)
        if rejected is not None:
            return [rejected]
        oid = self.next_oid
        self.next_oid = oid + 1
        order = Order(oid, command)
        open_orders = self._open_of.get(command.owner)
        if open_orders is None:
            open_orders = self._open_of[command.owner] = {}
            self._positions[command.owner] = 0
        open_orders[oid] = order
        if command.client_id:
            self._ids.remember(order)
        events: list[Event] = [Accepted(oid)]
        if command.stop:
            self._stops.add(order)
            return events
        self._run(order, events)
        if self._stops.orders:
            self._run_stops(self._elected_by(events), events)
        return events

    def _why_not(self, command: NewOrder) -> Rejected | None:
        """The first reason against a new order, in RULES' "Order of checks"; None: accepted."""
        quantity, price = command.quantity, command.price
        if self.phase is not _CONTINUOUS:
            return self._closed_or_halted()
        if quantity == 0:
            return Rejected("invalid_order", "the quantity must not be 0")
        if quantity % self.lot:
            return Rejected("bad_lot", f"{quantity} is not a multiple of the lot, {self.lot}")
        if price % self.tick:
            return self._off_grid(price)
        if command.stop or command.post or command.peak:
            rejected = self._why_not_special(command)
            if rejected is not None:
                return rejected
        elif quantity * price > MAX_ORDER_VALUE:
            return _too_valuable(command)
        if quantity > MAX_QUANTITY and command.owner != HOUSE:
            return _too_large(command)
        if command.post:
            opposite = self.book.opposite(command.side)
            if opposite.is_reached_by(price):
                return _would_take(command, opposite)
        return None

    def _why_not_special(self, command: NewOrder) -> Rejected | None:
        """The same for what only orders with a stop, post or peak can have wrong."""
        if command.stop % self.tick:
            return self._off_grid(command.stop)
        if command.quantity * max(command.price, command.stop) > MAX_ORDER_VALUE:
            return _too_valuable(command)
        if command.post:
            misfit = _post_misfit(command)
            if misfit:
                return Rejected("invalid_order", f"a post-only order {misfit}", "R8")
        if command.peak:
            return _not_offered("invalid_order", "an iceberg order (peak)", "R9")
        if command.stop and self._has_reached(command):
            return self._stop_would_trigger(command)
        return None

    def _has_reached(self, command: NewOrder) -> bool:
        """Whether last has reached the stop already, equal included (R7)."""
        if self.last is None:
            return False
        if command.side is _BUY:
            return self.last >= command.stop
        return self.last <= command.stop

    def _run(self, order: Order, events: list[Event]) -> None:
        """Run an incoming or triggered order to its end: trade, then rest or be canceled (R4)."""
        book = self.book
        if order.side is _BUY:
            own, opposite = book.bids, book.asks
        else:
            own, opposite = book.asks, book.bids
        tif = order.command.tif
        if tif is _FOK and not self._is_fillable(order, opposite):
            events.append(self._end(order, CancelReason.FOK))
            return
        limit = opposite.limit_key(order.price)
        best = opposite.best
        if best is not None and best.key >= limit:
            self._match(order, opposite, limit, events)
            if order.canceled:
                return
        if order.open_quantity == 0:
            self._close(order)
        elif order.price == 0:
            events.append(self._end(order, CancelReason.NO_LIQUIDITY))
        elif tif is _IOC:
            events.append(self._end(order, CancelReason.IOC))
        else:
            own.add(order)

    def _match(self, order: Order, opposite: BookSide, limit: int, events: list[Event]) -> None:
        """Trade with the best resting orders (R1) as far as the order's price and quantity go."""
        stp = order.command.stp
        prevents = stp is not _NONE and order.owner != HOUSE
        while order.open_quantity:
            level = opposite.best
            if level is None or level.key < limit:
                return
            resting = level.first
            if prevents and resting.owner == order.owner:
                self._prevent_self_trade(order, resting, events)
                if order.canceled:
                    return
                continue
            quantity = order.open_quantity
            if resting.open_quantity < quantity:
                quantity = resting.open_quantity
            order.open_quantity -= quantity
            opposite.fill(resting, quantity)
            events.append(self._trade(order, resting, quantity))
            if resting.open_quantity == 0:
                self._close(resting)

    def _trade(self, taker: Order, maker: Order, quantity: int) -> Trade:
        """Record a print at the resting order's price (R1, R15), and move the shares."""
        side = taker.side
        if side is _BUY:
            buy, sell = taker, maker
        else:
            buy, sell = maker, taker
        buyer, seller, price, tid = buy.owner, sell.owner, maker.price, self.next_tid
        self.next_tid = tid + 1
        self.last = price
        positions = self._positions
        positions[buyer] += quantity
        positions[seller] -= quantity
        return Trade(tid, price, quantity, buyer, seller, buy.oid, sell.oid, side)

    def _prevent_self_trade(self, order: Order, resting: Order, events: list[Event]) -> None:
        """What the incoming order's mode does where it meets one of its own owner (R5)."""
        if order.stp is SelfTrade.DECREMENT:
            self._decrement(order, resting, events)
            return
        if order.stp is not SelfTrade.TAKER:
            events.append(self._end(resting, CancelReason.SELF_TRADE))
        if order.stp is not SelfTrade.MAKER:
            events.append(self._end(order, CancelReason.SELF_TRADE))

    def _decrement(self, order: Order, resting: Order, events: list[Event]) -> None:
        """Take the smaller open quantity off both totals, without a trade."""
        quantity = min(order.open_quantity, resting.open_quantity)
        self.book.side(resting.side).reduce(resting, quantity)
        order.quantity -= quantity
        order.open_quantity -= quantity
        events.append(Decremented(resting.oid, quantity))
        events.append(Decremented(order.oid, quantity))
        for reduced in (resting, order):
            if reduced.open_quantity == 0:
                events.append(self._end(reduced, CancelReason.SELF_TRADE))

    def _is_fillable(self, order: Order, opposite: BookSide) -> bool:
        """Whether a fok order would trade whole, under its own self-trade mode (R4)."""
        limit = opposite.limit_key(order.price)
        prevents = order.stp is not _NONE and order.owner != HOUSE
        missing = order.open_quantity
        for level in opposite:
            if level.key < limit:
                return False
            for resting in level:
                if not prevents or resting.owner != order.owner:
                    missing -= resting.open_quantity
                elif order.stp is not SelfTrade.MAKER:
                    return False  # it would be canceled or decremented here
                if missing <= 0:
                    return True
        return False

    # Stops

    def _elected_by(self, events: list[Event]) -> list[Order]:
        """The waiting stops that an order's trades elect (R7), in the order they run."""
        prices = [event.price for event in events if isinstance(event, Trade)]
        if not prices:
            return []
        return self._stops.take_elected(low=min(prices), high=max(prices))

    def _run_stops(self, elected: list[Order], events: list[Event]) -> None:
        """Run elected stops; those that their trades elect queue behind them (R7)."""
        queue = deque(elected)
        while queue:
            order = queue.popleft()
            order.stop = 0
            what_follows: list[Event] = [Triggered(order.oid)]
            self._run(order, what_follows)
            queue.extend(self._elected_by(what_follows))
            events += what_follows

    # Cancels

    def _cancel(self, command: Cancel) -> Sequence[Event]:
        order = self._named_by(command)
        if order is None:
            return [_order_not_found(command)]
        return [self._end(order, command.reason)]

    def _named_by(self, command: Cancel) -> Order | None:
        """The owner's open order that the command names by oid or client id (R13, R14)."""
        if command.client_id:
            order = self._ids.find(command.owner, command.client_id)
            return order if order is not None and order.remaining else None
        order = self._open_order(command.oid)
        return order if order is not None and order.owner == command.owner else None

    def _cancel_all(self, command: CancelAll) -> Sequence[Event]:
        return [self._end(order, command.reason) for order in self.open_orders(command.owner)]

    def _end(self, order: Order, reason: CancelReason) -> Canceled:
        """Cancel what is open of an order, whether it rests, waits for its stop or is incoming."""
        if order.level is not None:
            book = self.book
            (book.bids if order.side is _BUY else book.asks).remove(order)
        elif order.stop:
            self._stops.remove(order)
        order.canceled = True
        self._close(order)
        return Canceled(order.oid, order.open_quantity, reason)

    # The venue's commands

    def _set_phase(self, command: SetPhase) -> Sequence[Event]:
        """R11: the phase event, then what entering that phase does."""
        if command.phase is self.phase:
            message = f"{self.ticker} is in phase {self.phase} already"
            return [Rejected("invalid_phase", message, "R11")]
        if command.phase is Phase.AUCTION:
            return [_not_offered("invalid_phase", "a call auction", "R10")]
        self.phase = command.phase
        events: list[Event] = [PhaseChanged(command.phase)]
        if command.phase is Phase.CLOSED:
            for order in self.open_orders():
                if order.tif is TimeInForce.DAY:
                    events.append(self._end(order, CancelReason.END_OF_DAY))
        elif command.phase is Phase.CONTINUOUS and self.last is not None:
            self._run_stops(self._stops.take_elected(low=self.last, high=self.last), events)
        return events

    def _raise_key(self, command: RaiseKey) -> Sequence[Event]:
        if command.owner == HOUSE:
            return [Rejected("invalid_setting", "owner 0, the house, has no key of its own")]
        present = self.generation(command.owner)
        if command.generation <= present:
            message = f"the key of owner {command.owner} has generation {present} already"
            return [Rejected("invalid_setting", message)]
        self._generations[command.owner] = command.generation
        return [KeyRaised(command.owner, command.generation)]

    # Bookkeeping

    def _open_order(self, oid: int) -> Order | None:
        return self.book.orders.get(oid) or self._stops.orders.get(oid)

    def _close(self, order: Order) -> None:
        """The order has ended: it is not among its owner's open ones any more."""
        del self._open_of[order.owner][order.oid]
        if order.command.client_id:
            self._ids.ended(order)

    # Rejects that name the product's state

    def _closed_or_halted(self) -> Rejected:
        if self.phase is Phase.HALTED:
            return Rejected("market_halted", f"trading in {self.ticker} is halted", "R11")
        return Rejected("market_closed", f"the market in {self.ticker} is closed", "R11")

    def _off_grid(self, price: int) -> Rejected:
        message = f"{format_price(price)} is not a multiple of {format_price(self.tick)}"
        return Rejected("bad_tick", message)

    def _stop_would_trigger(self, command: NewOrder) -> Rejected:
        assert self.last is not None
        message = (
            f"last, {format_price(self.last)}, has reached the stop {format_price(command.stop)}"
            f" of this {command.side} order already"
        )
        return Rejected("stop_would_trigger", message, "R7")

    def check(self) -> None:
        """Assert the invariants; the AssertionError carries the state that breaks one."""
        self.book.check()
        self._stops.check(self.last if self.phase is Phase.CONTINUOUS else None)
        bid, ask = self.book.best_bid, self.book.best_ask
        if self.phase is Phase.CONTINUOUS and bid is not None and ask is not None:
            assert bid < ask, f"the book is crossed: {self.book}"
        for order in self.book.orders.values():
            assert order.price > 0 == order.stop, f"{order!r} rests"
            assert order.tif in (TimeInForce.GTC, TimeInForce.DAY), f"{order!r} rests"
        for order in self._stops.orders.values():
            assert order.open_quantity == order.quantity, f"{order!r} waits"
        self._check_owners()
        self._ids.check()

    def _check_owners(self) -> None:
        everything = self.open_orders()
        for order in everything:
            assert 0 < order.oid < self.next_oid, f"{order!r}, next {self.next_oid}"
            assert 0 < order.remaining <= order.quantity, f"{order!r}"
            assert order is self._open_of[order.owner].get(order.oid), f"{order!r} has no owner"
            if order.client_id:
                assert self.find(order.owner, order.client_id) is order, f"{order!r} has no id"
        owned = sum(len(orders) for orders in self._open_of.values())
        assert owned == len(everything), f"{owned} orders of owners, {len(everything)} open"
        for owner, orders in self._open_of.items():
            assert list(orders) == sorted(orders), f"owner {owner}: out of oid order {list(orders)}"
        assert sum(self._positions.values()) == 0, f"shares are not conserved: {self._positions}"


class _ClientIds:
    """R14's memory: the ids of open orders, and the latest ones whatever became of their orders."""

    __slots__ = ("_latest", "_remembered", "by_oid")

    def __init__(self) -> None:
        self.by_oid: dict[int, Order] = {}
        self._remembered: dict[tuple[int, str], Order] = {}
        self._latest: deque[Order] = deque()

    def find(self, owner: int, client_id: str) -> Order | None:
        return self._remembered.get((owner, client_id))

    def remember(self, order: Order) -> None:
        self._remembered[order.owner, order.client_id] = order
        self.by_oid[order.oid] = order
        self._latest.append(order)
        if len(self._latest) > REMEMBERED_IDS:
            oldest = self._latest.popleft()
            if not oldest.remaining:
                self._drop(oldest)

    def ended(self, order: Order) -> None:
        """The order is open no more: only being among the latest keeps its id from now on."""
        if order.oid < self._latest[0].oid:
            self._drop(order)

    def _drop(self, order: Order) -> None:
        del self._remembered[order.owner, order.client_id]
        del self.by_oid[order.oid]

    def check(self) -> None:
        """Assert that both indexes agree, and that nothing is kept without a reason."""
        assert len(self._latest) <= REMEMBERED_IDS, len(self._latest)
        assert len(self.by_oid) == len(self._remembered), self.by_oid
        for (owner, client_id), order in self._remembered.items():
            assert (order.owner, order.client_id) == (owner, client_id), f"{order!r}"
            assert self.by_oid.get(order.oid) is order, f"{order!r} is not found by its oid"
            assert order.remaining or order.oid >= self._latest[0].oid, f"{order!r} is too old"


def _answer_again(order: Order, command: NewOrder) -> Duplicate | Rejected:
    """R14: the same command is answered with the order's present state; another is refused.

    `ts` and the session's cancel-on-disconnect mark are not what the trader ordered.
    """
    if replace(command, ts=None, cod=False) == replace(order.command, ts=None, cod=False):
        return Duplicate(order.oid, order.status, order.filled, order.remaining)
    message = f"id {command.client_id} is the id of order #{order.oid}, which is another one"
    return Rejected("duplicate_id", message, "R14")


def _post_misfit(command: NewOrder) -> str:
    """How the other options keep a post-only order from resting (R8); empty: they do not."""
    if command.price == 0:
        return "needs a price"
    if command.stop:
        return "cannot have a stop"
    if command.tif in (TimeInForce.IOC, TimeInForce.FOK):
        return f"cannot be {command.tif}"
    return ""


def _not_offered(code: str, what: str, rule: str = "") -> Rejected:
    return Rejected(code, f"{what} is not offered by this engine yet", rule)


def _too_valuable(command: NewOrder) -> Rejected:
    price = max(command.price, command.stop)
    message = (
        f"{command.quantity} at {format_price(price)} is worth"
        f" {format_price(command.quantity * price)}, more than {format_price(MAX_ORDER_VALUE)}"
    )
    return Rejected("invalid_order", message)


def _too_large(command: NewOrder) -> Rejected:
    message = f"{command.quantity} is more than the {MAX_QUANTITY} that one order may have"
    return Rejected("max_quantity", message, "R16")


def _would_take(command: NewOrder, opposite: BookSide) -> Rejected:
    assert opposite.best is not None
    message = (
        f"a post-only {command.side} at {format_price(command.price)} would take"
        f" the {command.side.opposite} at {format_price(opposite.best.price)}"
    )
    return Rejected("would_take", message, "R8")


def _order_not_found(command: Cancel) -> Rejected:
    name = f"id={command.client_id}" if command.client_id else f"#{command.oid}"
    return Rejected("order_not_found", f"owner {command.owner} has no open order {name}", "R13")
