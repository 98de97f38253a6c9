"""Who may speak for whom: the keys of a product, and what one connection may do (PROTOCOL §2, §4).

A connection begins with a nonce and no rights; each command on it carries its own signature. A
login over the nonce makes it the session of one owner, or of the venue, and from then on its
commands need no signature. Checks come in the order of PROTOCOL §2: size, syntax, ticker,
signature, ts, permission; the first that fails is the answer.

>>> keyring = Keyring("00" * 32)
>>> text = "7:buy intc 1@50 ts=1000"
>>> signature = signing.sign(signing.owner_key("00" * 32, 7), text)
>>> keyring.holder(text, signature, owner=7, generation=1)
<Holder.OWNER: 'owner'>
>>> keyring.holder(text, signature, owner=7, generation=2) is None
True
"""

from collections.abc import Callable
from enum import Enum

from matching import protocol, signing
from matching.order import (
    HOUSE,
    VENUE_COMMANDS,
    Amend,
    Cancel,
    CancelAll,
    Command,
    Login,
    NewOrder,
)
from matching.ports import Recipient

TIMESTAMP_WINDOW_US = 5_000_000
"""How far `ts=` may lie from the server's clock, either way, in microseconds."""

MAX_CACHED_KEYS = 100_000
"""Derived owner keys that are kept; deriving one costs as much as a signature."""


