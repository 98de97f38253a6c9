"""A new run: by hand, by a manager under serve.py, and killed at every step on the way."""

import asyncio
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import cast

import msgspec
import pytest
from pydal import DAL

from app.models import products, runrequest, runs
from app.models.db import close, now, rows, transaction
from app.models.products import Product
from app.models.runrequest import Progress, Request, Step
from log2db.verify import verify
from matching.client import ANSWER_SECONDS, Away, query
from matching.config import Var
from matching.disk import SystemDisk
from matching.exits import ExitCode, Fatal
from matching.journal import durable_path, read_header
from matching.order import Phase
from scripts import newrun
from scripts.newrun import NotDone
from tests.database import add_user, make_database, make_var, only_sqlite
from tests.log2db.journals import JournalFile
from tests.processes import running
from tests.scripts.test_serve import Market
from tests.scripts.venue import processes_of
from tests.waiting import wait_until

CASH = 100_000_000


@pytest.fixture
def db(var: Var) -> Iterator[DAL]:
    db = make_database(var)
    for name in ("alice", "bob"):
        add_user(db, name, cash="10000")
    yield db
    close(db)


def trade(var: Var, ticker: str = "intc", *, lineage: str = "1" * 16) -> JournalFile:
    """Alice buys 10 at 100 of Bob."""
    journal = JournalFile(var, ticker, lineage=lineage)
    journal.play(f"2:sell {ticker} 10@100", f"1:buy {ticker} 10@100")
    return journal


def end_run(var: Var, db: DAL) -> None:
    for _ in newrun.end_run(var, db, by=runs.BY_THE_OPERATOR, on_ended=lambda run: None):
        pass


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def cash(db: DAL) -> list[int]:
    with transaction(db):
        return [actual for (actual,) in rows(db, "SELECT actual_cash FROM auth_user ORDER BY id")]


def require_sound(var: Var, db: DAL, ticker: str, *, run: int) -> None:
    with closing(SystemDisk().open(var.run_journal_file(run, ticker))) as file:
        assert verify(db, file, ticker, None).differences == []


def test_what_nobody_had_settled_is_settled_and_all_files_of_the_journals_move(
    var: Var, db: DAL
) -> None:
    trade(var)
    trade(var, "gs")
    (var.journal_dir / "gs.torn").write_text("a tail")
    end_run(var, db)
    assert names(var.journal_dir) == []
    moved = ["gs.durable", "gs.log", "gs.settled", "gs.torn", "intc.durable", "intc.log"]
    assert names(var.run_folder(1)) == [*moved, "intc.settled"]
    assert var.run_folder(1).stat().st_mode & 0o777 == 0o700
    assert cash(db) == [CASH, CASH]
    with transaction(db):
        assert (runs.past(db)[0].tickers, runs.past(db)[0].trades) == (["gs", "intc"], 2)
    for ticker in ("gs", "intc"):
        require_sound(var, db, ticker, run=1)


class Killed(BaseException):
    """Stands for SIGKILL: nothing that we wrote catches it."""


def _kill_at(monkeypatch: pytest.MonkeyPatch, step: int) -> Callable[[], int]:
    """Die in the place of the `step`-th thing that is done to a disk or to the database."""
    done = 0

    def counted(work: Callable[..., object]) -> Callable[..., object]:
        def count(*arguments: object, **options: object) -> object:
            nonlocal done
            done += 1
            if done == step:
                raise Killed
            return work(*arguments, **options)

        return count

    for owner, name in (
        (newrun, "settle_rest"),
        (newrun, "_make_folder"),
        (newrun, "sync_folder"),
        (newrun, "_move_file"),
        (runs, "lock_table"),
        (runs, "execute"),
        (runs, "insert"),
        (runs, "insert_many"),
        (runs, "update_many"),
    ):
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))
    return lambda: done


