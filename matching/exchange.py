"""The exchange: one product without I/O. Texts in, a batch to write, and when it is safe, answers.

    submit  send  login  find …                                     settle(batch)
              │                                                        ▲   │
              ▼                                         durable now ───┘   ├─▶ deliveries, in order
    checks ─▶ engine ─▶ journal ─▶ take_batch() ─▶ write and sync          └─▶ changes, for the feed

What arrives is decided at once, while the batch before it is being synced, up to 512 commands; the
rest waits its turn. Few commands may do much, so the one that brings its events to 4,096 ends a
batch, too. Nothing leaves before its cause is durable (PROTOCOL §4): a reject, a duplicate or a
read waits for the batch in which it was decided like everything else. Whoever owns an Exchange
writes and syncs one batch at a time and calls `settle` only after that; if a write or a sync fails,
the engine is ahead of the disk and the process must end (PROTOCOL §5).

Nothing else reads the engine. Watchers see `feed`, which is moved on by `settle`.
"""

import re
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from string import hexdigits
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from matching import protocol
from matching.account import CANCELED, Account, Order, status_of
from matching.engine import Engine
from matching.events import (
    Accepted,
    Amended,
    Canceled,
    Decremented,
    Duplicate,
    Event,
    KeyRaised,
    Rejected,
    Trade,
    Triggered,
)
from matching.limits import UNLIMITED
from matching.marketdata import (
    Changes,
    Feed,
    JsonObject,
    format_time,
    level_to_json,
    price_or_none,
)
from matching.order import (
    HOUSE,
    Amend,
    Cancel,
    CancelAll,
    CancelReason,
    Command,
    NewOrder,
    Phase,
    SetPhase,
    Side,
    Status,
    format_price,
)
from matching.ports import Clock, Dice, File, Recipient
from matching.recovery import Recovered
from matching.session import Denied, Gate, Holder, Keyring, Session, owner_of
from matching.state import SeenSignature

BATCH_COMMANDS = 512
"""The most commands in one batch (PROTOCOL §5)."""

BATCH_EVENTS = 4_096
"""The events after which a batch takes no more commands: one of them may have caused very many."""

TOLD_PER_EVENT = 32
"""So many open orders are told, before they are put into JSON, at the cost of one event."""

PIECE_ITEMS = 256
"""The most orders, events or answers that are put into JSON at once: longer lists in pieces."""

SPACE_FOR_ORDERS = 256 * 1024 * 1024
"""With less free on the journal's file system, new orders are `no_space` (PROTOCOL §5), bytes."""

SPACE_FOR_TRADING = 64 * 1024 * 1024
"""With less free, the market is halted."""

QUEUE_LIMIT = 100_000
"""Commands that may wait for a batch; more are answered `busy`."""

SIGNATURE_MEMORY_US = 10_000_000
"""How long a signature is remembered: ts lies within 5 s of its arrival, and 5 s count after ts."""

NONCE_BYTES = 16

KEY_RAISED = 4003
"""The WebSocket close code for a session whose owner's key no longer counts."""


_encode = msgspec.json.Encoder().encode

T = TypeVar("T")


