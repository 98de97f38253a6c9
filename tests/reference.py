"""The rules once more, slowly and plainly: an engine to hold the real one against.

One list of all orders there ever were, searched from end to end each time; nothing is indexed,
nothing kept up to date beside it. Whether a fill-or-kill order fills is found out by trying it on a
copy. It shares commands and events with the engine, and no logic.
"""

import copy
from dataclasses import dataclass

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
    Status,
    TimeInForce,
)


@dataclass
class ReferenceOrder:
    """An order as the reference sees it: what was asked for, and what became of it."""

    oid: int
    asked: NewOrder
    total: int
    filled: int = 0
    place: str = "nowhere"  # or "book", "waiting", "ended"
    entered_book: int = 0
    was_canceled: bool = False
    triggered: bool = False

    @property
    def open(self) -> int:
        return self.total - self.filled

    @property
    def stop(self) -> int:
        return 0 if self.triggered else self.asked.stop

    @property
    def remaining(self) -> int:
        return 0 if self.was_canceled else self.open

    @property
    def status(self) -> Status:
        if self.was_canceled:
            return Status.CANCELED
        if self.filled == self.total:
            return Status.FILLED
        if self.place == "waiting":
            return Status.PENDING_STOP
        return Status.PARTIALLY_FILLED if self.filled else Status.OPEN


