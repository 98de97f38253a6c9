"""Saved states: a state as lines of JSON, from which it is restored fast.

One line says the small things, each of the others many of one kind: what rests at a price, first
comer first; what waits for its stop, in order of election; the remembered client ids; the entries
that a rate can count still.

    {"time":1700000000050000,"starts":3,"phase":"continuous","last":999500,"breaker":1000000,…}
    ["level","buy",999000,[[6,8,100,60,40,{"client_id":"b","peak":20}],[9,7,5,5,0,null]]]
    ["stops","sell",[[12,7,5,980000,990000,null]]]
    ["named",[6,…]]
    ["ids",[[3,7,"buy",80,999000,0,{"client_id":"a"},[80,999000,0,80,false]],…]]
    ["rates",[[1700000000050000,7,2],…]]

Of an order at a level: oid, owner, total, what is open, what of that is hidden, options. Of a stop:
oid, owner, total, price, stop, options. Of a client id whose order is open and as it was entered,
the oid. Of others oid, owner, side, total, price, stop and options as entered, and where the order
has ended total, price and stop at the end, what was filled, whether it was canceled. Of entries:
time, owner, how many. Prices are in ten-thousandths, times in microseconds, 0 is no price.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Collection, Iterable, Iterator
from itertools import islice
from operator import attrgetter
from typing import Annotated, TypeVar

import msgspec
from msgspec.structs import replace

from matching import clientids
from matching.account import CANCELED, Account, Order
from matching.engine import Engine
from matching.events import Trade
from matching.journal import Header
from matching.order import HOUSE, NewOrder, Phase, SelfTrade, Side, TimeInForce
from matching.records import CommandRecord, format_line, parse_line
from matching.state import PastTrade, SeenSignature, State

_Number = Annotated[int, msgspec.Meta(ge=0)]
_Positive = Annotated[int, msgspec.Meta(ge=1)]

_AT_ONCE = 1_000
"""A line says no more of a kind than so many, but for the orders of a level."""


class _Options(
    msgspec.Struct, frozen=True, gc=False, omit_defaults=True, forbid_unknown_fields=True
):
    """What most orders have not."""

    client_id: str = ""
    tif: TimeInForce = TimeInForce.GTC
    stp: SelfTrade = SelfTrade.TAKER
    post: bool = False
    peak: _Number = 0
    cod: bool = False


_Resting = tuple[_Positive, _Number, _Positive, _Positive, _Number, _Options | None]
_Waiting = tuple[_Positive, _Number, _Positive, _Number, _Positive, _Options | None]
_End = tuple[_Number, _Number, _Number, _Number, bool]
_Entered = tuple[
    _Positive, _Number, Side, _Positive, _Number, _Number, _Options | None, _End | None
]
_Entries = tuple[_Number, _Positive, _Positive]


class _Facts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The small things; a trade and a signature as seq and line."""

    time: _Number
    starts: _Number
    phase: Phase
    last: _Positive | None
    breaker: _Positive | None
    next_oid: _Positive
    next_tid: _Positive
    settings: dict[str, int]
    limits: dict[str, int]
    exceptions: dict[int, dict[str, int]]
    generations: dict[int, int]
    positions: dict[int, int]
    trades: list[tuple[int, str]]
    signatures: list[tuple[int, str]]


class _Level(msgspec.Struct, frozen=True, array_like=True, tag="level", forbid_unknown_fields=True):
    side: Side
    price: _Positive
    orders: Annotated[list[_Resting], msgspec.Meta(min_length=1)]


class _Stops(msgspec.Struct, frozen=True, array_like=True, tag="stops", forbid_unknown_fields=True):
    side: Side
    orders: list[_Waiting]


class _Named(msgspec.Struct, frozen=True, array_like=True, tag="named", forbid_unknown_fields=True):
    oids: list[_Positive]


class _Ids(msgspec.Struct, frozen=True, array_like=True, tag="ids", forbid_unknown_fields=True):
    orders: list[_Entered]


