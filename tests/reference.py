"""The rules once more, slowly and plainly: an engine to hold the real one against.

One list of all orders there ever were, searched from end to end each time; nothing is indexed,
nothing kept up to date beside it. Whether a fill-or-kill order fills is found out by trying it on a
copy, the price of an uncross by trying every price, a rate by looking through all times there ever
were. It shares commands and events with the engine, and no logic.
"""

import copy
from dataclasses import dataclass, field

from matching.events import (
    Accepted,
    Amended,
    Canceled,
    Decremented,
    Duplicate,
    Event,
    KeyRaised,
    LimitChanged,
    PhaseChanged,
    Rejected,
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
    Status,
    TimeInForce,
)

PERCENTS = ("collar", "band", "breaker")
FEES = ("maker_fee", "taker_fee")
LIMITS = ("max_quantity", "max_open_orders", "max_position", "max_notional", "max_rate")
CODES = {"max_position": "position_limit", "max_rate": "rate_limited"}


@dataclass
class ReferenceOrder:
    """An order as the reference sees it: what was asked for, and what became of it."""

    oid: int
    asked: NewOrder
    total: int
    price: int
    stop: int
    filled: int = 0
    shown: int = 0
    place: str = "nowhere"  # or "book", "waiting", "elected", "ended"
    entered: int = 0
    was_canceled: bool = False

    @property
    def owner(self) -> int:
        return self.asked.owner

    @property
    def side(self) -> Side:
        return self.asked.side

    @property
    def open(self) -> int:
        return self.total - self.filled

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

    def show(self) -> None:
        """R9: of an iceberg its peak is shown, of any other order all."""
        self.shown = min(self.asked.peak, self.open) if self.asked.peak else self.open

    def hide_first(self) -> None:
        """What went off the total went off the hidden part first (R5, R6)."""
        self.shown = min(self.shown, self.open)


