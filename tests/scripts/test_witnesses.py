"""What witnesses of a kill say of orders, and where a journal contradicts them."""

import asyncio
import random
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from app.models import products
from app.models.products import Product
from matching.config import Var, load_venue_key
from scripts.witnesses import JournalOrders, Order, Post, Session, Way, Witness
from tests.processes import Process, running
from tests.waiting import PATIENCE_SECONDS, free_port

TOLD = 20
"""So many outcomes before a kill, and after it."""


def product_at(port: int) -> Product:
    form = {"name": "intc", "unit_price": "100", "port": str(port), "active": "on"}
    return Product(id=1, **msgspec.structs.asdict(products.validate(form)))


async def until_told(witness: Witness, count: int) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(witness.told) < count:
            await asyncio.sleep(0.005)


async def until_sending(witness: Witness) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not witness.is_sending:
            await asyncio.sleep(0)
        await asyncio.sleep(0)


def start(var: Var, port: int) -> Process:
    server = Process("-m", "matching.matchingserver", "-p", str(port), "-t", "intc", var=var.root)
    server.wait_for_line("listening on")
    return server


@pytest.mark.parametrize("kind", ["session", "post"])
def test_a_witness_sees_each_order_through_a_kill_and_agrees_with_the_journal(
    tmp_path: Path, kind: str
) -> None:
    var, port = Var(tmp_path), free_port()
    var.make()
    key, product = load_venue_key(var), product_at(port)
    way: Way = Session(product, 7, key) if kind == "session" else Post(product, key)
    witness = Witness(way, product, 7, random.Random(1))

    async def trade() -> None:
        trading = asyncio.create_task(witness.trade())
        for _ in range(3):
            await until_told(witness, len(witness.told) + TOLD)
            await until_sending(witness)
            await asyncio.to_thread(servers[-1].kill)
            servers.append(await asyncio.to_thread(start, var, port))
        await until_told(witness, len(witness.told) + TOLD)
        witness.stop()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await trading

    servers = [start(var, port)]
    try:
        asyncio.run(trade())
    finally:
        for server in servers:
            server.end()
    journal = JournalOrders(var.journal_file("intc"))
    assert journal.read_on() >= max(order.seq for order in witness.told)
    assert witness.in_doubt == witness.contradictions == []
    assert [journal.difference(order) for order in witness.told] == [""] * len(witness.told)
    assert len({order.oid for order in witness.told}) == len(witness.told) >= 4 * TOLD


def test_what_the_journal_has_otherwise_is_told(tmp_path: Path) -> None:
    var, port = Var(tmp_path), free_port()
    var.make()
    key, product = load_venue_key(var), product_at(port)
    witness = Witness(Post(product, key), product, 7, random.Random(1))

    async def trade() -> None:
        trading = asyncio.create_task(witness.trade())
        await until_told(witness, 1)
        witness.stop()
        await trading

    with running(
        "-m", "matching.matchingserver", "-p", str(port), "-t", "intc", var=tmp_path
    ) as server:
        server.wait_for_line("listening on")
        asyncio.run(trade())
        server.kill()
    journal = JournalOrders(var.journal_file("intc"))
    journal.read_on()
    order = witness.told[0]
    name = f"order {order.command.client_id} of owner 7"
    for told, difference in (
        (order, ""),
        (replace(order, oid=2), f"{name} was acknowledged as #2; the journal has #1"),
        (
            replace(order, oid=None, refused="bad_lot"),
            f"{name} was refused (bad_lot); the journal has #1",
        ),
    ):
        assert journal.difference(told) == difference
    empty = JournalOrders(tmp_path / "nothing.log")
    assert empty.read_on() == 0
    assert empty.difference(Order(order.command, oid=1)) == (
        f"{name} was acknowledged as #1; the journal has nothing of it"
    )