class _Rates(msgspec.Struct, frozen=True, array_like=True, tag="rates", forbid_unknown_fields=True):
    entries: list[_Entries]


_Many = _Level | _Stops | _Named | _Ids | _Rates
_Thing = TypeVar("_Thing")
_NO_OPTIONS = _Options()
_FACTS = msgspec.json.Decoder(_Facts)
_MANY = msgspec.json.Decoder(_Many)


def save(state: State) -> bytes:
    """The state's lines, each with a newline."""
    lines = [_facts(state), *_many(state.engine, state.time)]
    return b"".join([msgspec.json.encode(line) + b"\n" for line in lines])


def restore(saved: bytes, header: Header) -> State:
    """The state that such lines say, of a journal with that header.

    ValueError or KeyError if they say none.
    """
    if not saved.endswith(b"\n"):
        raise ValueError("the last line has no end")
    first, *lines = saved[:-1].split(b"\n")
    facts = _FACTS.decode(first)
    restoring = _Restoring(facts, header)
    for line in lines:
        restoring.take(_MANY.decode(line))
    return State(
        engine=restoring.finish(),
        time=facts.time,
        starts=facts.starts,
        trades=[_past_trade(seq, line, header.ticker) for seq, line in facts.trades],
        signatures=[_seen_signature(seq, line, header.ticker) for seq, line in facts.signatures],
        session_owners=frozenset(restoring.session_owners),
    )


# Saving.


def _facts(state: State) -> _Facts:
    engine = state.engine
    return _Facts(
        time=state.time,
        starts=state.starts,
        phase=engine.phase,
        last=engine.last,
        breaker=engine.breaker_reference,
        next_oid=engine.next_oid,
        next_tid=engine.next_tid,
        settings=engine.settings,
        limits=engine.limits.product,
        exceptions=engine.limits.exceptions,
        generations=engine._generations,
        positions={
            owner: account.position
            for owner, account in engine._accounts.items()
            if account.position
        },
        trades=[(past.seq, format_line(past.time, past.trade)) for past in state.trades],
        signatures=[
            (seen.seq, format_line(seen.time, CommandRecord(seen.oid, seen.command, seen.prefix)))
            for seen in state.signatures
        ],
    )


def _many(engine: Engine, time: int) -> Iterator[_Many]:
    for side in Side:
        for level in engine.book.side(side):
            yield _Level(side, level.price, [_resting(order) for order in level])
    for side, stops in ((Side.BUY, engine._stops._buys), (Side.SELL, engine._stops._sells)):
        for waiting in _portions(stops.values()):
            yield _Stops(side, [_waiting(order) for order in waiting])
    ids = [(order, engine._ids.commands[oid]) for oid, order in engine._ids.by_oid.items()]
    for oids in _portions(order.oid for order, terms in ids if _is_as_entered(order, terms)):
        yield _Named(oids)
    for others in _portions(each for each in ids if not _is_as_entered(*each)):
        yield _Ids([_entered(order, terms) for order, terms in others])
    for entries in _portions(_entries(engine, time)):
        yield _Rates(entries)


def _portions(things: Iterable[_Thing]) -> Iterator[list[_Thing]]:
    rest = iter(things)
    while portion := list(islice(rest, _AT_ONCE)):
        yield portion


def _resting(order: Order) -> _Resting:
    options = _options(order.terms)
    return order.oid, order.owner, order.quantity, order.open_quantity, order.hidden, options


def _waiting(order: Order) -> _Waiting:
    options = _options(order.terms)
    return order.oid, order.owner, order.quantity, order.price, order.stop, options


def _is_as_entered(order: Order, terms: NewOrder) -> bool:
    return order.remaining > 0 and order.terms == terms


def _entered(order: Order, terms: NewOrder) -> _Entered:
    end = None
    if not order.remaining:
        end = order.quantity, order.price, order.stop, order.filled, order.canceled
    oid, owner, side = order.oid, terms.owner, terms.side
    return oid, owner, side, terms.quantity, terms.price, terms.stop, _options(terms), end