class Denied(Exception):
    """The command has no right to reach the engine: a code and a sentence of PROTOCOL §3."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Holder(Enum):
    """Whose key made a signature."""

    VENUE = "venue"
    OWNER = "owner"


class Keyring:
    """The venue key, and the owner keys derived from it."""

    def __init__(self, venue_key: str) -> None:
        self._venue_key = venue_key
        self._owner_keys: dict[tuple[int, int], str] = {}

    def holder(
        self, text: str, signature: str, *, owner: int | None, generation: int
    ) -> Holder | None:
        """Whose key signed `text`: the venue's is tried first, then the owner's; None: nobody's.

        `owner` None, or the house, has no key of its own.
        """
        if signing.is_authentic(self._venue_key, text, signature):
            return Holder.VENUE
        if owner is None or owner == HOUSE:
            return None
        if signing.is_authentic(self._owner_key(owner, generation), text, signature):
            return Holder.OWNER
        return None

    def _owner_key(self, owner: int, generation: int) -> str:
        key = self._owner_keys.get((owner, generation))
        if key is None:
            if len(self._owner_keys) >= MAX_CACHED_KEYS:
                self._owner_keys.clear()
            key = signing.owner_key(self._venue_key, owner, generation)
            self._owner_keys[owner, generation] = key
        return key


class Gate:
    """Every check that comes before the engine, for one product.

    `generation_of` tells the generation of an owner's key that counts.
    """

    def __init__(self, ticker: str, keyring: Keyring, generation_of: Callable[[int], int]) -> None:
        self._ticker = ticker
        self._keyring = keyring
        self._generation_of = generation_of

    def admit_signed(
        self, text: str, signature: str, *, now: int, trusted: bool
    ) -> tuple[Command, Holder]:
        """The command of a text sent by itself, and whose key signed it; Denied if it may not pass.

        `now` in µs. `trusted`: the peer's address is one from which the venue key counts.
        """
        command = _parse(text)
        if isinstance(command, Login):
            raise Denied("bad_request", "a login goes by op login on the WebSocket")
        if command.ts is None:
            column = len(text) + 1
            raise Denied("bad_syntax", f"column {column}: expected ts=, found the end")
        self._check_ticker(command)
        holder = self._check_signature(
            text, signature, owner_of(command), trusted=trusted, now=now, ts=command.ts
        )
        return command, holder

    def admit(self, session: "Session", text: str, *, now: int) -> Command:
        """The command of a text sent in a session, unsigned; Denied if it may not pass."""
        implied_owner = session.owner if session.owner is not None else HOUSE
        command = _parse(text, ticker=self._ticker, owner=implied_owner)
        if isinstance(command, Login):
            raise Denied("bad_request", "a login goes by op login on the WebSocket")
        self._check_ticker(command)
        if not session.is_logged_in:
            raise Denied("bad_signature", "without a login each command needs its signature")
        if command.ts is not None:
            check_timestamp(command.ts, now)
        session.check_permission(command)
        return command

    def login(self, session: "Session", text: str, signature: str, *, now: int) -> None:
        """Make a connection the session that the login text asks for; Denied if it may not be."""
        command = _parse(text)
        if not isinstance(command, Login):
            raise Denied("bad_request", "op login takes a login text")
        self._check_ticker(command)
        self._check_signature(
            text, signature, command.owner, trusted=session.trusted, now=now, ts=command.ts
        )
        session.begin(command)

    def _check_ticker(self, command: Command | Login) -> None:
        if command.ticker != self._ticker:
            raise Denied(
                "unknown_ticker", f"{command.ticker} is not traded here; this is {self._ticker}"
            )

    def _check_signature(
        self, text: str, signature: str, owner: int | None, *, trusted: bool, now: int, ts: int
    ) -> Holder:
        generation = 1 if owner is None else self._generation_of(owner)
        holder = self._keyring.holder(text, signature, owner=owner, generation=generation)
        if holder is None:
            raise Denied("bad_signature", "the signature is not one of this text by a key in force")
        check_timestamp(ts, now)
        if holder is Holder.VENUE and not trusted:
            raise Denied("venue_only", "the venue key does not count from this address")
        return holder


class Session:
    """The rights of one connection; `recipient` takes what it is told."""

    __slots__ = (
        "cod",
        "cod_oids",
        "cod_prune_at",
        "is_logged_in",
        "nonce",
        "owner",
        "recipient",
        "trusted",
        "venue",
        "wants_orders",
    )

    def __init__(self, recipient: Recipient, nonce: str, *, trusted: bool) -> None:
        self.recipient = recipient
        self.nonce = nonce
        self.trusted = trusted
        self.owner: int | None = None
        """The one owner it speaks for; None before a login, and for the venue's."""
        self.venue = False
        self.is_logged_in = False
        self.cod = False
        self.cod_oids: set[int] = set()
        """Its orders that are canceled when the connection goes; finished ones may linger."""
        self.cod_prune_at = 1024
        self.wants_orders = False

    def begin(self, login: Login) -> None:
        """Take the rights that a verified login names; Denied if its nonce is not ours."""
        if self.is_logged_in:
            raise Denied("bad_request", "this connection is logged in already")
        if login.nonce != self.nonce:
            raise Denied("bad_signature", "the nonce is not this connection's")
        self.owner = login.owner
        self.venue = login.owner is None
        self.cod = login.cod
        self.is_logged_in = True

    def check_permission(self, command: Command) -> None:
        """Denied if a session of one owner speaks for another, or for the venue."""
        if self.venue:
            return
        if isinstance(command, VENUE_COMMANDS):
            raise Denied("venue_only", "only a venue session may give this command")
        if owner_of(command) != self.owner:
            raise Denied("not_owner", f"this session speaks for owner {self.owner} only")


def check_timestamp(ts: int, now: int) -> None:
    """Denied if `ts` (ms) lies further than the window from `now` (µs)."""
    if abs(now - ts * 1000) > TIMESTAMP_WINDOW_US:
        raise Denied("stale_timestamp", "ts lies more than 5 s from the server's clock")


def _parse(text: str, *, ticker: str | None = None, owner: int = HOUSE) -> Command | Login:
    try:
        return protocol.parse(text, ticker=ticker, owner=owner)
    except protocol.BadSyntax as error:
        raise Denied("bad_syntax", str(error)) from error


def owner_of(command: Command) -> int | None:
    """The owner for whom a command speaks; None: it is the venue's."""
    match command:
        case NewOrder() | Cancel() | CancelAll() | Amend():
            return command.owner
        case _:
            return None