def test_killed_at_any_step_nothing_has_changed_or_the_next_start_finishes_it(
    var: Var, db: DAL, monkeypatch: pytest.MonkeyPatch
) -> None:
    was_killed_before = was_killed_after = 0
    for step in range(1, 100):  # a run each
        trade(var, lineage=f"{step:016x}")
        trade(var, "gs", lineage=f"{step:016x}")
        files = [f"{ticker}.{kind}" for ticker in ("gs", "intc") for kind in ("durable", "log")]
        with monkeypatch.context() as patch:
            done = _kill_at(patch, step)
            with suppress(Killed):
                end_run(var, db)
        with transaction(db):
            has_ended = runs.present(db).number == step + 1
        newrun.put_away(var, db)
        if has_ended:
            was_killed_after += 1
            assert names(var.journal_dir) == []
            assert set(files) <= set(names(var.run_folder(step)))
        else:
            was_killed_before += 1
            assert set(files) <= set(names(var.journal_dir))
            with transaction(db):
                assert rows(db, "SELECT id FROM ledger WHERE deposit = 'F' AND amount = 0") == []
            end_run(var, db)
        assert cash(db) == [CASH, CASH]
        for ticker in ("gs", "intc"):
            require_sound(var, db, ticker, run=step)
        if done() < step:
            break
    else:
        pytest.fail("it takes more steps than were tried")
    assert was_killed_before >= 10
    assert was_killed_after >= 10


def _damage(var: Var, journal: JournalFile) -> None:
    data = journal.path.read_bytes()
    journal.path.write_bytes(data.replace(b" buy 10@", b" buy 90@"))


def _lose_the_mark(var: Var, journal: JournalFile) -> None:
    durable_path(journal.path).unlink()


def _write_more_than_was_synced(var: Var, journal: JournalFile) -> None:
    journal.try_to_play("1:buy intc 1@1")
    journal.commit(durable=False)


def _leave_a_folder(var: Var, journal: JournalFile) -> None:
    var.run_folder(1).mkdir(parents=True)
    (var.run_folder(1) / "intc.log").touch()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_damage, "its CRC differs"),
        (_lose_the_mark, "it has no durable mark"),
        (_write_more_than_was_synced, "what follows was never synced"),
        (_leave_a_folder, "is not empty"),
    ],
)
def test_what_cannot_be_trusted_is_named_and_nothing_is_changed(
    var: Var, db: DAL, spoil: Callable[[Var, JournalFile], None], words: str
) -> None:
    journal = trade(var)
    trade(var, "gs")
    spoil(var, journal)
    files = {path.name for path in var.journal_dir.iterdir()}
    with pytest.raises(NotDone, match=words) as not_done:
        end_run(var, db)
    assert not_done.value.code is ExitCode.DISK
    assert files <= {path.name for path in var.journal_dir.iterdir()}
    with transaction(db):
        assert runs.present(db).number == 1


def test_a_journal_that_is_not_here_keeps_the_run_from_ending(var: Var, db: DAL) -> None:
    """As when somebody names the wrong var/ and the right database."""
    trade(var)
    trade(var, "gs")
    for _ in newrun._settle("gs", var, db):
        pass
    var.journal_file("gs").rename(var.root / "gs.log")
    with pytest.raises(NotDone, match="followed a journal of gs, which is not in"):
        end_run(var, db)


def test_a_product_of_another_machine_keeps_the_run_from_ending(var: Var, db: DAL) -> None:
    trade(var)
    boss = add_user(db, "boss", manager=True)
    form = {"name": "far", "unit_price": "50", "active": "on"}
    form |= products.urls(9123, host="192.0.2.7")
    with transaction(db, write=True):
        products.register(db, products.validate(form), by=boss, at=now())
    with pytest.raises(NotDone, match=r"far is served at 192\.0\.2\.7, not on this machine"):
        end_run(var, db)
    assert "intc.log" in names(var.journal_dir)


