"""The page of a new run: who may ask, what it says, and what browsers see of a market's new run."""

import asyncio
import itertools
import re
import resource
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from app.models import runrequest, runs
from app.models.accounts import User
from app.models.db import now
from app.models.products import Product
from app.models.runrequest import Progress, Step
from matching.config import Var
from matching.disk import SystemDisk
from matching.pidfile import pidfile
from tests.app.test_realtime import watching
from tests.app.venue import JSON, Browser, Response, Web, running_match
from tests.waiting import free_port

ZAP = "/default/zap"
NUMBERS = itertools.count(1)


@contextmanager
def supervised(var: Var, *, name: str = "serve") -> Iterator[None]:
    """As if serve.py ran here: its pid file, and its lock."""
    lock = SystemDisk().lock(var.run_dir / runrequest.LOCK)
    try:
        with pidfile(var.run_dir, name):
            yield
    finally:
        lock.release()


@pytest.fixture(autouse=True)
def _no_request(web: Web) -> Iterator[None]:
    yield
    runrequest.forget(web.var)


def ask(browser: Browser, confirm: str = "zap") -> Response:
    return browser.post(ZAP, {"confirm": confirm}, JSON)


def test_a_manager_asks_and_is_told_how_far_it_is(web: Web, manager: User, away: Product) -> None:
    browser = web.browser(manager)
    with supervised(web.var, name="demo"):
        page = browser.get(f"{ZAP}.json").json()
        assert (page["run"], page["is_supervised"], page["progress"]) == (1, True, None)
        assert page["products"] == [{"ticker": "away", "state": "away", "trades": 0}]
        answer = browser.post(ZAP, {"confirm": "zap"})
        assert (answer.status, answer.headers["location"]) == (303, ZAP)
        text = browser.get(ZAP).text
        assert "manager1 asked for a new run at " in text
        assert '<li data-step="asked" data-state="now">' in text
        request = runrequest.pending(web.var)
        assert request is not None
        assert (request.by, request.name) == (manager.id, "manager1")
        for step, states in (
            (Step.SETTLING, ["done", "done", "now", "to come", "to come", "to come"]),
            (Step.BEGUN, ["done"] * 6),
        ):
            runrequest.report(web.var, Progress(request, step, 1, now()))
            told = browser.get(f"{ZAP}.json").json()["progress"]
            assert [known["state"] for known in told["steps"]] == states
            assert told["is_over"] == (step is Step.BEGUN)
        failed = Progress(request, Step.FAILED, 1, now(), "<gs> is damaged")
        runrequest.finish(web.var, failed)
        assert "No new run: &lt;gs&gt; is damaged. The present one goes on" in browser.get(ZAP).text
        assert ask(browser).status == 200, "there is room for another"


def test_nothing_but_the_word_confirms(web: Web, manager: User) -> None:
    browser = web.browser(manager)
    with supervised(web.var):
        for word in ("", "ZAP", " zap", "zap ", "zapp", "yes"):
            answer = ask(browser, word)
            assert answer.status == 400, word
            assert answer.json()["errors"]["confirm"] == "Type the word zap, and nothing else"
        assert "Type the word zap, and nothing else" in browser.post(ZAP, {"confirm": "x"}).text
        assert browser.post(ZAP, {"confirm": "zap", "again": 2}, JSON).error == "bad_request"
    assert runrequest.pending(web.var) is None


def test_the_second_of_two_is_told_that_one_is_under_way(
    web: Web, manager: User, trader: User
) -> None:
    browser = web.browser(manager)
    with supervised(web.var):
        assert ask(browser).status == 200
        first = runrequest.pending(web.var)
        answer = ask(browser)
        assert answer.status == 400
        assert answer.json()["errors"]["confirm"] == "A new run is under way already"
        assert runrequest.pending(web.var) == first


@pytest.mark.parametrize("left", ["nothing", "a pid file", "our own pid", "a lock"])
def test_without_a_supervisor_the_page_says_what_to_type(
    web: Web, manager: User, left: str
) -> None:
    """Also after one was killed: its pid file stays, and its number may be another's by now."""
    path = web.var.run_dir / "serve.pid"
    browser = web.browser(manager)
    if left == "a pid file":
        path.write_text("99999999\n")
    elif left == "our own pid":
        path.write_text("1\n")
    with ExitStack() as held:
        if left == "a lock":
            lock = SystemDisk().lock(web.var.run_dir / runrequest.LOCK)
            held.callback(lock.release)
        text = browser.get(ZAP).text
        assert "bash stop_all.sh" in text
        assert "python scripts/zap.py" in text
        assert re.search('id="ask" hidden', text)
        assert ask(browser).json()["errors"]["confirm"].startswith("Nobody is there")
    path.unlink(missing_ok=True)
    assert runrequest.pending(web.var) is None


