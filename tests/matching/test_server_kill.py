"""kill -9 under load: every order that was acknowledged is there again, with its oid."""

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest

from matching.client import Away, Client, Unanswered, post_order
from tests.processes import Process, running
from tests.waiting import PATIENCE_SECONDS, free_port

TRADERS = 4
ORDERS_BEFORE_KILL = 400


class Trader:
    """Sends orders with ids over its own session, and keeps what it was told."""

    def __init__(self, url: str, key: str, owner: int, rng: random.Random) -> None:
        self.owner = owner
        self._url = url
        self._client = Client(url, ticker="intc", key=key, owner=None)
        self._rng = rng
        self.sent: dict[str, str] = {}
        self.acknowledged: dict[str, dict[str, Any]] = {}

    def _next_text(self) -> str:
        client_id = f"k{self.owner}-{len(self.sent)}"
        side = self._rng.choice(("buy", "sell"))
        price = 5_000 + self._rng.randint(-5, 5)
        quantity = self._rng.randint(1, 9)
        text = (
            f"{self.owner}:{side} intc {quantity}@{price // 100}.{price % 100:02d} id={client_id}"
        )
        self.sent[client_id] = text
        return text

    async def trade_until_killed(self) -> None:
        await self._client.connect()
        await self._client.login()
        try:
            while True:
                texts = [self._next_text() for _ in range(self._rng.randint(1, 12))]
                answers = await self._client.send_many(texts)
                for text, answer in zip(texts, answers, strict=True):
                    self.acknowledged[text.partition(" id=")[2]] = answer
        except (Unanswered, Away):
            pass
        finally:
            await self._client.close()

    async def check_everything_is_there(self) -> None:
        """Ask for each acknowledged order by its id, then send all again as they were sent."""
        await self._client.connect()
        await self._client.login()
        for client_id, answer in self.acknowledged.items():
            found = await self._client.find(client_id=client_id, owner=self.owner)
            assert found["order"]["oid"] == answer["oid"], client_id
            assert found["order"]["filled"] >= answer["filled"], client_id
        again = await self._client.send_many(self.sent.values())
        for client_id, answer in zip(self.sent, again, strict=True):
            if client_id in self.acknowledged:
                assert answer["oid"] == self.acknowledged[client_id]["oid"]
                assert [event["event"] for event in answer["events"]] == ["duplicate"]
            else:
                assert answer["events"][0]["event"] in ("duplicate", "accepted")
        await self._client.close()


def start(var: Path, port: int) -> Process:
    return Process("matching/matchingserver.py", "-p", str(port), "-t", "intc", var=var)


@pytest.mark.parametrize("seed", range(3))
def test_every_acknowledged_order_survives_a_kill_under_load(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    port = free_port()
    url = f"ws://127.0.0.1:{port}/realtime"

    async def trade_and_kill(process: Process, traders: list[Trader]) -> None:
        trading = [asyncio.create_task(trader.trade_until_killed()) for trader in traders]
        wanted = ORDERS_BEFORE_KILL + rng.randint(0, 200)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while sum(len(trader.acknowledged) for trader in traders) < wanted:
                await asyncio.sleep(0)
            await asyncio.to_thread(process.kill)
            await asyncio.gather(*trading)

    async def check(traders: list[Trader]) -> None:
        await asyncio.gather(*(trader.check_everything_is_there() for trader in traders))

    process = start(tmp_path, port)
    try:
        process.wait_for_line("listening on")
        key = (tmp_path / "venue.key").read_text().strip()
        traders = [Trader(url, key, owner, random.Random(owner)) for owner in range(1, TRADERS + 1)]
        asyncio.run(trade_and_kill(process, traders))
        process.wait()
        oids = [each["oid"] for trader in traders for each in trader.acknowledged.values()]
        assert len(oids) == len(set(oids)) >= ORDERS_BEFORE_KILL
    finally:
        process.end()
    process = start(tmp_path, port)
    try:
        process.wait_for_line("listening on")
        asyncio.run(check(traders))
        assert process.terminate() == 0
    finally:
        process.end()


def test_a_signed_post_repeated_after_a_kill_gets_a_duplicate(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}/"
    line = ("matching/matchingserver.py", "-p", str(port), "-t", "intc")
    with running(*line, var=tmp_path) as process:
        process.wait_for_line("listening on")
        key = (tmp_path / "venue.key").read_text().strip()
        # As late as it may be: the restart has nine seconds before the repeat is stale.
        text = f"7:buy intc 5@50 ts={asyncio.run(_server_time(port)) + 4_500}"
        first = asyncio.run(post_order(url, text, key))
        process.kill()
    with running(*line, var=tmp_path) as process:
        process.wait_for_line("listening on")
        again = asyncio.run(post_order(url, text, key))
        assert (again["oid"], again["seq"]) == (first["oid"], first["seq"])
        assert again["events"] == [{"event": "duplicate", "oid": first["oid"]}]


async def _server_time(port: int) -> int:
    client = Client(f"ws://127.0.0.1:{port}/realtime", ticker="intc")
    await client.connect()
    now = client.clock.now_ms()
    await client.close()
    return now