@pytest.mark.parametrize("name", ["run/intc.lock", "run/log2db-intc.lock", "journal/intc.log"])
def test_a_journal_that_somebody_works_on_is_not_moved_from_under_them(
    var: Var, db: DAL, name: str
) -> None:
    trade(var)
    for _ in newrun._settle("intc", var, db):
        pass
    with transaction(db, write=True):
        runs.end_run(db, by=0, at=now())
    lock = SystemDisk().lock(var.root / name)
    with pytest.raises(NotDone, match="intc that was started by hand: stop it first"):
        newrun.put_away(var, db)
    assert "intc.log" in names(var.journal_dir)
    lock.release()
    assert newrun.put_away(var, db) == ["intc"]


def test_who_is_ending_may_hold_a_journal_a_moment_longer(var: Var, db: DAL) -> None:
    """The kernel takes a killed process's name first, and its locks after that."""
    trade(var)
    for _ in newrun._settle("intc", var, db):
        pass
    with transaction(db, write=True):
        runs.end_run(db, by=0, at=now())
    release = threading.Timer(0.05, SystemDisk().lock(var.lock_file("intc")).release)
    release.start()
    assert newrun.put_away(var, db) == ["intc"]
    release.join()


def test_what_a_killed_one_left_of_trying_the_folder_is_not_in_the_way(var: Var, db: DAL) -> None:
    trade(var)
    var.run_folder(1).mkdir(parents=True)
    for folder in (var.journal_dir, var.run_folder(1)):
        (folder / ".run-1").touch()
    end_run(var, db)
    assert ".run-1" not in {*names(var.run_folder(1)), *names(var.journal_dir)}
    assert "intc.log" in names(var.run_folder(1))


@pytest.mark.parametrize("step", [None, Step.CLOSING, Step.MOVING])
def test_what_became_of_a_request_does_not_hang_on_the_clock(
    var: Var, db: DAL, step: Step | None
) -> None:
    """It is set back by an hour between the request and the end of the run."""
    trade(var)
    request = Request(by=1, name="boss", run=1, asked_on=now() + 3_600_000_000)
    (var.run_dir / "newrun.request").write_bytes(msgspec.json.encode(request))
    if step is not None:
        runrequest.report(var, Progress(request, step, 1, now()))
    if step is Step.MOVING:
        end_run(var, db)
    newrun.judge_left_request(var, db, print)
    known = runrequest.progress(var)
    assert known is not None
    assert known.step is (Step.BEGUN if step is Step.MOVING else Step.FAILED)
    assert runrequest.pending(var) is None


def test_files_that_are_in_the_way_are_never_written_over(var: Var, db: DAL) -> None:
    trade(var)
    for _ in newrun._settle("intc", var, db):
        pass
    with transaction(db, write=True):
        runs.end_run(db, by=0, at=now())
    var.run_folder(1).mkdir(parents=True)
    var.run_journal_file(1, "intc").write_text("another")
    with pytest.raises(Fatal, match="there is a file of this name already") as fatal:
        newrun.put_away(var, db)
    assert fatal.value.code is ExitCode.DISK
    assert var.run_journal_file(1, "intc").read_text() == "another"
    assert read_header(SystemDisk().open(var.journal_file("intc"))).ticker == "intc"


@only_sqlite
@pytest.mark.parametrize("name", ["intc.lock", "log2db-intc.lock"])
def test_by_hand_it_names_what_was_started_by_hand_and_still_runs(
    var: Var, db: DAL, name: str
) -> None:
    trade(var)
    lock = SystemDisk().lock(var.run_dir / name)
    with running("scripts/zap.py", "--yes", var=var.root) as zap:
        assert zap.wait() == ExitCode.UNAVAILABLE
        assert "intc that was started by hand: stop it first" in zap.lines[-1]
    lock.release()
    with running("scripts/zap.py", "--yes", var=var.root) as zap:
        assert zap.wait() == 0
        assert zap.lines[0] == f"run 1 has ended; its journals go to {var.run_folder(1)}"
    assert names(var.journal_dir) == []