def _options(terms: NewOrder) -> _Options | None:
    options = _Options(
        client_id=terms.client_id,
        tif=terms.tif,
        stp=terms.stp,
        post=terms.post,
        peak=terms.peak,
        cod=terms.cod,
    )
    return options if options != _NO_OPTIONS else None


def _entries(engine: Engine, time: int) -> list[_Entries]:
    counted = Counter(
        (entry, owner)
        for owner, entries in engine._recent.by_owner(time).items()
        if owner != HOUSE
        for entry in entries
    )
    return [(entry, owner, count) for (entry, owner), count in sorted(counted.items())]


# Restoring.


class _Restoring:
    """An engine that takes line after line; complete once it is finished."""

    def __init__(self, facts: _Facts, header: Header) -> None:
        self._facts = facts
        self._engine = _new_engine(facts, header)
        self.session_owners: set[int] = set()
        self._opened: defaultdict[int, list[Order]] = defaultdict(list)
        self._named: dict[int, Order] = {}
        """The open orders that have a client id, by oid."""

    def take(self, line: _Many) -> None:
        """ValueError if it cannot be after what was taken before."""
        match line:
            case _Level():
                self._add_level(line)
            case _Stops():
                self._add_stops(line)
            case _Named():
                self._add_named(line)
            case _Ids():
                self._add_ids(line)
            case _Rates():
                self._add_rates(line)

    def finish(self) -> Engine:
        """The engine."""
        engine, ids = self._engine, self._engine._ids
        for owner, orders in self._opened.items():
            orders.sort(key=attrgetter("oid"))
            self._account(owner).orders = {order.oid: order for order in orders}
        # All ids among the latest are remembered; beside them only those of orders still open.
        latest = sorted(ids.by_oid)[-clientids.REMEMBERED_IDS :]
        ids._latest = deque(ids.by_oid[oid] for oid in latest)
        ids.oldest = ids._latest[0].oid if ids._latest else 0
        self._limit()
        return engine

    def _account(self, owner: int) -> Account:
        return self._engine._accounts.get(owner) or self._engine._open_account(owner)

    def _add_level(self, line: _Level) -> None:
        side, price, ticker = line.side, line.price, self._engine.ticker
        accounts, opened = self._engine._accounts, self._opened
        queue: list[Order] = []
        for oid, owner, quantity, open_quantity, hidden, options in line.orders:
            if options is None:  # as of most
                terms = NewOrder(
                    ticker=ticker, owner=owner, side=side, quantity=quantity, price=price
                )
            else:
                terms = _terms(ticker, owner, side, quantity, price, 0, options)
            order = Order()
            order.oid = oid
            try:
                order.account = accounts[owner]
            except KeyError:
                order.account = self._engine._open_account(owner)
            order.terms = terms
            order.open_quantity = open_quantity
            order.hidden = hidden
            queue.append(order)
            opened[owner].append(order)
            if options is not None:
                self._note(order)
        self._engine.book.side(side).restore(queue)

    def _add_stops(self, line: _Stops) -> None:
        ticker, stops = self._engine.ticker, self._engine._stops
        for oid, owner, quantity, price, stop, options in line.orders:
            terms = _terms(ticker, owner, line.side, quantity, price, stop, options)
            order = self._account(owner).open(oid, terms)
            self._opened[owner].append(order)
            stops.add(order)
            self._note(order)

    def _note(self, order: Order) -> None:
        """What is to be known of an open order with options."""
        if order.client_id:
            self._named[order.oid] = order
        if order.cod:
            self.session_owners.add(order.owner)

    def _add_named(self, line: _Named) -> None:
        for oid in line.oids:
            order = self._named[oid]
            self._remember(order, order.terms)

    def _add_ids(self, line: _Ids) -> None:
        ticker = self._engine.ticker
        for oid, owner, side, quantity, price, stop, options, end in line.orders:
            entered = _terms(ticker, owner, side, quantity, price, stop, options)
            order = self._named[oid] if end is None else self._ended(oid, entered, end)
            self._remember(order, entered)

    def _remember(self, order: Order, entered: NewOrder) -> None:
        ids = self._engine._ids
        ids.by_oid[order.oid] = order
        ids.commands[order.oid] = entered
        ids._remembered[entered.owner, entered.client_id] = order

    def _ended(self, oid: int, entered: NewOrder, end: _End) -> Order:
        """An order that has ended: as entered, and what it came to be."""
        quantity, price, stop, filled, is_canceled = end
        terms = entered
        if (quantity, price, stop) != (entered.quantity, entered.price, entered.stop):
            terms = replace(entered, quantity=quantity, price=price, stop=stop)
        account = self._account(entered.owner)
        order = account.open(oid, terms)
        del account.orders[oid]
        order.open_quantity = quantity - filled
        if is_canceled:
            order.hidden = CANCELED
        return order

    def _add_rates(self, line: _Rates) -> None:
        recent, facts = self._engine._recent, self._facts
        for entry, owner, count in line.entries:
            if not recent.latest <= entry <= facts.time:
                raise ValueError(f"an entry at {entry}, after {recent.latest}, until {facts.time}")
            for _ in range(count):
                recent.note(owner, entry, next_oid=facts.next_oid)

    def _limit(self) -> None:
        """Let limits come into force for all owners, whose orders and recent entries are there."""
        engine, facts = self._engine, self._facts
        entries = engine._recent.by_owner(facts.time)
        accounts = [self._account(owner) for owner in {*entries, *engine._accounts}]
        _refuse_others("limits", facts.limits, engine.limits.product)
        engine.limits.change(None, facts.limits)
        for owner, own in facts.exceptions.items():
            _refuse_others("limits", engine.limits.product | own, engine.limits.product)
            engine.limits.change(owner, own)
        for account in accounts:
            account.limit(engine.limits.of(account.owner), entries.get(account.owner, ()))