class ReferenceEngine:
    """One product by the rules, as slowly as they are written."""

    def __init__(self, *, tick: int, lot: int, remembered_ids: int) -> None:
        self.tick = tick
        self.lot = lot
        self.remembered_ids = remembered_ids
        self.phase = Phase.CONTINUOUS
        self.orders: list[ReferenceOrder] = []
        self.trades: list[Trade] = []
        self.generations: dict[int, int] = {}
        self.book_entries = 0
        self.events: list[Event] = []

    def apply(self, command: Command) -> list[Event]:
        self.events = []
        match command:
            case NewOrder():
                self.enter(command)
            case Cancel():
                self.cancel(command)
            case CancelAll():
                for order in self.open_orders():
                    if order.asked.owner == command.owner:
                        self.end(order, command.reason)
            case SetPhase():
                self.change_phase(command.phase)
            case RaiseKey():
                self.raise_key(command)
            case ChangeSettings():
                self.reject("invalid_setting")
            case ChangeLimits():
                self.reject("invalid_setting", "R16")
            case _:
                self.reject("invalid_order", "R6")
        return self.events

    def reject(self, code: str, rule: str = "") -> None:
        self.events = [Rejected(code, "", rule)]

    @property
    def last(self) -> int | None:
        return self.trades[-1].price if self.trades else None

    def open_orders(self) -> list[ReferenceOrder]:
        return [order for order in self.orders if order.place in ("book", "waiting")]

    def resting(self, side: Side) -> list[ReferenceOrder]:
        """The book's orders of a side by R1: the best price first, then who came first."""
        found = [o for o in self.orders if o.place == "book" and o.asked.side is side]
        if side is Side.BUY:
            return sorted(found, key=lambda o: (-o.asked.price, o.entered_book))
        return sorted(found, key=lambda o: (o.asked.price, o.entered_book))

    def position(self, owner: int) -> int:
        bought = sum(trade.quantity for trade in self.trades if trade.buyer == owner)
        sold = sum(trade.quantity for trade in self.trades if trade.seller == owner)
        return bought - sold

    # R14

    def known_by_id(self, owner: int, client_id: str) -> ReferenceOrder | None:
        with_id = [order for order in self.orders if order.asked.client_id]
        latest = with_id[-self.remembered_ids :]
        for order in reversed(with_id):
            if order.asked.owner == owner and order.asked.client_id == client_id:
                remembered = order in latest or order.place != "ended"
                return order if remembered else None
        return None

    @staticmethod
    def is_the_same(one: NewOrder, other: NewOrder) -> bool:
        names = ("ticker", "owner", "side", "quantity", "price", "stop")
        options = ("client_id", "tif", "stp", "post", "peak")
        return all(getattr(one, name) == getattr(other, name) for name in names + options)

    # Order of checks

    def enter(self, asked: NewOrder) -> None:
        if asked.client_id:
            known = self.known_by_id(asked.owner, asked.client_id)
            if known is not None:
                if self.is_the_same(known.asked, asked):
                    state = (known.status, known.filled, known.remaining)
                    self.events = [Duplicate(known.oid, *state)]
                else:
                    self.reject("duplicate_id", "R14")
                return
        is_market = asked.price == 0
        is_immediate = asked.tif is TimeInForce.IOC or asked.tif is TimeInForce.FOK
        if self.phase is Phase.HALTED:
            self.reject("market_halted", "R11")
        elif self.phase is Phase.CLOSED:
            self.reject("market_closed", "R11")
        elif asked.quantity == 0:
            self.reject("invalid_order")
        elif asked.quantity % self.lot != 0:
            self.reject("bad_lot")
        elif asked.price % self.tick != 0 or asked.stop % self.tick != 0:
            self.reject("bad_tick")
        elif asked.quantity * asked.price > 10**15 or asked.quantity * asked.stop > 10**15:
            self.reject("invalid_order")
        elif asked.post and (is_market or is_immediate or asked.stop != 0):
            self.reject("invalid_order", "R8")
        elif asked.peak:
            self.reject("invalid_order", "R9")
        elif asked.stop and self.last is not None and elects(asked, self.last):
            self.reject("stop_would_trigger", "R7")
        elif asked.owner != 0 and asked.quantity > 1_000_000:
            self.reject("max_quantity", "R16")
        elif asked.post and self.partners(asked):
            self.reject("would_take", "R8")
        else:
            self.accept(asked)

    def accept(self, asked: NewOrder) -> None:
        order = ReferenceOrder(len(self.orders) + 1, asked, asked.quantity)
        self.orders.append(order)
        self.events.append(Accepted(order.oid))
        if asked.stop:
            order.place = "waiting"
            return
        before = len(self.trades)
        self.run(order)
        self.run_stops([trade.price for trade in self.trades[before:]])

    # R1 to R5

    def partners(self, asked: NewOrder) -> list[ReferenceOrder]:
        """Those that the order may trade with, in the order in which it must."""
        if asked.side is Side.BUY:
            sellers = self.resting(Side.SELL)
            return [o for o in sellers if asked.price == 0 or o.asked.price <= asked.price]
        buyers = self.resting(Side.BUY)
        return [o for o in buyers if o.asked.price >= asked.price]

    def run(self, order: ReferenceOrder) -> None:
        asked = order.asked
        if asked.tif is TimeInForce.FOK and not self.would_fill(order):
            self.end(order, CancelReason.FOK)
            return
        self.trade_on(order)
        if order.place == "ended":
            return
        if asked.price == 0:
            self.end(order, CancelReason.NO_LIQUIDITY)
        elif asked.tif is TimeInForce.IOC:
            self.end(order, CancelReason.IOC)
        else:
            self.book_entries += 1
            order.entered_book = self.book_entries
            order.place = "book"

    def would_fill(self, order: ReferenceOrder) -> bool:
        world = copy.deepcopy(self)
        world.events = []
        twin = world.orders[order.oid - 1]
        world.trade_on(twin)
        decremented = any(isinstance(event, Decremented) for event in world.events)
        return twin.filled == order.total and not decremented

    def trade_on(self, order: ReferenceOrder) -> None:
        """Trade until the order has ended or nobody is left to trade with."""
        asked = order.asked
        while order.place != "ended" and self.partners(asked):
            maker = self.partners(asked)[0]
            is_own = maker.asked.owner == asked.owner and asked.owner != 0
            if not is_own or asked.stp is SelfTrade.NONE:
                self.trade(order, maker)
            elif asked.stp is SelfTrade.TAKER:
                self.end(order, CancelReason.SELF_TRADE)
            elif asked.stp is SelfTrade.MAKER:
                self.end(maker, CancelReason.SELF_TRADE)
            elif asked.stp is SelfTrade.BOTH:
                self.end(maker, CancelReason.SELF_TRADE)
                self.end(order, CancelReason.SELF_TRADE)
            else:
                self.decrement(order, maker)

    def trade(self, taker: ReferenceOrder, maker: ReferenceOrder) -> None:
        quantity = min(taker.open, maker.open)
        buy, sell = (taker, maker) if taker.asked.side is Side.BUY else (maker, taker)
        trade = Trade(
            tid=len(self.trades) + 1,
            price=maker.asked.price,
            quantity=quantity,
            buyer=buy.asked.owner,
            seller=sell.asked.owner,
            buy_oid=buy.oid,
            sell_oid=sell.oid,
            taker=taker.asked.side,
        )
        self.trades.append(trade)
        self.events.append(trade)
        for order in (buy, sell):
            order.filled += quantity
            if order.open == 0:
                order.place = "ended"

    def decrement(self, order: ReferenceOrder, maker: ReferenceOrder) -> None:
        quantity = min(order.open, maker.open)
        for reduced in (maker, order):
            reduced.total -= quantity
            self.events.append(Decremented(reduced.oid, quantity))
        for reduced in (maker, order):
            if reduced.open == 0:
                self.end(reduced, CancelReason.SELF_TRADE)

    # R7

    def run_stops(self, prints: list[int]) -> None:
        queue = self.elect(prints)
        while queue:
            order = queue.pop(0)
            order.triggered = True
            self.events.append(Triggered(order.oid))
            before = len(self.trades)
            self.run(order)
            queue += self.elect([trade.price for trade in self.trades[before:]])

    def elect(self, prints: list[int]) -> list[ReferenceOrder]:
        """Take out of waiting what the prints elect, in the order in which it will run."""
        waiting = [order for order in self.orders if order.place == "waiting"]
        elected = [o for o in waiting if any(elects(o.asked, price) for price in prints)]
        buys = [order for order in elected if order.asked.side is Side.BUY]
        sells = [order for order in elected if order.asked.side is Side.SELL]
        buys.sort(key=lambda order: (order.asked.stop, order.oid))
        sells.sort(key=lambda order: (-order.asked.stop, order.oid))
        queue: list[ReferenceOrder] = []
        while buys or sells:
            if not sells or (buys and buys[0].oid < sells[0].oid):
                queue.append(buys.pop(0))
            else:
                queue.append(sells.pop(0))
        for order in queue:
            order.place = "nowhere"
        return queue

    # R11, R13, keys

    def cancel(self, command: Cancel) -> None:
        for order in self.open_orders():
            if command.client_id:
                is_named = order.asked.client_id == command.client_id
            else:
                is_named = order.oid == command.oid
            if is_named and order.asked.owner == command.owner:
                self.end(order, command.reason)
                return
        self.reject("order_not_found", "R13")

    def end(self, order: ReferenceOrder, reason: CancelReason) -> None:
        self.events.append(Canceled(order.oid, order.open, reason))
        order.place = "ended"
        order.was_canceled = True

    def change_phase(self, phase: Phase) -> None:
        if phase is self.phase:
            self.reject("invalid_phase", "R11")
            return
        if phase is Phase.AUCTION:
            self.reject("invalid_phase", "R10")
            return
        self.phase = phase
        self.events.append(PhaseChanged(phase))
        if phase is Phase.CLOSED:
            for order in self.open_orders():
                if order.asked.tif is TimeInForce.DAY:
                    self.end(order, CancelReason.END_OF_DAY)
        if phase is Phase.CONTINUOUS and self.last is not None:
            self.run_stops([self.last])

    def raise_key(self, command: RaiseKey) -> None:
        if command.owner == 0 or command.generation <= self.generations.get(command.owner, 1):
            self.reject("invalid_setting")
        else:
            self.generations[command.owner] = command.generation
            self.events.append(KeyRaised(command.owner, command.generation))


def elects(asked: NewOrder, price: int) -> bool:
    """Whether a print at the price elects the stop."""
    return price >= asked.stop if asked.side is Side.BUY else price <= asked.stop