@only_sqlite
def test_by_hand_it_asks_first_and_finishes_what_a_killed_one_left(var: Var, db: DAL) -> None:
    trade(var)
    with running("scripts/zap.py", var=var.root) as zap:
        assert zap.wait() == ExitCode.USAGE
        assert zap.lines[-1].endswith("not confirmed; nothing was changed")
    for _ in newrun._settle("intc", var, db):
        pass
    with transaction(db, write=True):
        runs.end_run(db, by=0, at=now())
    with running("scripts/zap.py", "--yes", var=var.root) as zap:
        assert zap.wait() == 0
        assert zap.lines[0] == "moved the journals that were left of an ended run: intc"
    assert "intc.log" in names(var.run_folder(1))
    assert names(var.run_folder(2)) == []


def test_its_help_has_two_examples(tmp_path: Path) -> None:
    with running("scripts/zap.py", "-h", var=tmp_path) as zap:
        assert zap.wait() == 0
        examples = zap.output.partition("examples:")[2]
        assert "emte-zap" in examples
        assert "python scripts/zap.py --yes" in examples


# -- under serve.py


@pytest.fixture
def market(tmp_path: Path) -> Iterator[Market]:
    market = Market(make_var(tmp_path))
    yield market
    wait_until(lambda: processes_of(market.var.root) == {}, "the end of every process")


def ask(market: Market, *, run: int = 1) -> Request:
    request = Request(by=market.manager.id, name="boss", run=run, asked_on=now())
    wait_until(lambda: runrequest.supervisor(market.var), "the supervisor")
    runrequest.ask(market.var, request)
    return request


def outcome(market: Market, request: Request) -> tuple[Step, str]:
    def is_over() -> bool:
        known = runrequest.progress(market.var)
        return known is not None and known.request == request and known.is_over

    wait_until(is_over, "the end of the new run's beginning")
    known = runrequest.progress(market.var)
    assert known is not None
    return known.step, known.reason


def test_a_manager_begins_a_new_run_and_the_web_app_stays_up(market: Market) -> None:
    intc = market.register("intc")
    with running(*market.command, var=market.var.root) as serve:
        market.wait_for_quote(intc, 500_000)
        market.trade(intc, 3)
        market.wait_for("web", "log2db-intc")
        web = market.pid("web")
        before = read_header(SystemDisk().open(market.var.journal_file("intc")))
        request = ask(market)
        with pytest.raises(runrequest.Ungranted, match="under way already"):
            ask(market)
        assert outcome(market, request) == (Step.BEGUN, "")
        market.wait_for_quote(intc, 500_000)
        market.wait_for("log2db-intc")
        assert market.pid("web") == web
        after = read_header(SystemDisk().open(market.var.journal_file("intc")))
        assert before.lineage != after.lineage
        past = market.var.run_journal_file(1, "intc").read_text()
        assert " phase closed " in past
        step, reason = outcome(market, ask(market, run=1))
        assert (step, reason) == (Step.FAILED, "run 1 has ended already")
        market.trade(intc)
        wait_until(lambda: _trades(market) == 1, "the trade of the new run in the database")
        assert serve.interrupt() == 0
        assert "run 2 has begun" in serve.output
        assert "ended with" not in serve.output


def _trades(market: Market) -> int:
    with transaction(market.db):
        return sum(journal.trades for journal in runs.followed(market.db))


def test_what_cannot_be_done_is_said_and_the_markets_go_on(market: Market) -> None:
    intc = market.register("intc")
    with running(*market.command, var=market.var.root) as serve:
        market.wait_for_quote(intc, 500_000)
        market.trade(intc)
        JournalFile(market.var, "gs").path.write_text("no journal")
        step, reason = outcome(market, ask(market))
        assert step is Step.FAILED
        assert "gs.log" in reason
        assert _phase(intc) == "continuous"
        market.trade(intc)
        wait_until(lambda: _trades(market) == 2, "trading goes on")
        assert serve.interrupt() == 0
    assert not market.var.run_folder(1).exists()