class Answer(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What became of one command. `oid` is None for a command about no single order.

    `status`, `filled` and `remaining` are the order's when it was decided. `error` stands alone.
    `canceled` counts the orders of a `del all`.
    """

    seq: int | None = None
    oid: int | None = None
    status: Status | None = None
    filled: int = 0
    remaining: int = 0
    events: Sequence[Event] = ()
    canceled: int | None = None
    error: Rejected | None = None
    server_time: int | None = None

    def to_dict(self) -> JsonObject:
        """PROTOCOL §4's JSON, without type and req."""
        if self.error is not None:
            error = protocol.event_to_dict(self.error)
            if self.server_time is not None:
                error["server_time"] = self.server_time
            return {"error": error}
        events = [protocol.event_to_dict(event) for event in self.events]
        return {**self._head(), "events": events}

    def pieces(self, head: JsonObject) -> Iterable[bytes]:
        """The JSON of `head` and the answer, one piece after the other."""
        if len(self.events) <= PIECE_ITEMS:
            return (_encode({**head, **self.to_dict()}),)
        lists = {"events": self.events}
        return _pieces({**head, **self._head()}, lists, protocol.event_to_dict)

    def _head(self) -> JsonObject:
        """All of an answer without an error but its events."""
        data: JsonObject = {}
        if self.seq is not None:
            data["seq"] = self.seq
        if self.oid is not None:
            data["oid"] = self.oid
        if self.status is not None:
            data["status"] = self.status
            data["filled"] = self.filled
            data["remaining"] = self.remaining
        return data

    def to_text(self) -> str:
        """The answer of 2010: the oid; of `del all` the number canceled; else `ok`."""
        if self.oid is not None:
            return str(self.oid)
        return "ok" if self.canceled is None else str(self.canceled)


class Reply(msgspec.Struct, frozen=True, gc=False):
    """The answer to one text."""

    req: int | None
    answer: Answer

    def to_dict(self) -> JsonObject:
        return {**_head("answer", self.req), **self.answer.to_dict()}

    def pieces(self) -> Iterable[bytes]:
        """Its JSON, one piece after the other."""
        return self.answer.pieces(_head("answer", self.req))


class Replies(msgspec.Struct, frozen=True, gc=False):
    """The answers to the texts of one frame, in order."""

    req: int | None
    answers: list[Answer]

    def to_dict(self) -> JsonObject:
        answers = [answer.to_dict() for answer in self.answers]
        return {**_head("answer", self.req), "answers": answers}

    def pieces(self) -> Iterator[bytes]:
        """Its JSON, one piece after the other."""
        yield _encode(_head("answer", self.req))[:-1] + b',"answers":['
        for index, answer in enumerate(self.answers):
            if index:
                yield b","
            yield from answer.pieces({})
        yield b"]}"


class OrderState(msgspec.Struct, frozen=True, gc=False):
    """What an order was at one moment: the engine goes on changing it, but for its `terms`."""

    oid: int
    terms: NewOrder
    open_quantity: int
    canceled: bool


class OrderChange(msgspec.Struct, frozen=True, gc=False):
    """PROTOCOL §4's `order` message: what became of an order, for those who watch its owner's."""

    seq: int
    time: int
    event: Event
    order: OrderState
    with_owner: bool

    def to_dict(self) -> JsonObject:
        return {
            "type": "order",
            "seq": self.seq,
            "time": format_time(self.time),
            "event": protocol.event_to_dict(self.event),
            "order": order_to_dict(self.order, with_owner=self.with_owner),
        }

    def pieces(self) -> Iterable[bytes]:
        """Its JSON, one piece."""
        return (_encode(self.to_dict()),)


class OpenOrders(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """The open orders of an owner, or (with `with_owner`) of all, after record `seq`.

    They may be very many: who takes them puts one piece after the other into JSON, and need not
    have done so when the engine goes on.
    """

    req: int | None
    seq: int
    position: int | None
    orders: list[OrderState]
    with_owner: bool

    def to_dict(self) -> JsonObject:
        return {**self._head(), "orders": [self._order(order) for order in self.orders]}

    def pieces(self) -> Iterator[bytes]:
        """Its JSON, one piece after the other."""
        return _pieces(self._head(), {"orders": self.orders}, self._order)

    def _head(self) -> JsonObject:
        head = {**_head("orders", self.req), "seq": self.seq}
        if self.position is not None:
            head["position"] = self.position
        return head

    def _order(self, order: OrderState) -> JsonObject:
        return order_to_dict(order, with_owner=self.with_owner)


class PublicState(msgspec.Struct, frozen=True, gc=False):
    """What `GET /query` tells: `levels` are those of `Feed.best`, as they were at one moment."""

    head: JsonObject
    levels: dict[str, list[tuple[int, tuple[int, int]]]]

    def to_dict(self) -> JsonObject:
        levels = {
            name: [level_to_json(each) for each in side] for name, side in self.levels.items()
        }
        return {**self.head, **levels}

    def pieces(self) -> Iterator[bytes]:
        """Its JSON, one piece after the other."""
        return _pieces(self.head, self.levels, level_to_json)


class Close(msgspec.Struct, frozen=True, gc=False):
    """The connection is to be closed with this code."""

    code: int
    reason: str


Message = Reply | Replies | OrderChange | OpenOrders | Close | JsonObject


class Rejection(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A command that was refused, for `<ticker>.rejected`. `seq` is the last record before it."""

    time: int
    owner: int
    code: str
    text: str
    seq: int


class Batch:
    """What was decided together.

    `data` is for the journal (empty: nothing was carried out), `mark` for `<ticker>.durable` once
    the data is synced. `deliveries` come before the publication of `changes`. `rejections` are for
    `<ticker>.rejected`, after all that.
    """

    __slots__ = ("changes", "commands", "data", "deliveries", "events", "mark", "rejections")

    def __init__(self) -> None:
        self.data = b""
        self.mark = b""
        self.commands = 0
        self.events = 0
        """What deciding it took beside the commands, counted in events."""
        self.deliveries: list[tuple[Recipient, Message]] = []
        self.changes: Changes | None = None
        self.rejections: list[Rejection] = []

    @property
    def has_room(self) -> bool:
        """Whether it may take one more command."""
        return self.commands < BATCH_COMMANDS and self.events < BATCH_EVENTS

    def write(self, journal: File) -> None:
        """Append the data. OSError: the process must end, and never try again."""
        journal.append(self.data)

    def sync(self, journal: File, mark: File) -> None:
        """Make all that was written durable, then say so in the mark. OSError: likewise."""
        journal.sync()
        mark.write_at(0, self.mark)


class Exchange:
    """One product: decides what arrives, and keeps what it decided until it is durable.

    It goes on where `recovered` ends; call `start` first, and write that batch before serving.
    `generations` are those of `var/key.generations`.
    """

    def __init__(
        self,
        recovered: Recovered,
        *,
        clock: Clock,
        dice: Dice,
        venue_key: str,
        generations: Mapping[int, int] | None = None,
    ) -> None:
        engine, journal = recovered.engine, recovered.journal
        self.ticker = engine.ticker
        self.epoch = recovered.epoch
        self.rejects: Counter[str] = Counter()
        self.orders = 0
        self.trades = 0
        self.free_space = sys.maxsize
        """Bytes that the journal's file system had when it was last asked."""
        self.failure: BaseException | None = None
        """What broke in the middle of a decision. From then on nothing is given out."""
        self._engine = engine
        self._journal = journal
        self._clock = clock
        self._dice = dice
        self._generations = dict(generations or {})
        self._gate = Gate(self.ticker, Keyring(venue_key), self._generation)
        self._seen = _SeenSignatures(recovered.signatures)
        self._disconnects = recovered.disconnects
        self._sessions: dict[Session, None] = {}
        self._watchers: dict[int | None, dict[Session, None]] = {}
        """Sessions that want `order` messages, by owner; None: venue sessions."""
        self._open: dict[int, Order] = {order.oid: order for order in engine.open_orders()}
        self._queue: deque[Callable[[], None]] = deque()
        self._batch = Batch()
        self._trades: list[JsonObject] = []
        self._phase_before = engine.phase
        self._indicative_before = _indicative(engine)
        self._rules_before = _copied_rules(engine)
        self._is_sealed = True
        self.feed = _feed_of(recovered)

    # -- what the shell asks

    def start(self, *, phase: Phase | None = None) -> None:
        """Begin this run: its epoch's record; `phase`, if a new journal is to begin in it; cancels
        for the connections that were lost with the last run.
        """
        self._journal.epoch(self.epoch, at=self._now())
        if phase is not None and phase is not self._engine.phase:
            command = SetPhase(ticker=self.ticker, phase=phase)
            self._execute(command, at=self._now(), sender=None, sees_all=True)
        self._queue.append(partial(self._cancel_lost, iter(self._disconnects)))
        self._decide_what_waits()

    def open_session(self, recipient: Recipient, *, trusted: bool) -> Session:
        """A new connection. `trusted`: the venue key counts from its address."""
        session = Session(recipient, self._dice.token(NONCE_BYTES).hex(), trusted=trusted)
        self._sessions[session] = None
        return session

    def close_session(self, session: Session) -> None:
        """The connection is gone: what it sent before is still decided, then its cod orders go."""
        self._ask(partial(self._disconnect, session))

    def close_sessions(self) -> None:
        """The server stops, and every connection with it."""
        for session in list(self._sessions):
            self.close_session(session)

    def hello(self, session: Session) -> JsonObject:
        """The first message of a connection."""
        engine, header = self._engine, self._journal.header
        return {
            "type": "hello",
            "protocol": 1,
            "ticker": self.ticker,
            "nonce": session.nonce,
            "tick": format_price(engine.tick),
            "lot": engine.lot,
            "reference": format_price(engine.reference),
            "phase": self.feed.phase,
            "lineage": header.lineage,
            "epoch": self.epoch,
            "time": self.time_text(),
        }

    def query(self) -> PublicState:
        """The public state, as `GET /query` tells it: all levels, no owners, no stops."""
        engine, feed = self._engine, self.feed
        head = {
            "ticker": self.ticker,
            "tick": format_price(engine.tick),
            "lot": engine.lot,
            "lineage": self._journal.header.lineage,
            "phase": feed.phase,
            "last": price_or_none(feed.last),
            "reference": format_price(feed.reference),
            "seq": feed.seq,
            "rules": feed.rules,
        }
        levels = {"bids": feed.best(Side.BUY, None), "asks": feed.best(Side.SELL, None)}
        return PublicState(head, levels)

    def quote(self) -> int:
        """The last price, before the first trade the reference price."""
        return self.feed.last if self.feed.last is not None else self.feed.reference

    def now(self) -> int:
        """The journal's clock, which never goes back, in microseconds."""
        return self._now()

    def time_text(self) -> str:
        return format_time(self._now())

    def submit(
        self,
        text: str,
        signature: str,
        recipient: Recipient,
        *,
        trusted: bool,
        req: int | None = None,
        session: Session | None = None,
    ) -> None:
        """A command sent by itself, with its signature; on a WebSocket, by which session."""
        if self._is_busy:
            self._deliver(recipient, Reply(req, self._busy(text)))
            return
        self._ask(partial(self._submit, text, signature, recipient, trusted, req, session))

    def send(self, session: Session, text: str, *, req: int | None) -> None:
        """A text in a session, without a signature."""
        if self._is_busy:
            self._deliver(session.recipient, Reply(req, self._busy(text, session)))
            return
        self._ask(partial(self._send, session, text, req))

    def send_many(self, session: Session, texts: Sequence[str], *, req: int | None) -> None:
        """The texts of one frame: each stands alone; one message after the last."""
        answers: list[Answer] = []
        if self._is_busy:
            answers = [self._busy(text, session) for text in texts]
            self._deliver(session.recipient, Replies(req, answers))
            return
        for text in texts:
            self._ask(partial(self._send_one_of_many, session, text, req, answers, len(texts)))

    def login(self, session: Session, text: str, signature: str, *, req: int | None) -> None:
        self._ask(partial(self._login, session, text, signature, req))

    def subscribe_orders(self, session: Session, *, req: int | None, wanted: bool) -> None:
        """Begin (or end) with `order` messages; they follow an `orders` message.

        `req` is None if a snapshot answers the request already.
        """
        self._ask(partial(self._subscribe_orders, session, req, wanted))

    def find(
        self,
        session: Session,
        *,
        req: int | None,
        oid: int | None = None,
        client_id: str | None = None,
        owner: int | None = None,
    ) -> None:
        """Tell of one order; a venue session may name any owner's."""
        self._ask(partial(self._find, session, req, oid, client_id, owner))

    def open_orders(self, session: Session, *, req: int | None, owner: int | None = None) -> None:
        """Tell the open orders and the position; a venue session may name any owner."""
        self._ask(partial(self._tell_open_orders, session, req, owner))

    def cancel_after(
        self,
        session: Session,
        seconds: int,
        *,
        req: int | None,
        arm: Callable[[int, int], None],
        owner: int | None = None,
    ) -> None:
        """Set the dead man's switch of the session's owner; a venue session names the owner.

        If the session may, `arm` is called with owner and seconds (0: disarm). Who keeps the
        switches calls `cancel_for_dead_man` when one runs out.
        """
        self._ask(partial(self._cancel_after, session, seconds, req, arm, owner))

    def cancel_for_dead_man(self, owner: int) -> None:
        """The owner's switch ran out: cancel all its open orders."""
        self._ask(partial(self._cancel_for_dead_man, owner))

    def set_generations(self, generations: Mapping[int, int]) -> None:
        """`var/key.generations` has changed: sessions of owners whose key was raised are closed."""
        for owner, generation in generations.items():
            before = self._generation(owner)
            self._generations[owner] = max(generation, self._generations.get(owner, 1))
            if self._generation(owner) > before:
                self._close_sessions_of(owner)

    def note_free_space(self, nbytes: int) -> None:
        """The journal's file system has so many bytes left (PROTOCOL §5).

        Short of space, only what ends orders is carried out: cancels, and amends that take quantity
        away. With next to none the market is halted, and stays so until the venue opens it.
        """
        self.free_space = nbytes
        if nbytes < SPACE_FOR_TRADING:
            self._ask(self._halt_for_space)

    def seal(self) -> None:
        """The journal has been idle: a tick says that what came before it is whole."""
        if not self._is_sealed and not self.has_work:
            self._journal.tick(at=self._now())
            self._is_sealed = True

    def check(self, seq: int, digest: str) -> None:
        """Journal the hash of the state after record `seq`, of which a snapshot was taken."""
        self._journal.check(seq, digest)
        self._is_sealed = False

    @property
    def is_sealed(self) -> bool:
        """Whether nothing came after the last tick (or the start)."""
        return self._is_sealed

    @property
    def has_work(self) -> bool:
        """Whether `take_batch` has something, be it that the exchange broke."""
        if self.failure is not None:
            return True
        return bool(self._batch.deliveries or self._journal.open_lines or self._queue)

    def take_batch(self) -> Batch:
        """Close the open batch. Write and sync its `data`, then `settle` it, then take the next."""
        if self.failure is not None:
            raise self.failure
        batch, self._batch = self._batch, Batch()
        batch.data = self._journal.close_batch()
        if batch.data:
            mark = self._journal.mark
            batch.mark = mark.encode()
            batch.changes = self._take_changes(mark.seq)
        self._decide_what_waits()
        return batch

    def settle(self, batch: Batch) -> None:
        """The batch is durable: show what it changed. Then deliver, then publish its changes."""
        if batch.changes is not None:
            self.feed.apply(batch.changes)

    # -- the queue and the open batch

    @property
    def _is_busy(self) -> bool:
        return len(self._queue) >= QUEUE_LIMIT

    def _ask(self, question: Callable[[], None]) -> None:
        self._queue.append(question)
        if len(self._queue) == 1:
            self._decide_what_waits()

    def _decide_what_waits(self) -> None:
        queue = self._queue
        try:
            while queue and self._batch.has_room:
                self._batch.commands += 1
                queue.popleft()()
        except BaseException as error:
            self.failure = error
            raise

    def _deliver(self, recipient: Recipient, message: Message) -> None:
        self._batch.deliveries.append((recipient, message))

    def _take_changes(self, seq: int) -> Changes:
        trades, self._trades = self._trades, []
        phase = self._engine.phase
        changed = phase if phase is not self._phase_before else None
        self._phase_before = phase
        indicative = _indicative(self._engine)
        is_new = indicative != self._indicative_before
        self._indicative_before = indicative
        rules = None
        if (self._engine.settings, self._engine.limits.product) != self._rules_before:
            rules = _rules(self._engine)
            self._rules_before = _copied_rules(self._engine)
        return Changes(
            seq=seq,
            levels=self._engine.book.take_changed_levels(),
            trades=trades,
            phase=changed,
            indicative=indicative if is_new else msgspec.UNSET,
            rules=rules,
        )

    def _now(self) -> int:
        # The engine's time too: it has seen rejected commands, which the journal has not.
        return max(self._clock.now(), self._journal.time, self._engine.time)

    # -- commands

    def _submit(
        self,
        text: str,
        signature: str,
        recipient: Recipient,
        trusted: bool,
        req: int | None,
        session: Session | None,
    ) -> None:
        answer = self._decide_signed(text, signature, trusted, session)
        self._deliver(recipient, Reply(req, answer))

    def _send(self, session: Session, text: str, req: int | None) -> None:
        self._deliver(session.recipient, Reply(req, self._decide_in_session(session, text)))

    def _send_one_of_many(
        self, session: Session, text: str, req: int | None, answers: list[Answer], count: int
    ) -> None:
        answers.append(self._decide_in_session(session, text))
        if len(answers) == count:
            self._deliver(session.recipient, Replies(req, answers))

    def _decide_signed(
        self, text: str, signature: str, trusted: bool, session: Session | None
    ) -> Answer:
        now = self._now()
        try:
            command, holder = self._gate.admit_signed(text, signature, now=now, trusted=trusted)
        except Denied as denied:
            self._keep(text, denied.code, now)
            return self._refusal(denied, now)
        answer = self._seen.answer(signature, now)
        if answer is None:
            seen = self._seen.recovered(signature, now)
            if seen is not None:
                return self._answer_recovered(seen)
            answer = self._execute(
                command,
                at=now,
                sender=session,
                sees_all=holder is Holder.VENUE,
                signature=signature,
            )
            if answer.error is not None:
                self._keep(text, answer.error.code, now)
            self._seen.add(signature, answer, now)
        return answer

    def _decide_in_session(self, session: Session, text: str) -> Answer:
        now = self._now()
        try:
            command = self._gate.admit(session, text, now=now)
        except Denied as denied:
            self._keep(text, denied.code, now, session)
            return self._refusal(denied, now)
        if session.cod and isinstance(command, NewOrder):
            command = replace(command, cod=True)
        answer = self._execute(command, at=now, sender=session, sees_all=session.venue)
        # Only a command that was carried out has a seq: a duplicate is of an order made elsewhere.
        if session.cod and answer.seq is not None and answer.oid in self._open:
            self._remember_cod(session, answer.oid)
        if answer.error is not None:
            self._keep(text, answer.error.code, now, session)
        return answer

    def _busy(self, text: str, session: Session | None = None) -> Answer:
        now = self._now()
        denied = Denied("busy", f"{QUEUE_LIMIT} commands wait already; try again later")
        self._keep(text, denied.code, now, session)
        return self._refusal(denied, now)

    def _keep(self, text: str, code: str, now: int, session: Session | None = None) -> None:
        """Keep a command that is refused for `<ticker>.rejected`.

        `session`: the one in which it was sent without a signature.
        """
        named = _NAMED_OWNER.match(text)
        of_session = session.owner if session is not None else None
        rejection = Rejection(
            time=now,
            owner=int(named[1]) if named is not None else of_session or HOUSE,
            code=code,
            text=_cut(text),
            seq=self._journal.seq,
        )
        self._batch.rejections.append(rejection)

    def _refusal(self, denied: Denied, now: int) -> Answer:
        self.rejects[denied.code] += 1
        server_time = now // 1000 if denied.code == "stale_timestamp" else None
        return Answer(error=Rejected(denied.code, denied.message), server_time=server_time)

    def _answer_recovered(self, seen: SeenSignature) -> Answer:
        """A repeat of what was carried out before the last start: R14's answer to a duplicate.

        What has become of an order that has ended and bore no id is not remembered, and not told.
        """
        duplicate = Duplicate(seen.oid, Status.OPEN, 0, 0)
        order = self._engine.order(seen.oid) if seen.oid else None
        if order is None:
            return Answer(seq=seen.seq, oid=seen.oid or None, events=(duplicate,))
        return _answer_about(order, (duplicate,), seq=seen.seq)

    def _execute(
        self,
        command: Command,
        *,
        at: int,
        sender: Session | None,
        sees_all: bool,
        signature: str = "",
    ) -> Answer:
        """Give the command to the engine, journal what it did, and tell who is to know."""
        if self.free_space < SPACE_FOR_ORDERS and self._asks_for_more(command):
            self.rejects[_NO_SPACE.code] += 1
            return Answer(error=_NO_SPACE)
        events = self._engine.apply(command, at)
        first = events[0] if events else None
        if isinstance(first, Rejected):
            self.rejects[first.code] += 1
            return Answer(error=first)
        if isinstance(first, Duplicate):
            return Answer(
                oid=first.oid,
                status=first.status,
                filled=first.filled,
                remaining=first.remaining,
                events=events,
            )
        self._batch.events += len(events)
        oid = _oid_of_command(command, first)
        seq = self._journal.append(
            command, oid=oid, events=events, at=at, signature_prefix=signature[:16]
        )
        self._is_sealed = False
        if isinstance(command, NewOrder):
            self.orders += 1
            order = self._engine.order(oid, owner=command.owner)
            self._open[oid] = order if order is not None else _ended_order(oid, command, events)
            if len(events) == 1 and not self._watchers:
                # It rests or waits, and nobody else is to know: most orders end here.
                return _answer_about(self._open[oid], events, seq=seq)
        owner = owner_of(command)
        told = len(events) - (self._journal.seq - seq)
        self._note(events, seq - told + 1, seq, at, sender=sender, owner=owner)
        if isinstance(command, CancelAll):  # all that it ends is its owner's
            self._forget_ended(events)
            return Answer(seq=seq, events=events, canceled=len(events))
        visible = events if sees_all or owner is None else self._visible(events, owner)
        if oid:
            answer = _answer_about(self._open[oid], visible, seq=seq)
        else:
            answer = Answer(seq=seq, events=visible)
        self._forget_ended(events)
        return answer

    def _asks_for_more(self, command: Command) -> bool:
        """Whether it is a new order, or an amend that does not just take quantity away."""
        if isinstance(command, NewOrder):
            # One that was accepted before is answered again, and adds nothing (R14).
            return self._engine.find(command.owner, command.client_id) is None
        if not isinstance(command, Amend):
            return False
        if command.client_id:
            order = self._engine.find(command.owner, command.client_id)
        else:
            order = self._engine.order(command.oid, owner=command.owner)
        if order is None or not order.remaining:
            return False  # order_not_found (R13)
        keeps_terms = command.price in (None, order.price) and command.stop in (None, order.stop)
        return not keeps_terms or command.quantity >= order.quantity

    def _halt_for_space(self) -> None:
        is_open = self._engine.phase in (Phase.CONTINUOUS, Phase.AUCTION)
        if is_open and self.free_space < SPACE_FOR_TRADING:
            halt = SetPhase(ticker=self.ticker, phase=Phase.HALTED, why=_NO_SPACE.code)
            self._execute(halt, at=self._now(), sender=None, sees_all=True)

    def _note(
        self,
        events: Sequence[Event],
        first_seq: int,
        command_seq: int,
        at: int,
        *,
        sender: Session | None,
        owner: int | None,
    ) -> None:
        """Collect what the public and the owners of orders are told of a command's events.

        The record of event i is `first_seq` + i, but the command's own for those that come before.
        """
        time_text = ""
        for index, event in enumerate(events):
            seq = max(first_seq + index, command_seq)
            if isinstance(event, Trade):
                self.trades += 1
                time_text = time_text or format_time(at)
                self._trades.append(_public_trade(event, seq, time_text))
            elif isinstance(event, KeyRaised):
                self._close_sessions_of(event.owner)
            if self._watchers:
                for oid in _oids_of(event):
                    self._tell_order(self._open[oid], event, seq, at, sender=sender, owner=owner)

    def _tell_order(
        self,
        order: Order,
        event: Event,
        seq: int,
        at: int,
        *,
        sender: Session | None,
        owner: int | None,
    ) -> None:
        """Send an `order` message to all who want it but were not told by their answer."""
        for watched in (order.owner, None):
            watchers = self._watchers.get(watched)
            if watchers is None:
                continue
            change = OrderChange(seq, at, event, _state_of(order), with_owner=watched is None)
            for session in watchers:
                if session is not sender or order.owner != owner:
                    self._deliver(session.recipient, change)

    def _visible(self, events: Sequence[Event], owner: int) -> Sequence[Event]:
        """The events about orders of one owner, or about none."""
        if len(events) == 1:
            return events
        return [event for event in events if self._concerns(event, owner)]

    def _concerns(self, event: Event, owner: int) -> bool:
        oids = _oids_of(event)
        return not oids or any(self._open[oid].owner == owner for oid in oids)

    def _forget_ended(self, events: Sequence[Event]) -> None:
        for event in events:
            for oid in _oids_of(event):
                order = self._open.get(oid)
                if order is not None and not order.remaining:
                    del self._open[oid]

    # -- sessions

    def _login(self, session: Session, text: str, signature: str, req: int | None) -> None:
        now = self._now()
        try:
            self._gate.login(session, text, signature, now=now)
        except Denied as denied:
            self._deliver(session.recipient, Reply(req, self._refusal(denied, now)))
            return
        message = {**_head("login", req), "owner": session.owner, "venue": session.venue}
        self._deliver(session.recipient, message)

    def _subscribe_orders(self, session: Session, req: int | None, wanted: bool) -> None:
        self._unwatch(session)
        if not wanted:
            if req is not None:  # no snapshot answers it: a client that waits is told that it is so
                self._deliver(session.recipient, Reply(req, Answer()))
            return
        if not session.is_logged_in:
            self._deliver(session.recipient, Reply(req, self._refusal(_login_first(), self._now())))
            return
        session.wants_orders = True
        self._watchers.setdefault(session.owner, {})[session] = None
        self._tell_open_orders(session, req, None)

    def _unwatch(self, session: Session) -> None:
        if session.wants_orders:
            session.wants_orders = False
            watchers = self._watchers[session.owner]
            del watchers[session]
            if not watchers:
                del self._watchers[session.owner]

    def _find(
        self,
        session: Session,
        req: int | None,
        oid: int | None,
        client_id: str | None,
        owner: int | None,
    ) -> None:
        head = _head("found", req)
        try:
            owner = _readable_owner(session, owner)
        except Denied as denied:
            self._deliver(session.recipient, Reply(req, self._refusal(denied, self._now())))
            return
        if oid is not None:
            order = self._open.get(oid) or self._engine.order(oid, owner=owner)
        else:
            order = self._engine.find(owner if owner is not None else HOUSE, client_id or "")
        if order is None or (owner is not None and order.owner != owner):
            name = f"#{oid}" if oid is not None else f"with id {client_id}"
            error = protocol.event_to_dict(Rejected("order_not_found", f"no order {name}"))
            self._deliver(session.recipient, {**head, "seq": self._journal.seq, "error": error})
            return
        found = order_to_dict(order, with_owner=session.venue)
        self._deliver(session.recipient, {**head, "seq": self._journal.seq, "order": found})

    def _tell_open_orders(self, session: Session, req: int | None, owner: int | None) -> None:
        try:
            owner = _readable_owner(session, owner)
        except Denied as denied:
            self._deliver(session.recipient, Reply(req, self._refusal(denied, self._now())))
            return
        # All of them stand in `_open` already, in oid order.
        orders = self._open.values() if owner is None else self._engine.open_orders(owner)
        self._batch.events += len(orders) // TOLD_PER_EVENT
        message = OpenOrders(
            req=req,
            seq=self._journal.seq,
            position=None if owner is None else self._engine.position(owner),
            orders=[_state_of(order) for order in orders],
            with_owner=session.venue,
        )
        self._deliver(session.recipient, message)

    def _cancel_after(
        self,
        session: Session,
        seconds: int,
        req: int | None,
        arm: Callable[[int, int], None],
        owner: int | None,
    ) -> None:
        try:
            owner = _readable_owner(session, owner)
            if owner is None:
                raise Denied("bad_request", "a venue session names the owner of the switch")
        except Denied as denied:
            self._deliver(session.recipient, Reply(req, self._refusal(denied, self._now())))
            return
        arm(owner, seconds)
        message = {**_head("cancel_after", req), "owner": owner, "seconds": seconds}
        self._deliver(session.recipient, message)

    def _cancel_for_dead_man(self, owner: int) -> None:
        if self._engine.open_orders(owner):
            cancel = CancelAll(ticker=self.ticker, owner=owner, reason=CancelReason.DEAD_MAN)
            self._execute(cancel, at=self._now(), sender=None, sees_all=True)

    def _disconnect(self, session: Session) -> None:
        self._sessions.pop(session, None)
        self._unwatch(session)
        oids = sorted(session.cod_oids & self._open.keys())
        orders = (order for oid in oids if (order := self._open.get(oid)) is not None)
        cancels = (
            Cancel(
                ticker=self.ticker,
                owner=order.owner,
                oid=order.oid,
                reason=CancelReason.DISCONNECT,
            )
            for order in orders
        )
        self._queue.append(partial(self._cancel_lost, cancels))

    def _cancel_lost(self, cancels: Iterator[Cancel]) -> None:
        """Cancel the next order whose connection is gone, unless it has ended meanwhile.

        The others follow, before what came later: each counts as a command of its batch.
        """
        cancel = next(cancels, None)
        if cancel is None:
            return
        self._queue.appendleft(partial(self._cancel_lost, cancels))
        if cancel.oid in self._open:
            self._execute(cancel, at=self._now(), sender=None, sees_all=True)

    def _remember_cod(self, session: Session, oid: int) -> None:
        """Note an order to cancel; those that have ended are dropped now and then."""
        oids = session.cod_oids
        oids.add(oid)
        if len(oids) >= session.cod_prune_at:
            oids &= self._open.keys()
            session.cod_prune_at = 2 * len(oids) + 1024

    def _generation(self, owner: int) -> int:
        """The generation of the owner's key that counts: the higher of file and journal."""
        return max(self._generations.get(owner, 1), self._engine.generation(owner))

    def _close_sessions_of(self, owner: int) -> None:
        for session in self._sessions:
            if session.owner == owner:
                self._unwatch(session)
                session.is_logged_in = False
                self._deliver(session.recipient, Close(KEY_RAISED, "the key was raised"))


class _SeenSignatures:
    """Signatures of the last seconds with their answers, and those from before the start."""

    def __init__(self, recovered: Iterable[SeenSignature]) -> None:
        self._answers: dict[str, Answer] = {}
        self._arrivals: deque[tuple[int, str]] = deque()
        self._recovered = {seen.prefix: seen for seen in recovered}
        newest = max((seen.time for seen in self._recovered.values()), default=0)
        self._recovered_until = newest + SIGNATURE_MEMORY_US

    def answer(self, signature: str, now: int) -> Answer | None:
        """The answer that these signed bytes got before."""
        arrivals = self._arrivals
        while arrivals and arrivals[0][0] < now - SIGNATURE_MEMORY_US:
            self._answers.pop(arrivals.popleft()[1], None)
        return self._answers.get(signature)

    def recovered(self, signature: str, now: int) -> SeenSignature | None:
        """What the journal holds of these signed bytes from before the start."""
        if self._recovered and now > self._recovered_until:
            self._recovered.clear()
        return self._recovered.get(signature[:16])

    def add(self, signature: str, answer: Answer, now: int) -> None:
        self._answers[signature] = answer
        self._arrivals.append((now, signature))


_NO_SPACE = Rejected(
    "no_space", "the exchange's disk is nearly full: cancels work, new orders do not; try later"
)


def _login_first() -> Denied:
    """A new one for each: an error that is raised keeps whoever it was raised for."""
    return Denied("bad_signature", "log in first: orders are told to their owner only")


def _readable_owner(session: Session, asked: int | None) -> int | None:
    """Whose orders a session may read: its owner's; a venue session's are everybody's (None)."""
    if not session.is_logged_in:
        raise _login_first()
    if session.venue:
        return asked
    if asked is not None and asked != session.owner:
        raise Denied("not_owner", f"this session speaks for owner {session.owner} only")
    return session.owner


_NAMED_OWNER = re.compile("([0-9]{1,9}):", re.ASCII)


def _cut(text: str) -> str:
    """A text that was refused, as far as a command could go; no half of a key at its end."""
    if len(text) <= protocol.TEXT_LIMIT:
        return text
    return text[: protocol.TEXT_LIMIT].rstrip(hexdigits) + "..."


def _head(kind: str, req: int | None) -> JsonObject:
    return {"type": kind} if req is None else {"type": kind, "req": req}


def _pieces(
    head: JsonObject, lists: Mapping[str, Sequence[T]], to_json: Callable[[T], object]
) -> Iterator[bytes]:
    """The JSON of `head`, which has members, and of lists beside them, one piece after the other.

    >>> b"".join(_pieces({"seq": 7}, {"bids": [1, 2], "asks": []}, str))
    b'{"seq":7,"bids":["1","2"],"asks":[]}'
    """
    yield _encode(head)[:-1]
    for name, items in lists.items():
        yield f',"{name}":['.encode()
        for start in range(0, len(items), PIECE_ITEMS):
            piece = _encode([to_json(item) for item in items[start : start + PIECE_ITEMS]])[1:-1]
            yield b"," + piece if start else piece
        yield b"]"
    yield b"}"


def _feed_of(recovered: Recovered) -> Feed:
    """The public state of a market that nobody has seen yet."""
    engine = recovered.engine
    feed = Feed(reference=engine.reference, phase=engine.phase)
    engine.book.take_changed_levels()
    levels = [(side, *level) for side in Side for level in engine.book.levels(side)]
    trades = [
        _public_trade(past.trade, past.seq, format_time(past.time)) for past in recovered.trades
    ]
    feed.apply(
        Changes(
            seq=recovered.journal.seq,
            levels=levels,
            trades=trades,
            indicative=_indicative(engine),
            rules=_rules(engine),
        )
    )
    return feed


def _rules(engine: Engine) -> JsonObject:
    """What everybody may know of the product's rules: not who is excepted from them."""
    return protocol.rules_to_dict(engine.settings, engine.limits.product)


def _copied_rules(engine: Engine) -> tuple[dict[str, int], dict[str, int]]:
    return dict(engine.settings), dict(engine.limits.product)


def _indicative(engine: Engine) -> JsonObject | None:
    """What an auction would uncross at now, while there is one (R10, PROTOCOL §4)."""
    if engine.phase is not Phase.AUCTION:
        return None
    uncross = engine.indicative()
    if uncross is None:
        return None
    return {
        "price": format_price(uncross.price),
        "volume": uncross.volume,
        "surplus": uncross.surplus,
    }


def _answer_about(order: Order, events: Sequence[Event], *, seq: int | None = None) -> Answer:
    return Answer(
        seq=seq,
        oid=order.oid,
        status=order.status,
        filled=order.filled,
        remaining=order.remaining,
        events=events,
    )


def _oid_of_command(command: Command, first: Event | None) -> int:
    """The one order that a carried-out command is about; 0: none, or many."""
    if isinstance(first, Accepted | Amended | Canceled) and not isinstance(command, CancelAll):
        return first.oid
    return 0


def _ended_order(oid: int, command: NewOrder, events: Sequence[Event]) -> Order:
    """An order that ended as it came, and has no id by which the engine would remember it."""
    order = Account(command.owner, UNLIMITED).open(oid, command)
    for event in events:
        if isinstance(event, Trade) and oid in (event.buy_oid, event.sell_oid):
            order.open_quantity -= event.quantity
        elif isinstance(event, Decremented) and event.oid == oid:
            order.terms = replace(order.terms, quantity=order.quantity - event.quantity)
            order.open_quantity -= event.quantity
        elif isinstance(event, Canceled) and event.oid == oid:
            order.hidden = CANCELED
    return order


def _oids_of(event: Event) -> tuple[int, ...]:
    """The orders that an event changed."""
    match event:
        case Trade():
            return (event.buy_oid, event.sell_oid)
        case Accepted() | Canceled() | Triggered() | Amended() | Decremented():
            return (event.oid,)
        case _:
            return ()


def _public_trade(trade: Trade, seq: int, time_text: str) -> JsonObject:
    return {
        "tid": trade.tid,
        "seq": seq,
        "time": time_text,
        "price": format_price(trade.price),
        "quantity": trade.quantity,
        "taker": trade.taker or "none",
    }


def _state_of(order: Order) -> OrderState:
    return OrderState(order.oid, order.terms, order.open_quantity, order.canceled)


def order_to_dict(order: Order | OrderState, *, with_owner: bool) -> JsonObject:
    """PROTOCOL §4's JSON of an order; price null is a market order, id null is none."""
    terms, open_quantity = order.terms, order.open_quantity
    data: JsonObject = {
        "oid": order.oid,
        "id": terms.client_id or None,
        "side": terms.side,
        "price": protocol.price_or_null(terms.price),
        "stop": protocol.price_or_null(terms.stop),
        "tif": terms.tif,
        "stp": terms.stp,
        "post": terms.post,
        "peak": terms.peak,
        "quantity": terms.quantity,
        "filled": terms.quantity - open_quantity,
        "remaining": 0 if order.canceled else open_quantity,
        "status": status_of(terms, open_quantity, canceled=order.canceled),
    }
    if with_owner:
        data["owner"] = terms.owner
    return data
