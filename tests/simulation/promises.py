"""What a server has let out of its process, to be held against what is there after a crash.

A promise holds from the moment at which the server lets it go, whether it ever arrives or not.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

from matching.events import Duplicate
from matching.exchange import Answer, Batch
from matching.journal import Mark
from matching.order import Command, NewOrder

if TYPE_CHECKING:
    from tests.simulation.client import Request


class CarriedOut(NamedTuple):
    """An answer that said so: the record of the command, its order, and whose words they were."""

    seq: int
    oid: int | None
    request: "Request"


class Promises:
    """`data` are the journal's bytes that are settled; all else is since the last `begin`, but
    what clients know of ids.
    """

    def __init__(self) -> None:
        self.asked: set[Command] = set()
        """Every command that anybody ever sent, without its `ts`."""
        self.data = bytearray()
        self.seq = 0
        """The last record that anybody was told of, or could see."""
        self.carried_out: list[CarriedOut] = []
        self.trades: list[dict[str, Any]] = []
        self.oids: dict[tuple[int, str], int] = {}
        self.missing: dict[tuple[int, str], int] = {}
        """Ids that were not found, and the last record that was looked through."""
        self.answers = 0

    def begin(self, data: bytes, seq: int) -> None:
        """A server goes on with this journal, which keeps all that was promised."""
        self.data = bytearray(data)
        self.seq = seq
        self.carried_out.clear()
        self.trades.clear()

    def forgive(self, seq: int) -> None:
        """The power failed under a server that answered before it synced: this is all there is."""
        self.data.clear()
        self.seq = min(self.seq, seq)
        self.carried_out = [each for each in self.carried_out if each.seq <= seq]
        self.trades = [trade for trade in self.trades if trade["seq"] <= seq]
        self.oids.clear()
        self.missing.clear()

    def note_batch(self, batch: Batch) -> None:
        """It is settled: everybody may see it."""
        if batch.changes is None:
            return
        self.data += batch.data
        mark = Mark.decode(batch.mark, "the batch's mark")
        assert mark is not None
        assert mark.seq == batch.changes.seq, "the feed and the mark are not of one batch"
        self.seq = mark.seq
        self.trades += batch.changes.trades

    def note_answer(self, request: "Request", answer: Answer) -> None:
        """It is on its way to who asked."""
        self.answers += 1
        if answer.error is not None:
            return
        first = answer.events[0] if answer.events else None
        is_order = isinstance(request.command, NewOrder)
        if is_order and request.client_id:
            assert answer.oid is not None
            key = (request.owner, request.client_id)
            known = self.oids.setdefault(key, answer.oid)
            assert known == answer.oid, f"{key} is order {known}, and now {answer.oid}"
        if answer.seq is not None:
            assert answer.seq <= self.seq, "an answer left before its record was settled"
            self.carried_out.append(CarriedOut(answer.seq, answer.oid, request))
        else:
            assert isinstance(first, Duplicate), "carried out, but nothing is in the journal"

    def note_message(self, message: dict[str, Any], asked: "list[Request] | None") -> None:
        """A message that is no answer to a command."""
        if "seq" in message:
            assert message["seq"] <= self.seq, f"{message['type']} left before its record"
        if message["type"] == "found" and asked is not None:
            key = (asked[0].owner, asked[0].client_id)
            if "order" in message:
                known = self.oids.setdefault(key, message["order"]["oid"])
                assert known == message["order"]["oid"]
            elif message["error"]["code"] == "order_not_found":
                self.missing[key] = max(message["seq"], self.missing.get(key, 0))