def _phase(product: Product) -> str:
    with suppress(Away):
        return str(asyncio.run(query(f"{product.post_url}query"))["phase"])
    return "away"


def test_a_venue_that_is_to_stop_does_not_wait_for_a_market_that_is_to_close(
    market: Market,
) -> None:
    intc = market.register("intc")
    with running(*market.command, var=market.var.root) as serve:
        market.wait_for_quote(intc, 500_000)
        server = market.pid("match-intc")
        assert server is not None
        os.kill(server, signal.SIGSTOP)
        request = ask(market)
        serve.wait_for_line("boss asks for a new run$")
        os.kill(serve.pid, signal.SIGTERM)
        wait_until(
            lambda: "no new run: the venue was stopped meanwhile" in serve.output,
            "the end of the new run",
            patience_seconds=ANSWER_SECONDS / 2,
        )
        os.kill(server, signal.SIGCONT)
        assert serve.wait() == 0
        assert "Traceback" not in serve.output
    assert outcome(market, request)[0] is Step.FAILED


def test_where_nothing_can_be_said_of_a_new_run_none_is_begun(market: Market) -> None:
    """As on a full disk: who was killed then could not reopen the markets."""
    intc = market.register("intc")
    with running(*market.command, var=market.var.root) as serve:
        market.wait_for_quote(intc, 500_000)
        (market.var.run_dir / "newrun.progress").mkdir()  # no file can take its place
        ask(market)
        wait_until(lambda: runrequest.pending(market.var) is None, "room for the next request")
        assert _phase(intc) == "continuous"
        assert serve.interrupt() == 0
        assert f"no new run: cannot write to {market.var.run_dir}" in serve.output


class _Stranger(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"ticker": "intc"}')

    def log_message(self, *_: object) -> None:
        pass


def test_what_answers_like_no_matching_server_is_not_asked_to_close(market: Market) -> None:
    intc = market.register("intc")
    phases: list[dict[str, Phase]] = []

    def ask_for_phases() -> Iterator[None]:
        phases.append((yield from newrun._open_phases([intc])))

    with HTTPServer(("127.0.0.1", intc.port), _Stranger) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            for _ in ask_for_phases():
                pass
        finally:
            server.shutdown()
            thread.join()
    assert phases == [{}]


