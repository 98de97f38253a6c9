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
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

from msgspec.structs import replace

from matching import refusals
from matching.account import CANCELED, USUAL_QUANTITY, Account, Order
from matching.admission import why_not_amend, why_not_enter, why_not_traded
from matching.auction import Uncross, uncross_price
from matching.book import BookSide, OrderBook
from matching.clientids import ClientIds
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
from matching.limits import BadLimit, LimitRules, read_limit
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
)
from matching.recent import RecentEntries
from matching.settings import NAMES, BadSetting, read_settings, span
from matching.stops import WaitingStops

# CPython 3.11 takes as long to look a member up in its Enum as to create an event.
_BUY = Side.BUY
_CONTINUOUS = Phase.CONTINUOUS
_AUCTION = Phase.AUCTION
_GTC = TimeInForce.GTC
_DAY = TimeInForce.DAY
_FOK = TimeInForce.FOK
_IOC = TimeInForce.IOC
_NONE = SelfTrade.NONE

_USUAL_PRICE = MAX_ORDER_VALUE // USUAL_QUANTITY
"""No order of at most this price and a usual quantity is worth more than an order may be."""

_ANY_PRICE = (0, 10**18)
"""A breaker that stops nothing: the lowest and the highest price that may print."""


class Broken(Exception):
    """Something that the rules rule out has happened: a bug of ours, never a trader's mistake."""