def _new_engine(facts: _Facts, header: Header) -> Engine:
    """An engine that lacks orders, recent entries and limits."""
    engine = Engine(
        header.ticker,
        tick=header.tick,
        lot=header.lot,
        reference=header.reference,
        phase=facts.phase,
    )
    engine.time = facts.time
    engine.last = facts.last
    engine.next_oid, engine.next_tid = facts.next_oid, facts.next_tid
    _refuse_others("settings", facts.settings, engine.settings)
    engine.settings.update(facts.settings)
    engine._unasked_price = engine._plain_up_to()
    engine._set_breaker_reference(facts.breaker)
    engine._generations.update(facts.generations)
    for owner, shares in facts.positions.items():
        engine._open_account(owner).position = shares
    return engine


def _refuse_others(what: str, told: Collection[str], known: Collection[str]) -> None:
    """ValueError unless all that there are are told, and no others."""
    if set(told) != set(known):
        raise ValueError(f"the {what} are {', '.join(known)}, not {', '.join(told)}")


def _terms(
    ticker: str,
    owner: int,
    side: Side,
    quantity: int,
    price: int,
    stop: int,
    options: _Options | None,
) -> NewOrder:
    more = options or _NO_OPTIONS
    return NewOrder(
        ticker=ticker,
        owner=owner,
        side=side,
        quantity=quantity,
        price=price,
        stop=stop,
        client_id=more.client_id,
        tif=more.tif,
        stp=more.stp,
        post=more.post,
        peak=more.peak,
        cod=more.cod,
    )


def _past_trade(seq: int, line: str, ticker: str) -> PastTrade:
    time, trade = parse_line(line, ticker=ticker)
    if not isinstance(trade, Trade):
        raise ValueError(f"no trade: {line!r}")
    return PastTrade(seq, time, trade)


def _seen_signature(seq: int, line: str, ticker: str) -> SeenSignature:
    time, record = parse_line(line, ticker=ticker)
    if not isinstance(record, CommandRecord):
        raise ValueError(f"no command: {line!r}")
    return SeenSignature(record.signature_prefix, record.oid, time, seq, record.command)