def test_only_managers_with_our_form_may_ask(web: Web, manager: User, trader: User) -> None:
    with supervised(web.var):
        assert ask(web.browser(trader)).error == "managers_only"
        assert ask(web.browser()).error == "login_required"
        form = {"Content-Type": "application/x-www-form-urlencoded", **JSON}
        answer = web.browser(manager).request("POST", ZAP, body=b"confirm=zap", headers=form)
        assert (answer.status, answer.error) == (403, "bad_xsrf")
        assert runrequest.pending(web.var) is None
    assert ZAP in web.browser(manager).get("/default/products").text
    assert ZAP not in web.browser(trader).get("/default/products").text


def test_past_runs_are_listed_with_who_ended_them(web: Web, manager: User, away: Product) -> None:
    with web.database(write=True) as db:
        runs.end_run(db, by=manager.id, at=1_700_000_000_000_000)
        runs.end_run(db, by=runs.BY_THE_OPERATOR, at=1_700_000_060_000_000)
    browser = web.browser(manager)
    page = browser.get(f"{ZAP}.json").json()
    assert (page["run"], page["begun"]) == (3, "2023-11-14T22:14:20.000000Z")
    assert [(run["run"], run["by"], run["trades"]) for run in page["past"]] == [
        (2, "the operator", 0),
        (1, "manager1", 0),
    ]
    assert browser.get(f"{ZAP}.csv").text.startswith("run,begun,ended,by,products,trades\r\n2,")


def test_the_form_of_a_run_ends_no_later_one(web: Web, manager: User) -> None:
    """A phone with a bad line sends a form again, when the run that it was meant for is over."""
    browser = web.browser(manager)
    with supervised(web.var):
        text = browser.get(ZAP).text
        shown = re.search('name="run" value="([0-9]+)"', text)
        assert shown is not None
        form = {"confirm": "zap", "run": shown[1]}
        assert browser.post(ZAP, form, JSON).status == 200
        request = runrequest.pending(web.var)
        assert request is not None
        assert request.run == int(shown[1])
        runrequest.forget(web.var)
        with web.database(write=True) as db:
            runs.end_run(db, by=manager.id, at=now())
        for again in (form, {"confirm": "zap", "run": "x"}):
            answer = browser.post(ZAP, again, JSON)
            assert answer.status == 400
            assert "is not under way" in answer.json()["errors"]["confirm"]
        assert runrequest.pending(web.var) is None


def test_on_a_full_disk_nothing_is_asked_for_and_nothing_is_left(web: Web) -> None:
    asks = runrequest.Request(by=1, name="boss", run=1, asked_on=now())
    with supervised(web.var):
        before = set(web.var.run_dir.iterdir())
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
        try:
            with pytest.raises(runrequest.Ungranted, match="File too large"):
                runrequest.ask(web.var, asks)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert set(web.var.run_dir.iterdir()) == before


def test_a_file_that_holds_no_request_is_none(web: Web, manager: User) -> None:
    for name in ("newrun.request", "newrun.progress"):
        (web.var.run_dir / name).write_bytes(b'{"by": "x"}')
    assert runrequest.pending(web.var) is None
    assert runrequest.progress(web.var) is None
    assert web.browser(manager).get(ZAP).status == 200
    (web.var.run_dir / "newrun.progress").unlink()


def test_browsers_are_greeted_again_when_a_market_begins_anew(
    web: Web, manager: User, trader: User
) -> None:
    ticker, port = f"z{next(NUMBERS)}", free_port()
    browser = web.browser(trader)

    async def scenario() -> None:
        async with watching(web, ticker, browser) as watch:
            await watch.newest("hello", "snapshot", "orders", "upstream")
            first = next(message for message in watch.heard if message["type"] == "hello")
            await asyncio.to_thread(server.terminate)
            await watch.until("upstream", lambda message: message["state"] == "away")
            for path in web.var.journal_dir.glob(f"{ticker}.*"):
                path.unlink()
            before = watch.taken = len(watch.heard)
            with running_match(web.var, ticker, port):
                hello, snapshot, orders, _ = await watch.newest(
                    "hello", "snapshot", "orders", "upstream"
                )
                assert hello["lineage"] != first["lineage"]
                assert "nonce" not in hello
                heard = enumerate(watch.heard[before:])
                newest = {message["type"]: place for place, message in heard}
                assert newest["hello"] < newest["snapshot"] < newest["orders"]
                assert (snapshot["bids"], orders["orders"]) == ([], [])

    with running_match(web.var, ticker, port) as server:
        product = web.add_product(ticker, by=manager, port=port)
        web.wait_until_live(product)
        form = {"product": product.id, "type": "buy", "quantity": 1, "price": "50"}
        assert browser.post("/default/order", form, JSON).status == 200
        asyncio.run(scenario())