class _NotReadyTwice(BaseHTTPRequestHandler):
    """A matching server that recovers, until it has been asked twice."""

    asked = 0

    def do_POST(self) -> None:
        type(self).asked += 1
        if self.asked <= 2:
            body = b'{"error": {"code": "not_ready", "rule": "", "message": "recovers"}}'
        else:
            body = b'{"type": "answer", "seq": 9, "events": []}'
        self.send_response(503 if self.asked <= 2 else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class _Venue:
    """A venue whose servers are all up, as far as their processes tell."""

    def __init__(self, *served: Product) -> None:
        self.products = served

    def are_up(self) -> bool:
        return True


@pytest.fixture
def closed(market: Market) -> Iterator[_Venue]:
    """Closed for a new run which did not begin: a server recovers, another is away for good."""
    _NotReadyTwice.asked = 0
    intc, gs = market.register("intc"), market.register("gs")
    request = Request(by=1, name="ada", run=1, asked_on=now())
    phases = {"intc": "auction", "gs": "continuous", "gone": "continuous"}
    left = Progress(request, Step.FAILED, 1, now(), "the venue was stopped meanwhile", phases)
    runrequest.report(market.var, left)
    with HTTPServer(("127.0.0.1", intc.port), _NotReadyTwice) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield _Venue(intc, gs)
        finally:
            server.shutdown()
            thread.join()


def reopened(market: Market, venue: _Venue) -> Generator[None, None, None]:
    processes = cast("newrun.Processes", venue)
    return newrun.reopen_left(processes, market.var, market.db, key="0" * 64)


def left_phases(market: Market) -> dict[str, str]:
    known = runrequest.progress(market.var)
    assert known is not None
    return known.phases


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits so far, each of one step only; during one, nothing is on its way to a market."""
    waits: list[float] = []

    def wait(condition: Callable[[], bool], seconds: float) -> Iterator[None]:
        waits.append(seconds)
        yield

    monkeypatch.setattr(newrun, "_wait", wait)
    return waits


def until_paused(steps: Iterator[None], pauses: list[float], times: int = 1) -> None:
    pauses.clear()
    while pauses.count(newrun.AGAIN_SECONDS) < times:
        next(steps)


def test_a_market_that_is_not_ready_yet_is_asked_again_to_reopen(
    market: Market, closed: _Venue, pauses: list[float]
) -> None:
    steps = reopened(market, closed)
    until_paused(steps, pauses, times=3)
    assert _NotReadyTwice.asked == 3
    until_paused(steps, pauses)
    assert _NotReadyTwice.asked == 3, "it has taken it"
    steps.close()


def test_a_market_that_is_served_no_more_is_not_waited_for(
    market: Market, closed: _Venue, pauses: list[float]
) -> None:
    _NotReadyTwice.asked = 2  # it is ready
    closed.products = closed.products[:1]
    deque(reopened(market, closed), maxlen=0)
    assert newrun.AGAIN_SECONDS not in pauses
    assert left_phases(market) == {}


def test_a_market_is_not_asked_for_ever_to_reopen(
    market: Market, closed: _Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who closes it later on means it."""
    monkeypatch.setattr(newrun, "START_SECONDS", 0.0)
    deque(reopened(market, closed), maxlen=0)
    assert _NotReadyTwice.asked == 1
    assert left_phases(market) == {}


def test_a_venue_that_stops_meanwhile_leaves_to_the_next_what_is_not_done(
    market: Market, closed: _Venue, pauses: list[float]
) -> None:
    steps = reopened(market, closed)
    until_paused(steps, pauses)
    steps.close()
    assert set(left_phases(market)) == {"intc", "gs", "gone"}
    _NotReadyTwice.asked = 2  # it is ready
    steps = reopened(market, closed)
    until_paused(steps, pauses)
    steps.close()
    assert set(left_phases(market)) == {"gs", "gone"}


@pytest.mark.parametrize("moment", [Step.SETTLING, Step.STARTING])
def test_a_venue_that_is_killed_meanwhile_comes_back_whole(market: Market, moment: Step) -> None:
    intc = market.register("intc")
    with running(*market.command, var=market.var.root) as serve:
        market.wait_for_quote(intc, 500_000)
        market.trade(intc, 5)
        request = ask(market)
        wait_until(
            lambda: (known := runrequest.progress(market.var)) and known.step is moment,
            str(moment),
        )
        os.kill(serve.pid, signal.SIGKILL)
        assert serve.wait() == -signal.SIGKILL
    assert runrequest.supervisor(market.var) is None
    with pytest.raises(runrequest.Ungranted, match="Nobody is there"):
        runrequest.ask(market.var, request)
    with running(*market.command, var=market.var.root) as serve:
        step, _ = outcome(market, request)
        with transaction(market.db):
            ended = len(runs.past(market.db))
        assert ended == (moment is Step.STARTING)
        assert (step is Step.BEGUN) == (ended == 1)
        market.wait_for("match-intc", "log2db-intc", "web")
        wait_until(lambda: _phase(intc) == "continuous", "trading")
        assert serve.interrupt() == 0
    assert market.var.run_journal_file(1, "intc").exists() == (ended == 1)
