"""What an engine decided, as the tests of the journal and its records write it down."""

from collections.abc import Sequence

from matching.engine import Engine
from matching.events import Event
from matching.order import Command, NewOrder, Side
from tests.matching.small_server import parse

T0 = 1_700_000_000_000_000
"""When it was decided, in microseconds."""


def order(owner: int, side: Side, quantity: int, price: int, **options: object) -> NewOrder:
    return NewOrder(
        ticker="intc",
        owner=owner,
        side=side,
        quantity=quantity,
        price=price,
        **options,
    )


def events_of(*texts: str) -> tuple[Command, Sequence[Event]]:
    """The last command and what an engine decides about it after the ones before."""
    engine = Engine("intc")
    for text in texts:
        command = parse(text)
        events = engine.apply(command, T0)
    return command, events