@dataclass
class ReferenceEngine:
    """One product by the rules, as slowly as they are written."""

    tick: int
    lot: int
    reference: int
    remembered_ids: int
    phase: Phase = Phase.CONTINUOUS
    orders: list[ReferenceOrder] = field(default_factory=list)
    trades: list[Trade] = field(default_factory=list)
    entries: int = 0
    breaker_reference: int | None = None
    settings: dict[str, int] = field(default_factory=dict)
    limits: dict[tuple[int | None, str], int] = field(default_factory=dict)
    generations: dict[int, int] = field(default_factory=dict)
    times: list[tuple[int, int]] = field(default_factory=list)  # (owner, when)
    events: list[Event] = field(default_factory=list)

    def apply(self, command: Command, at: int) -> list[Event]:
        self.events = []
        match command:
            case NewOrder():
                self.enter(command, at)
            case Amend():
                self.amend(command, at)
            case Cancel():
                self.cancel(command)
            case CancelAll():
                for order in self.open_orders():
                    if order.owner == command.owner:
                        self.end(order, command.reason)
            case SetPhase():
                self.change_phase(command.phase)
            case ChangeSettings():
                self.change_settings(command)
            case ChangeLimits():
                self.change_limits(command)
            case RaiseKey():
                self.raise_key(command)
        return self.events

    def reject(self, code: str, rule: str = "") -> None:
        self.events = [Rejected(code, "", rule)]

    @property
    def last(self) -> int | None:
        return self.trades[-1].price if self.trades else None

    @property
    def last_or_reference(self) -> int:
        return self.reference if self.last is None else self.last

    def open_orders(self) -> list[ReferenceOrder]:
        return [order for order in self.orders if order.place in ("book", "waiting")]

    def resting(self, side: Side) -> list[ReferenceOrder]:
        """The book's orders of a side by R1: the best price first, then who came first."""
        found = [order for order in self.orders if order.place == "book" and order.side is side]
        if side is Side.BUY:
            return sorted(found, key=lambda order: (-order.price, order.entered))
        return sorted(found, key=lambda order: (order.price, order.entered))

    def position(self, owner: int) -> int:
        bought = sum(trade.quantity for trade in self.trades if trade.buyer == owner)
        sold = sum(trade.quantity for trade in self.trades if trade.seller == owner)
        return bought - sold

    # R14

    def known_by_id(self, owner: int, client_id: str) -> ReferenceOrder | None:
        with_id = [order for order in self.orders if order.asked.client_id]
        latest = with_id[-self.remembered_ids :]
        for order in reversed(with_id):
            if order.owner == owner and order.asked.client_id == client_id:
                remembered = order in latest or order.place != "ended"
                return order if remembered else None
        return None

    @staticmethod
    def is_the_same(one: NewOrder, other: NewOrder) -> bool:
        names = ("ticker", "owner", "side", "quantity", "price", "stop")
        options = ("client_id", "tif", "stp", "post", "peak")
        return all(getattr(one, name) == getattr(other, name) for name in names + options)

    # Order of checks

    def enter(self, asked: NewOrder, at: int) -> None:
        if asked.client_id:
            known = self.known_by_id(asked.owner, asked.client_id)
            if known is not None:
                if self.is_the_same(known.asked, asked):
                    state = (known.status, known.filled, known.remaining)
                    self.events = [Duplicate(known.oid, *state)]
                else:
                    self.reject("duplicate_id", "R14")
                return
        order = ReferenceOrder(len(self.orders) + 1, asked, asked.quantity, asked.price, asked.stop)
        is_market = asked.price == 0
        is_immediate = asked.tif is TimeInForce.IOC or asked.tif is TimeInForce.FOK
        waits = asked.stop != 0
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
        elif is_worth_too_much(asked.quantity, asked.price, asked.stop):
            self.reject("invalid_order")
        elif asked.post and (is_market or is_immediate or waits):
            self.reject("invalid_order", "R8")
        elif asked.peak and (is_market or is_immediate or self.is_no_peak(order)):
            self.reject("invalid_order", "R9")
        elif (
            self.phase is Phase.AUCTION and not waits and (is_market or is_immediate or asked.post)
        ):
            self.reject("not_in_auction", "R10")
        elif self.is_out_of_band(order):
            self.reject("price_band", "R12")
        elif waits and self.has_reached(order):
            self.reject("stop_would_trigger", "R7")
        elif limit := self.exceeded_limit(order, at):
            self.reject(limit, "R16")
        elif asked.post and self.partners(order):
            self.reject("would_take", "R8")
        else:
            self.orders.append(order)
            self.times.append((asked.owner, at))
            self.events.append(Accepted(order.oid))
            self.work(order)

    def amend(self, command: Amend, at: int) -> None:
        order = self.named(command)
        if self.phase is Phase.HALTED:
            self.reject("market_halted", "R11")
            return
        if self.phase is Phase.CLOSED:
            self.reject("market_closed", "R11")
            return
        if order is None:
            self.reject("order_not_found", "R13")
            return
        wanted = copy.copy(order)
        wanted.total = command.quantity
        wanted.price = order.price if command.price is None else command.price
        wanted.stop = order.stop if command.stop is None else command.stop
        price_changed = wanted.price != order.price
        stop_changed = wanted.stop != order.stop
        loses_priority = wanted.total > order.total or price_changed or stop_changed
        if wanted.total == 0:
            self.reject("invalid_order")
        elif wanted.total % self.lot != 0:
            self.reject("bad_lot")
        elif wanted.price % self.tick != 0 or wanted.stop % self.tick != 0:
            self.reject("bad_tick")
        elif (wanted.price == 0) != (order.price == 0) or (wanted.stop == 0) != (order.stop == 0):
            self.reject("invalid_order", "R6")
        elif is_worth_too_much(wanted.total, wanted.price, wanted.stop):
            self.reject("invalid_order")
        elif wanted.total <= order.filled:
            open_until_now = order.open
            self.take_over(order, wanted, at)
            self.events.append(Canceled(order.oid, open_until_now, CancelReason.AMENDED))
            order.place = "ended"
            order.was_canceled = True
        elif order.asked.peak and self.is_no_peak(wanted):
            self.reject("invalid_order", "R9")
        elif (price_changed or stop_changed) and self.is_out_of_band(wanted):
            self.reject("price_band", "R12")
        elif stop_changed and self.has_reached(wanted):
            self.reject("stop_would_trigger", "R7")
        elif loses_priority and (limit := self.exceeded_limit(wanted, at)):
            self.reject(limit, "R16")
        elif (
            loses_priority
            and order.asked.post
            and self.phase is Phase.CONTINUOUS
            and self.partners(wanted)
        ):
            self.reject("would_take", "R8")
        else:
            self.take_over(order, wanted, at)
            if loses_priority:
                order.place = "nowhere"
                self.work(order)
            else:
                order.hide_first()

    def take_over(self, order: ReferenceOrder, wanted: ReferenceOrder, at: int) -> None:
        order.total, order.price, order.stop = wanted.total, wanted.price, wanted.stop
        self.times.append((order.owner, at))
        self.events.append(Amended(order.oid, order.total, order.price, order.stop))

    def is_no_peak(self, order: ReferenceOrder) -> bool:
        """R9: a multiple of the lot, at least 1 % of the quantity, and below it."""
        peak = order.asked.peak
        return peak % self.lot != 0 or peak * 100 < order.total or peak >= order.total

    def is_out_of_band(self, order: ReferenceOrder) -> bool:
        """R12: a limit price too far from its own stop, else from last, else the reference."""
        middle = order.stop or self.last_or_reference
        return order.price != 0 and self.is_beyond("band", order.price, middle)

    def is_beyond(self, setting: str, price: int, middle: int) -> bool:
        """Whether the price is further from the middle than the setting's percentage of it."""
        hundredths = self.settings.get(setting, 0) // 100
        return hundredths != 0 and abs(price - middle) * 10_000 > hundredths * middle

    def has_reached(self, order: ReferenceOrder) -> bool:
        return self.last is not None and elects(order, self.last)

    # R16

    def exceeded_limit(self, order: ReferenceOrder, at: int) -> str:
        """The code of the first limit that the order, new or amended, is over; or nothing."""
        if order.owner == 0:
            return ""
        for name in LIMITS:
            limit = self.limit(order.owner, name)
            if limit != 0 and self.is_over(name, limit, order, at):
                return CODES.get(name, name)
        return ""

    def limit(self, owner: int | None, name: str) -> int:
        """In ten-thousandths, as the venue wrote it."""
        default = 1_000_000 * 10_000 if name == "max_quantity" else 0
        for_all = self.limits.get((None, name), default)
        return self.limits.get((owner, name), for_all)

    def is_over(self, name: str, limit: int, order: ReferenceOrder, at: int) -> bool:
        mine = [o for o in self.open_orders() if o.owner == order.owner and o.oid != order.oid]
        if name == "max_quantity":
            return order.total > limit // 10_000
        if name == "max_open_orders":
            rests = order.price != 0 and order.asked.tif in (TimeInForce.GTC, TimeInForce.DAY)
            return (order.stop != 0 or rests) and len(mine) + 1 > limit // 10_000
        if name == "max_position":
            net = self.position(order.owner)
            towards = net if order.side is Side.BUY else -net
            others = sum(other.open for other in mine if other.side is order.side)
            return towards + others + order.open > limit // 10_000
        if name == "max_notional":
            return order.total * (order.price or order.stop or self.last_or_reference) > limit
        lately = [
            when
            for owner, when in self.times
            if owner == order.owner and at - 1_000_000 < when <= at
        ]
        return len(lately) >= limit // 10_000

    # R1 to R5, R9, R12

    def work(self, order: ReferenceOrder) -> None:
        """What an order does that was just accepted, or amended and lost its priority."""
        if order.stop:
            self.place(order, "waiting")
        elif self.phase is Phase.AUCTION:
            self.place(order, "book")
        else:
            before = len(self.trades)
            self.run(order)
            self.run_stops([trade.price for trade in self.trades[before:]])

    def place(self, order: ReferenceOrder, place: str) -> None:
        self.entries += 1
        order.entered = self.entries
        order.place = place
        order.show()

    def partners(self, order: ReferenceOrder) -> list[ReferenceOrder]:
        """Those that the order may trade with, in the order in which it must."""
        others = [other for other in self.resting(order.side.opposite) if other.oid != order.oid]
        if order.side is Side.BUY:
            return [o for o in others if order.price == 0 or o.price <= order.price]
        return [o for o in others if o.price >= order.price]

    def run(self, order: ReferenceOrder) -> None:
        tif = order.asked.tif
        if tif is TimeInForce.FOK and not self.would_fill(order):
            self.end(order, CancelReason.FOK)
            return
        self.trade_on(order)
        if order.place == "ended":
            return
        if order.price == 0:
            self.end(order, CancelReason.NO_LIQUIDITY)
        elif tif is TimeInForce.IOC:
            self.end(order, CancelReason.IOC)
        else:
            self.place(order, "book")

    def would_fill(self, order: ReferenceOrder) -> bool:
        world = copy.deepcopy(self)
        world.events = []
        twin = world.orders[order.oid - 1]
        world.trade_on(twin)
        decremented = any(isinstance(event, Decremented) for event in world.events)
        return twin.filled == twin.total and not decremented

    def trade_on(self, order: ReferenceOrder) -> None:
        """Trade until the order has ended or nobody is left to trade with."""
        started_at = [other.price for other in self.partners(order)][:1]
        while order.place != "ended" and self.partners(order):
            maker = self.partners(order)[0]
            is_own = maker.owner == order.owner and order.owner != 0
            stp = order.asked.stp
            if order.price == 0 and self.is_beyond("collar", maker.price, started_at[0]):
                self.end(order, CancelReason.COLLAR)
            elif is_own and stp is SelfTrade.TAKER:
                self.end(order, CancelReason.SELF_TRADE)
            elif is_own and stp is SelfTrade.MAKER:
                self.end(maker, CancelReason.SELF_TRADE)
            elif is_own and stp is SelfTrade.BOTH:
                self.end(maker, CancelReason.SELF_TRADE)
                self.end(order, CancelReason.SELF_TRADE)
            elif is_own and stp is SelfTrade.DECREMENT:
                self.decrement(order, maker)
            elif self.breaks(maker.price):
                self.end(order, CancelReason.BREAKER)
                self.phase = Phase.HALTED
                self.events.append(PhaseChanged(Phase.HALTED))
            else:
                self.take(order, maker)

    def breaks(self, price: int) -> bool:
        reference = self.breaker_reference
        return reference is not None and self.is_beyond("breaker", price, reference)

    def take(self, order: ReferenceOrder, maker: ReferenceOrder) -> None:
        """The order trades with what the maker shows."""
        buy, sell = (order, maker) if order.side is Side.BUY else (maker, order)
        quantity = min(order.open, maker.shown)
        self.trade(buy, sell, quantity, maker.price, order.side)
        maker.shown -= quantity
        if maker.shown == 0 and maker.open > 0:
            self.place(maker, "book")
        if self.breaker_reference is None:
            self.breaker_reference = maker.price

    def trade(
        self,
        buy: ReferenceOrder,
        sell: ReferenceOrder,
        quantity: int,
        price: int,
        taker: Side | None,
    ) -> None:
        tid = len(self.trades) + 1
        trade = Trade(tid, price, quantity, buy.owner, sell.owner, buy.oid, sell.oid, taker)
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
            reduced.hide_first()
            self.events.append(Decremented(reduced.oid, quantity))
        for reduced in (maker, order):
            if reduced.open == 0:
                self.end(reduced, CancelReason.SELF_TRADE)

    # R7

    def run_stops(self, prints: list[int]) -> None:
        queue = self.elect(prints)
        while queue and self.phase is Phase.CONTINUOUS:
            order = queue.pop(0)
            order.stop = 0
            self.events.append(Triggered(order.oid))
            before = len(self.trades)
            self.run(order)
            queue += self.elect([trade.price for trade in self.trades[before:]])
        for order in queue:
            order.place = "waiting"

    def elect(self, prints: list[int]) -> list[ReferenceOrder]:
        """Take out of waiting what the prints elect, in the order in which it will run."""
        waiting = [order for order in self.orders if order.place == "waiting"]
        elected = [o for o in waiting if any(elects(o, price) for price in prints)]
        buys = [order for order in elected if order.side is Side.BUY]
        sells = [order for order in elected if order.side is Side.SELL]
        buys.sort(key=lambda order: (order.stop, order.entered))
        sells.sort(key=lambda order: (-order.stop, order.entered))
        queue: list[ReferenceOrder] = []
        while buys or sells:
            if not sells or (buys and buys[0].oid < sells[0].oid):
                queue.append(buys.pop(0))
            else:
                queue.append(sells.pop(0))
        for order in queue:
            order.place = "elected"
        return queue

    # R10

    def uncross_price(self) -> int | None:
        """By trying every limit price in the book; None if nothing is crossed."""
        candidates = sorted({o.price for o in self.orders if o.place == "book"})
        most = max((self.volume_at(price) for price in candidates), default=0)
        if most == 0:
            return None
        candidates = [price for price in candidates if self.volume_at(price) == most]
        least = min(abs(self.surplus_at(price)) for price in candidates)
        candidates = [price for price in candidates if abs(self.surplus_at(price)) == least]
        if all(self.surplus_at(price) > 0 for price in candidates):
            return candidates[-1]
        if all(self.surplus_at(price) < 0 for price in candidates):
            return candidates[0]
        middle = self.last_or_reference
        nearest = min(abs(price - middle) for price in candidates)
        return next(price for price in candidates if abs(price - middle) == nearest)

    def bought_at(self, price: int) -> int:
        return sum(order.open for order in self.resting(Side.BUY) if order.price >= price)

    def sold_at(self, price: int) -> int:
        return sum(order.open for order in self.resting(Side.SELL) if order.price <= price)

    def volume_at(self, price: int) -> int:
        return min(self.bought_at(price), self.sold_at(price))

    def surplus_at(self, price: int) -> int:
        """Positive where more would be bought than sold."""
        return self.bought_at(price) - self.sold_at(price)

    def indicative(self) -> tuple[int, int, int] | None:
        """Price, volume and surplus that an uncross would have now."""
        price = self.uncross_price()
        return None if price is None else (price, self.volume_at(price), self.surplus_at(price))

    def uncross(self) -> None:
        price = self.uncross_price()
        self.breaker_reference = price
        if price is None:
            return
        volume = self.volume_at(price)
        traded: list[ReferenceOrder] = []
        while volume:
            buy, sell = self.resting(Side.BUY)[0], self.resting(Side.SELL)[0]
            assert buy.price >= price >= sell.price
            quantity = min(buy.open, sell.open)
            self.trade(buy, sell, quantity, price, None)
            traded += [buy, sell]
            volume -= quantity
        for order in traded:
            order.show()
        assert self.uncross_price() is None

    # R11, R13, keys

    def named(self, command: Cancel | Amend) -> ReferenceOrder | None:
        for order in self.open_orders():
            if command.client_id:
                is_named = order.asked.client_id == command.client_id
            else:
                is_named = order.oid == command.oid
            if is_named and order.owner == command.owner:
                return order
        return None

    def cancel(self, command: Cancel) -> None:
        order = self.named(command)
        if order is None:
            self.reject("order_not_found", "R13")
        else:
            self.end(order, command.reason)

    def end(self, order: ReferenceOrder, reason: CancelReason) -> None:
        self.events.append(Canceled(order.oid, order.open, reason))
        order.place = "ended"
        order.was_canceled = True

    def change_phase(self, phase: Phase) -> None:
        if phase is self.phase:
            self.reject("invalid_phase", "R11")
            return
        self.phase = phase
        self.events.append(PhaseChanged(phase))
        if phase is Phase.CLOSED:
            for order in self.open_orders():
                if order.asked.tif is TimeInForce.DAY:
                    self.end(order, CancelReason.END_OF_DAY)
        if phase is Phase.CONTINUOUS:
            self.uncross()
            if self.last is not None:
                self.run_stops([self.last])

    def change_settings(self, command: ChangeSettings) -> None:
        for name, value in command.settings:
            is_percent = name in PERCENTS and 0 <= value <= 100 * 10_000
            is_fee = name in FEES and -100 * 10_000 <= value <= 100 * 10_000
            if value % 100 != 0 or not (is_percent or is_fee):
                self.reject("invalid_setting")
                return
        for name, value in command.settings:
            self.settings[name] = value
            self.events.append(SettingChanged(name, value))

    def change_limits(self, command: ChangeLimits) -> None:
        if command.owner == 0:
            self.reject("invalid_setting", "R16")  # R16 does not hold for the house
            return
        for name, value in command.limits:
            if value is None:
                is_valid = name in LIMITS and command.owner is not None
            elif name == "max_notional":
                is_valid = 0 <= value < 10**9 * 10_000
            else:
                is_valid = name in LIMITS and value >= 0 and value % 10_000 == 0
            if not is_valid:
                self.reject("invalid_setting", "R16")
                return
        for name, value in command.limits:
            if value is None:
                self.limits.pop((command.owner, name), None)
            else:
                self.limits[command.owner, name] = value
            self.events.append(LimitChanged(command.owner, name, value))

    def raise_key(self, command: RaiseKey) -> None:
        if command.owner == 0 or command.generation <= self.generations.get(command.owner, 1):
            self.reject("invalid_setting")
        else:
            self.generations[command.owner] = command.generation
            self.events.append(KeyRaised(command.owner, command.generation))


def elects(order: ReferenceOrder, price: int) -> bool:
    """Whether a print at the price elects the stop."""
    return price >= order.stop if order.side is Side.BUY else price <= order.stop


def is_worth_too_much(quantity: int, price: int, stop: int) -> bool:
    return quantity * price > 10**15 or quantity * stop > 10**15