class Engine:
    """One product: its book, its waiting stops and what the rules need to remember.

    tick and reference are in ten-thousandths. `last` is the price of the last trade, None before
    the first (R15); `next_oid` and `next_tid` number the next order and the next trade; `settings`
    are those of `matching.settings`, in ten-thousandths.
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
        self.ticker = ticker
        self.tick = tick
        self.lot = lot
        self.reference = reference
        self.phase = phase
        self.last: int | None = None
        self.next_oid = 1
        self.next_tid = 1
        self.time = 0
        self.settings = dict.fromkeys(NAMES, 0)
        self.breaker_reference: int | None = None
        self.limits = LimitRules()
        self.book = OrderBook()
        self._stops = WaitingStops()
        self._accounts: dict[int, Account] = {}
        self._ids = ClientIds()
        self._generations: dict[int, int] = {}
        self._recent = RecentEntries()
        self._lowest, self._highest = _ANY_PRICE
        self._unasked_price = self._plain_up_to()

    def apply(self, command: Command, at: int) -> Sequence[Event]:
        """What the command causes, in order; one Rejected if the rules refuse it.

        `at` is the journal's time in microseconds; it never goes back (R18). Broken is a bug of
        ours: what was decided must not be written.
        """
        if at < self.time:
            raise Broken(f"time went back from {self.time} to {at}")
        self.time = at
        if type(command) is NewOrder:  # as most are
            return self._enter(command)
        if type(command) is Cancel:  # as most others are
            return self._cancel(command)
        return _CARRY_OUT[type(command)](self, command)

    # Reading

    def order(self, oid: int, *, owner: int | None = None) -> Order | None:
        """The order, while it is open or R14 remembers its client id.

        Whoever names its owner need not have all owners asked.
        """
        owners = self._accounts if owner is None else (owner,)
        for each in owners:
            account = self._accounts.get(each)
            order = account.orders.get(oid) if account is not None else None
            if order is not None:
                return order
        return self._ids.by_oid.get(oid)

    def find(self, owner: int, client_id: str) -> Order | None:
        """The owner's order with that client id, while R14 remembers it."""
        return self._ids.find(owner, client_id)

    def open_orders(self, owner: int | None = None) -> list[Order]:
        """Resting orders and waiting stops, of one owner or (None) of all, in oid order."""
        if owner is not None:
            account = self._accounts.get(owner)
            return list(account.orders.values()) if account is not None else []
        everything = [
            order for account in self._accounts.values() for order in account.orders.values()
        ]
        return sorted(everything, key=attrgetter("oid"))

    def position(self, owner: int) -> int:
        """The owner's net shares: bought less sold, by trades here."""
        account = self._accounts.get(owner)
        return account.position if account is not None else 0

    def generation(self, owner: int) -> int:
        """The generation of the owner's key that counts (PROTOCOL §2)."""
        return self._generations.get(owner, 1)

    def indicative(self) -> Uncross | None:
        """What the book would uncross at now (R10); None if nothing crosses."""
        return uncross_price(
            self.book.bids.quantities(), self.book.asks.quantities(), reference=self.mark
        )

    @property
    def mark(self) -> int:
        """What a share counts for: last, before the first trade the reference price."""
        return self.reference if self.last is None else self.last

    # Orders

    def _enter(self, command: NewOrder) -> Sequence[Event]:
        owner = command.owner
        try:
            account = self._accounts[owner]
        except KeyError:
            account = self._open_account(owner)
        client_id = command.client_id
        if client_id:
            known = self._ids.find(owner, client_id)
            if known is not None:
                return [_answer_again(known, self._ids.commands[known.oid], command)]
        quantity = command.quantity
        price = command.price
        # Most orders are fine at one look; admission says the same of them, at length.
        if (
            price > self._unasked_price
            or quantity > account.unasked
            or not quantity
            or (self.lot != 1 and quantity % self.lot)
            or price % self.tick
            or command.stop
            or command.post
            or command.peak
        ):
            rejected = why_not_enter(self, command, account)
            if rejected is not None:
                return [rejected]
            if account.exposure is not None:
                account.exposure.change(command.side, quantity)
                account.exposure.note_entry(self.time)
        oid = self.next_oid
        self.next_oid = oid + 1
        # `account.open` and `recent.note`, written out: the calls took a tenth of all instructions.
        # Its level is set by whoever places it.
        order = account.orders[oid] = Order()
        order.oid = oid
        order.account = account
        order.terms = command
        order.open_quantity = quantity
        order.hidden = 0
        recent = self._recent
        recent.page.append(owner)
        recent.page.append(self.time - recent.latest)
        recent.latest = self.time
        if oid >= recent.full_at:
            recent.turn(oid + 1)
        if client_id:
            self._ids.remember(order)
        if command.stop:
            order.level = None
            self._stops.add(order)
            return [Accepted(oid)]
        if command.side is _BUY:
            own = self.book.bids
            opposite = self.book.asks
        else:
            own = self.book.asks
            opposite = self.book.bids
        if price and (command.tif is _GTC or command.tif is _DAY):
            best = opposite.best
            if best is None or best.key < price * opposite.sign or self.phase is _AUCTION:
                own.add(order)
                return [Accepted(oid)]
        order.level = None
        events: list[Event] = [Accepted(oid)]
        self._run(order, events)
        if self._stops.keys and len(events) > 1:
            self._run_stops(_prints(events), events)
        return events

    def _open_account(self, owner: int) -> Account:
        account = self._accounts[owner] = Account(owner, self.limits.of(owner))
        return account

    def _run(self, order: Order, events: list[Event]) -> None:
        """Run an incoming or triggered order to its end: trade, then rest or be canceled (R4)."""
        book = self.book
        terms = order.terms
        if terms.side is _BUY:
            own, opposite = book.bids, book.asks
        else:
            own, opposite = book.asks, book.bids
        price, tif = terms.price, terms.tif
        limit = price * opposite.sign if price else self._collar_key(opposite)
        if tif is _FOK and not self._is_fillable(order, opposite, limit):
            events.append(self._end(order, CancelReason.FOK))
            return
        self._match(order, opposite, limit, events)
        if order.hidden == CANCELED:
            return
        if order.open_quantity == 0:
            self._close(order)
        elif not price:
            is_stopped = opposite.best is not None
            reason = CancelReason.COLLAR if is_stopped else CancelReason.NO_LIQUIDITY
            events.append(self._end(order, reason))
        elif tif is _IOC:
            events.append(self._end(order, CancelReason.IOC))
        else:
            own.add(order)

    def _collar_key(self, opposite: BookSide) -> int:
        """How far a market order may go that starts now (R3)."""
        collar = self.settings["collar"]
        if not collar or opposite.best is None:
            return opposite.limit_key(0)
        return opposite.best.key - span(collar, opposite.best.price)

    def _match(self, order: Order, opposite: BookSide, limit: int, events: list[Event]) -> None:
        """Trade with the best resting orders (R1) as far as the order's price and quantity go."""
        account, terms, oid = order.account, order.terms, order.oid
        owner, side = account.owner, terms.side
        prevents = owner != HOUSE and terms.stp is not _NONE
        missing, traded, printed = order.open_quantity, 0, 0
        tid = self.next_tid
        while missing:
            level = opposite.best
            if level is None or level.key < limit:
                break
            resting = level.first
            maker = resting.account
            if maker is account and prevents:
                order.open_quantity = missing
                self._prevent_self_trade(order, resting, events)
                missing = order.open_quantity
                if order.hidden == CANCELED:
                    break
                continue
            price = level.price
            if price != printed:
                if not self._lowest <= price <= self._highest:
                    order.open_quantity = missing
                    self._halt(order, events)
                    break
                if self.breaker_reference is None:
                    self._set_breaker_reference(price)
                self.last = printed = price
            quantity = resting.open_quantity - resting.hidden
            if quantity > missing:
                quantity = missing
            missing -= quantity
            traded += quantity
            if side is _BUY:
                maker.position -= quantity
                events.append(
                    Trade(tid, price, quantity, owner, maker.owner, oid, resting.oid, side)
                )
            else:
                maker.position += quantity
                events.append(
                    Trade(tid, price, quantity, maker.owner, owner, resting.oid, oid, side)
                )
            tid += 1
            opposite.fill(resting, level, quantity)
            if maker.exposure is not None:
                maker.exposure.change(side.opposite, -quantity)
            if not resting.open_quantity:
                self._close(resting)
        self.next_tid = tid
        order.open_quantity = missing
        account.position += traded if side is _BUY else -traded
        if account.exposure is not None:
            account.exposure.change(side, -traded)

    def _halt(self, order: Order, events: list[Event]) -> None:
        """R12's breaker: the trade that would come next does not happen, and trading halts."""
        events.append(self._end(order, CancelReason.BREAKER))
        self._change_phase(Phase.HALTED, events)

    def _set_breaker_reference(self, price: int | None) -> None:
        """What R12's breaker measures from; None: the next trade sets it, and is not checked."""
        self.breaker_reference = price
        self._lowest, self._highest = self._may_print(price)

    def _may_print(self, reference: int | None) -> tuple[int, int]:
        """The lowest and the highest price that may print (R12)."""
        breaker = self.settings["breaker"]
        if not breaker or reference is None:
            return _ANY_PRICE
        reach = span(breaker, reference)
        return reference - reach, reference + reach

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
        order.open_quantity -= quantity
        events.append(Decremented(resting.oid, quantity))
        events.append(Decremented(order.oid, quantity))
        for reduced in (resting, order):
            reduced.terms = replace(reduced.terms, quantity=reduced.quantity - quantity)
            reduced.account.change_open(reduced.side, -quantity)
            if reduced.open_quantity == 0:
                events.append(self._end(reduced, CancelReason.SELF_TRADE))

    def _is_fillable(self, order: Order, opposite: BookSide, limit: int) -> bool:
        """Whether a fok order would trade whole, under its own self-trade mode (R4)."""
        stp = order.stp
        prevents = stp is not _NONE and order.owner != HOUSE
        missing = order.open_quantity
        lowest, highest = self._lowest, self._highest
        is_unprinted = self.breaker_reference is None
        for level in opposite:
            if level.key < limit:
                return False
            refreshed = 0  # an iceberg's hidden part comes after everything that the level shows
            for resting in level:
                if prevents and resting.account is order.account:
                    if stp is not SelfTrade.MAKER:
                        return False  # it would be canceled or decremented here
                    continue
                if is_unprinted:
                    lowest, highest = self._may_print(level.price)
                    is_unprinted = False
                if not lowest <= level.price <= highest:
                    return False
                missing -= resting.shown
                if missing <= 0:
                    return True
                refreshed += resting.hidden
            missing -= refreshed
            if missing <= 0:
                return True
        return False

    # Amends

    def _amend(self, command: Amend) -> Sequence[Event]:
        """R6: another total, price or stop under the same oid."""
        rejected = why_not_traded(self)
        if rejected is not None:
            return [rejected]
        order = self._named_by(command)
        if order is None:
            return [refusals.not_found(command)]
        price = order.price if command.price is None else command.price
        stop = order.stop if command.stop is None else command.stop
        quantity = command.quantity
        rejected = why_not_amend(self, order, quantity=quantity, price=price, stop=stop)
        if rejected is not None:
            return [rejected]
        events: list[Event] = [Amended(order.oid, quantity, price, stop)]
        self._recent.note(order.owner, self.time, next_oid=self.next_oid)
        if order.account.exposure is not None:
            order.account.exposure.note_entry(self.time)
        if quantity <= order.filled:
            events.append(self._end(order, CancelReason.AMENDED))
            order.open_quantity += quantity - order.quantity
            order.terms = replace(order.terms, quantity=quantity, price=price, stop=stop)
        elif not order.keeps_place(quantity=quantity, price=price, stop=stop):
            self._enter_again(order, events, quantity=quantity, price=price, stop=stop)
        elif quantity < order.quantity:
            self._reduce(order, order.quantity - quantity)
        return events

    def _enter_again(
        self, order: Order, events: list[Event], *, quantity: int, price: int, stop: int
    ) -> None:
        """Give the order new terms, and with them new priority: it comes in like a new one."""
        if order.level is not None:
            order.level.side.remove(order)
        else:
            self._stops.remove(order)
        more = quantity - order.quantity
        order.terms = replace(order.terms, quantity=quantity, price=price, stop=stop)
        order.open_quantity += more
        order.account.change_open(order.side, more)
        if stop:
            self._stops.add(order)
        elif self.phase is _AUCTION:
            self.book.side(order.side).add(order)
        else:
            self._run(order, events)
            if self._stops.keys:
                self._run_stops(_prints(events), events)

    def _reduce(self, order: Order, quantity: int) -> None:
        """Take so much off the total of an order that keeps its place."""
        if order.level is not None:
            self.book.side(order.side).reduce(order, quantity)
        else:
            order.open_quantity -= quantity
        order.terms = replace(order.terms, quantity=order.quantity - quantity)
        order.account.change_open(order.side, -quantity)

    # Stops

    def _run_stops(self, prints: Sequence[int], events: list[Event]) -> None:
        """Run the stops that these prints elect; those that their trades elect queue behind (R7).

        None runs outside `continuous`: if the breaker halts, those elected wait again.
        """
        queue: deque[Order] = deque()
        while prints or queue:
            if self.phase is not _CONTINUOUS:
                for order in queue:
                    self._stops.add(order)
                return
            if prints:
                queue.extend(self._stops.take_elected(low=min(prints), high=max(prints)))
            if not queue:
                return
            order = queue.popleft()
            order.terms = replace(order.terms, stop=0)
            what_follows: list[Event] = [Triggered(order.oid)]
            self._run(order, what_follows)
            events += what_follows
            prints = _prints(what_follows)

    # Cancels

    def _cancel(self, command: Cancel) -> Sequence[Event]:
        try:
            order = self._accounts[command.owner].orders.pop(command.oid)
        except KeyError:
            named = self._named_by(command)
            if named is None:
                return [refusals.not_found(command)]
            return [self._end(named, command.reason)]
        return [self._cancel_order(order, command.reason)]

    def _named_by(self, command: Cancel | Amend) -> Order | None:
        """The owner's open order that the command names by oid or client id (R13, R14)."""
        if command.client_id:
            order = self._ids.find(command.owner, command.client_id)
            return order if order is not None and order.remaining else None
        account = self._accounts.get(command.owner)
        return account.orders.get(command.oid) if account is not None else None

    def _cancel_all(self, command: CancelAll) -> Sequence[Event]:
        return [self._end(order, command.reason) for order in self.open_orders(command.owner)]

    def _end(self, order: Order, reason: CancelReason) -> Canceled:
        """Cancel what is open of an order, whether it rests, waits for its stop or is incoming."""
        del order.account.orders[order.oid]
        return self._cancel_order(order, reason)

    def _cancel_order(self, order: Order, reason: CancelReason) -> Canceled:
        """Cancel what is open of an order that has been taken from its owner's open ones."""
        level, account = order.level, order.account
        oid, quantity = order.oid, order.open_quantity
        if level is not None:
            level.side.remove(order)
        elif order.stop:
            self._stops.remove(order)
        order.hidden = CANCELED
        if account.exposure is not None:
            account.exposure.change(order.side, -quantity)
        if oid < self._ids.oldest:
            self._ids.ended(order)
        return Canceled(oid, quantity, reason)

    def _close(self, order: Order) -> None:
        """The order is filled: it is not among its owner's open ones any more."""
        oid = order.oid
        del order.account.orders[oid]
        if oid < self._ids.oldest:
            self._ids.ended(order)

    # The venue's commands

    def _set_phase(self, command: SetPhase) -> Sequence[Event]:
        """R11: the phase event, then what entering that phase does."""
        if command.phase is self.phase:
            message = f"{self.ticker} is in phase {self.phase} already"
            return [Rejected("invalid_phase", message, "R11")]
        events: list[Event] = []
        self._change_phase(command.phase, events)
        if command.phase is Phase.CLOSED:
            for order in self.open_orders():
                if order.tif is TimeInForce.DAY:
                    events.append(self._end(order, CancelReason.END_OF_DAY))
        elif command.phase is Phase.CONTINUOUS:
            self._set_breaker_reference(None)
            self._uncross(events)
            if self.last is not None:
                self._run_stops([self.last], events)
        return events

    def _change_phase(self, phase: Phase, events: list[Event]) -> None:
        self.phase = phase
        self._unasked_price = self._plain_up_to()
        events.append(PhaseChanged(phase))

    def _plain_up_to(self) -> int:
        """Up to which price a plain order needs no look at phase, band or its worth; -1: none."""
        is_ordinary = self.phase is _CONTINUOUS and not self.settings["band"]
        return _USUAL_PRICE if is_ordinary else -1

    def _uncross(self, events: list[Event]) -> None:
        """R10: trade what is crossed at one price, best with best."""
        uncross = self.indicative()
        if uncross is None:
            return
        bids, asks = self.book.bids, self.book.asks
        self.last = uncross.price
        self._set_breaker_reference(uncross.price)
        missing = uncross.volume
        while missing:
            if bids.best is None or asks.best is None:
                raise Broken(f"{missing} of {uncross} have nobody to trade with: {self.book}")
            buy, sell = bids.best.first, asks.best.first
            quantity = min(buy.open_quantity, sell.open_quantity, missing)
            missing -= quantity
            events.append(self._pair(buy, sell, quantity, uncross.price))
        bid, ask = self.book.best_bid, self.book.best_ask
        if bid is not None and ask is not None and bid >= ask:
            raise Broken(f"the book is crossed after {uncross}: {self.book}")

    def _pair(self, buy: Order, sell: Order, quantity: int, price: int) -> Trade:
        """One trade of an uncross."""
        tid = self.next_tid
        self.next_tid = tid + 1
        self.book.bids.uncross(buy, quantity)
        self.book.asks.uncross(sell, quantity)
        for order, shares in ((buy, quantity), (sell, -quantity)):
            order.account.position += shares
            order.account.change_open(order.side, -quantity)
            if order.open_quantity == 0:
                self._close(order)
        return Trade(tid, price, quantity, buy.owner, sell.owner, buy.oid, sell.oid, None)

    def _change_settings(self, command: ChangeSettings) -> Sequence[Event]:
        try:
            settings = read_settings(command.settings)
        except BadSetting as error:
            return [Rejected("invalid_setting", str(error))]
        self.settings.update(settings)
        self._unasked_price = self._plain_up_to()
        self._set_breaker_reference(self.breaker_reference)
        return [SettingChanged(name, value) for name, value in settings.items()]

    def _change_limits(self, command: ChangeLimits) -> Sequence[Event]:
        """R16: all the limits of the command, or none."""
        owner = command.owner
        if owner == HOUSE:
            return [Rejected("invalid_setting", "owner 0, the house, has no limits", "R16")]
        limits: dict[str, int | None] = {}
        try:
            for name, value in command.limits:
                limits[name] = read_limit(name, value, is_of_owner=owner is not None)
        except BadLimit as error:
            return [Rejected("invalid_setting", str(error), "R16")]
        self.limits.change(owner, limits)
        entries = self._recent.by_owner(self.time)
        for account in self._accounts.values():
            if owner is None or account.owner == owner:
                account.limit(self.limits.of(account.owner), entries.get(account.owner, ()))
        return [LimitChanged(owner, name, value) for name, value in command.limits]

    def _raise_key(self, command: RaiseKey) -> Sequence[Event]:
        if command.owner == HOUSE:
            return [Rejected("invalid_setting", "owner 0, the house, has no key of its own")]
        present = self.generation(command.owner)
        if command.generation <= present:
            message = f"the key of owner {command.owner} has generation {present} already"
            return [Rejected("invalid_setting", message)]
        self._generations[command.owner] = command.generation
        return [KeyRaised(command.owner, command.generation)]

    def check(self) -> None:
        """Assert the invariants; the AssertionError carries the state that breaks one."""
        self.book.check()
        self._stops.check(self.last if self.phase is _CONTINUOUS else None)
        bid, ask = self.book.best_bid, self.book.best_ask
        if self.phase is _CONTINUOUS and bid is not None and ask is not None:
            assert bid < ask, f"the book is crossed: {self.book}"
        for account in self._accounts.values():
            account.check()
        everything = self.open_orders()
        for order in everything:
            assert 0 < order.oid < self.next_oid, f"{order!r}, next {self.next_oid}"
            assert (order.level is None) == (order.oid in self._stops.keys), f"{order!r} is lost"
            if order.level is not None:
                assert order.price > 0 == order.stop, f"{order!r} rests"
                assert order.tif in (TimeInForce.GTC, TimeInForce.DAY), f"{order!r} rests"
            else:
                assert order.open_quantity == order.quantity, f"{order!r} waits"
                assert order.hidden == 0, f"{order!r} waits"
            if order.client_id:
                assert self.find(order.owner, order.client_id) is order, f"{order!r} has no id"
        queued = sum(level.count for side in Side for level in self.book.side(side))
        assert len(everything) == queued + len(self._stops.keys), f"{everything}\n{self.book}"
        positions = {owner: account.position for owner, account in self._accounts.items()}
        assert sum(positions.values()) == 0, f"shares are not conserved: {positions}"
        printable = self._may_print(self.breaker_reference)
        assert (self._lowest, self._highest) == printable, (self._lowest, self._highest)
        assert self._unasked_price == self._plain_up_to(), self._unasked_price
        self._ids.check()
        for order in self._ids.by_oid.values():
            is_open = order.account.orders.get(order.oid) is order
            assert is_open == (order.remaining > 0), f"{order!r} is remembered"
        self._recent.check()


# All but the two that `apply` looks at first, since it calls those faster.
_CARRY_OUT: dict[type[Command], Callable[[Engine, Any], Sequence[Event]]] = {
    CancelAll: Engine._cancel_all,
    Amend: Engine._amend,
    SetPhase: Engine._set_phase,
    ChangeSettings: Engine._change_settings,
    ChangeLimits: Engine._change_limits,
    RaiseKey: Engine._raise_key,
}


def _prints(events: list[Event]) -> list[int]:
    return [event.price for event in events if isinstance(event, Trade)]


def _answer_again(order: Order, entered: NewOrder, command: NewOrder) -> Duplicate | Rejected:
    """R14: the same command is answered with the order's present state; another is refused.

    `ts` and the session's cancel-on-disconnect mark are not what the trader ordered.
    """
    if replace(command, ts=None, cod=False) == replace(entered, ts=None, cod=False):
        return Duplicate(order.oid, order.status, order.filled, order.remaining)
    message = f"id {command.client_id} is the id of order #{order.oid}, which is another one"
    return Rejected("duplicate_id", message, "R14")
