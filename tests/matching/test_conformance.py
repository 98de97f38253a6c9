"""`python -m matching.conformance`: right engines pass, wrong ones fail and are told why."""

import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from matching.conformance import SCENARIOS, Product, main
from tests.processes import ROOT
from tests.waiting import PATIENCE_SECONDS, wait_until

PRIORITY = str(SCENARIOS / "01-priority.txt")
PRIORITY_LINES = Path(PRIORITY).read_text(encoding="utf-8").splitlines()
IN_PRIORITY = sum(line.startswith("== ") for line in PRIORITY_LINES)

HEAD = "import json, os, signal, sys, time\n"
OURS = "from matching.conformance import Product\nproduct = Product()\n"


@pytest.fixture
def conformance(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> "Conformance":
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(ROOT)
    return Conformance(tmp_path, capsys)


class Conformance:
    """Runs the command; an engine is a body for `for line in sys.stdin`, put into a file."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._capsys = capsys

    def run(self, *arguments: str) -> tuple[int, str]:
        """Exit code and what is printed."""
        try:
            code = main(arguments)
        except SystemExit as stop:
            code = int(stop.code or 0)
        printed = self._capsys.readouterr()
        return code, printed.out + printed.err

    def engine(self, body: str) -> list[str]:
        """The command that starts an engine which does so for each line."""
        loop = "for line in sys.stdin:\n    line = line.rstrip('\\n')\n"
        path = self.folder / "engine.py"
        head = HEAD + OURS if "product" in body else HEAD
        path.write_text(head + loop + textwrap.indent(textwrap.dedent(body), "    "))
        return ["--", sys.executable, str(path)]

    def scenarios(self, text: str) -> str:
        """A file of scenarios."""
        path = self.folder / "some.txt"
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return str(path)


TWO = """
    == R1 Who comes first trades first
    1:sell intc 1@50 | #1 accepted
    2:sell intc 1@50 | #2 accepted
    3:buy intc 1@50  | #3 accepted; trade 1@50.00 maker #1 taker #3

    == R2 A market order never rests
    1:buy intc 1 | #1 accepted; #1 canceled 1 no_liquidity
"""
RIGHT = "print(product.answer(line), flush=True)"


def test_our_engine_keeps_all_rules_over_stdin_and_stdout() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "matching.conformance"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=4 * PATIENCE_SECONDS,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert re.search(r"^R18 +\d+ +-$", done.stdout, re.MULTILINE)
    played = re.search(r"^all +(\d+) +-$", done.stdout, re.MULTILINE)
    assert played is not None
    assert int(played[1]) > 300


def test_somebodys_engine_that_is_right_passes(conformance: Conformance) -> None:
    code, printed = conformance.run(PRIORITY, *conformance.engine(RIGHT))
    assert code == 0
    count = IN_PRIORITY
    assert re.fullmatch(rf"rule +scenarios +failed\nR1 +{count} +-\nall +{count} +-\n", printed)


PRO_RATA = """
    first, _, text = line.partition(" ")
    if first == "new":
        resting, oid, tid = [], 0, 0  # of sells: [oid, quantity, price]
        print("ok", flush=True)
        continue
    side, _, amount = text.partition(":")[2].partition(" intc ")
    quantity, price = amount.split("@")
    oid, quantity = oid + 1, int(quantity)
    events = [{"event": "accepted", "oid": oid}]
    if side == "sell":
        resting.append([oid, quantity, price])
    else:
        total = sum(order[1] for order in resting)
        for order in resting:
            tid, share = tid + 1, quantity * order[1] // total
            trade = {"event": "trade", "tid": tid, "price": price, "quantity": share}
            events.append(trade | {"buy": oid, "sell": order[0], "taker": "buy"})
    print(json.dumps(events), flush=True)
"""


def test_an_engine_that_matches_pro_rata_is_told_so(conformance: Conformance) -> None:
    lines = PRIORITY_LINES
    title = "R1 A large order gets no larger share than its place in the queue gives it"
    begin = lines.index(f"== {title}") + 1
    code, printed = conformance.run(f"{PRIORITY}:{begin}", *conformance.engine(PRO_RATA))
    assert code == 1
    row = begin + next(i for i, line in enumerate(lines[begin:], 1) if line.startswith("3:buy"))
    shares = "trade 10@50.25 maker #1 taker #3; trade 90@50.25 maker #2 taker #3"
    assert printed.splitlines()[:4] == [
        f"tests/scenarios/01-priority.txt:{row}: {title}",
        "    row       3:buy intc 100@50.25",
        "    expected  #3 accepted; trade 100@50.25 maker #1 taker #3",
        f"    found     #3 accepted; {shares}",
    ]
    assert re.search(r"^R1 +1 +1$", printed, re.MULTILINE)


def test_a_silent_engine_is_given_up(conformance: Conformance) -> None:
    engine = conformance.engine("pass")
    code, printed = conformance.run("--seconds", "0.1", PRIORITY, *engine)
    assert code == 1
    assert printed.count("found     no answer within 0.1 s") == 3
    assert f"The engine is given up; {IN_PRIORITY - 3} scenarios were not played." in printed


def test_an_engine_that_hangs_in_one_scenario_plays_the_others(conformance: Conformance) -> None:
    engine = conformance.engine("if '3:buy' in line: time.sleep(1000)\n" + RIGHT)
    code, printed = conformance.run("--seconds", "2", conformance.scenarios(TWO), *engine)
    assert code == 1
    assert "some.txt:5: R1 Who comes first trades first" in printed
    assert "row       3:buy intc 1@50" in printed
    assert "no answer within 2 s" in printed
    assert re.search(r"^R1 +1 +1\nR2 +1 +-$", printed, re.MULTILINE)


@pytest.mark.parametrize(
    ("death", "how"),
    [
        ("sys.exit(3)", "the engine ended with exit code 3"),
        ("os.kill(os.getpid(), signal.SIGKILL)", f"the engine ended by signal {signal.SIGKILL:d}"),
        ("print('[{\"ev', end='', flush=True); sys.exit()", "the engine ended with exit code 0"),
    ],
)
def test_an_engine_that_dies_in_one_scenario_plays_the_others(
    conformance: Conformance, death: str, how: str
) -> None:
    engine = conformance.engine(f"if '3:buy' in line: {death}\n" + RIGHT)
    code, printed = conformance.run(conformance.scenarios(TWO), *engine)
    assert code == 1
    assert f"    found     {how}\n" in printed
    assert re.search(r"^R1 +1 +1\nR2 +1 +-$", printed, re.MULTILINE)


def test_an_engine_that_dies_at_once_is_given_up(conformance: Conformance) -> None:
    code, printed = conformance.run(PRIORITY, *conformance.engine("sys.exit(1)"))
    assert code == 1
    assert printed.count("the engine ended with exit code 1") == 3
    assert f"The engine is given up; {IN_PRIORITY - 3} scenarios were not played." in printed


def test_an_engine_that_says_more_than_it_is_asked_is_told_so(conformance: Conformance) -> None:
    engine = conformance.engine("os.write(1, (product.answer(line) + '\\ndone\\n').encode())")
    code, printed = conformance.run(conformance.scenarios(TWO), *engine)
    assert code == 1
    assert "it says more than it is asked: 'done\\n'" in printed


def test_an_engine_that_babbles_without_end_is_not_read_for_ever(
    conformance: Conformance,
) -> None:
    engine = conformance.engine("while True: sys.stdout.write('bla' * 100_000)")
    code, printed = conformance.run(conformance.scenarios(TWO), *engine)
    assert code == 1
    assert "more than 1,048,576 bytes without an end of line" in printed


NO_ANSWERS = {
    "ok": "not JSON (",
    "[" * 100_000: "not JSON (maximum recursion depth",
    '[{"event":"accepted"}]': 'not an answer (\'oid\' is missing): [{"event":"accepted"}]',
    '[{"event":"joy"}]': "not an answer (no event is called 'joy')",
    "{}": "not an answer ('error' is missing)",
    "7": "not an answer (",
    "[7]": "not an answer (",
    '{"error":"bad_tick"}': "not an answer (",
    '[{"event":"trade","tid":7,"price":"1","quantity":1,"buy":1,"sell":2,"taker":"buy"}]': (
        "trade 1@1 maker #2 taker #1 (the trade numbered 7 should be 1)"
    ),
}


def test_an_answer_that_is_none_is_shown(conformance: Conformance) -> None:
    one = "== R1 The {0}\n1:buy intc {0}@50 | #1 accepted\n"
    scenarios = conformance.scenarios("".join(one.format(i) for i in range(len(NO_ANSWERS))))
    engine = conformance.engine(f"""
        number = line.partition("intc ")[2].partition("@")[0]
        print({list(NO_ANSWERS)}[int(number)] if number else "ok", flush=True)
    """)
    code, printed = conformance.run(scenarios, *engine)
    assert code == 1
    found = [line for line in printed.splitlines() if line.startswith("    found")]
    for line, complaint in zip(found, NO_ANSWERS.values(), strict=True):
        assert complaint in line


def test_an_engine_that_does_not_know_new_is_told_so(conformance: Conformance) -> None:
    code, printed = conformance.run(
        conformance.scenarios(TWO), *conformance.engine("print('fine', flush=True)")
    )
    assert code == 1
    assert "to `new` it answered 'fine', not ok" in printed


def test_an_engine_that_says_something_else_the_second_time_is_not_deterministic(
    conformance: Conformance,
) -> None:
    scenarios = conformance.scenarios("""
        == R18 The same again
        1:buy intc 1@50.001 | rejected bad_tick
        again               | the same answers
    """)
    assert conformance.run(scenarios, *conformance.engine(RIGHT))[0] == 0
    moody = "print(product.answer(line).replace('50', str(time.time_ns())), flush=True)"
    code, printed = conformance.run(scenarios, *conformance.engine(moody))
    assert code == 1
    assert re.search(r"found +1700000000000000 1:buy intc 1@50.001 was answered .*again", printed)


def _with_pid_file(conformance: Conformance, engine: list[str], ending: str = "") -> Path:
    """The file in which the engine says in which process it runs."""
    script, pid_file = Path(engine[-1]), conformance.folder / "pid"
    note = f"open({str(pid_file)!r} + '.new', 'w').write(str(os.getpid()))\n"
    note += f"os.rename({str(pid_file)!r} + '.new', {str(pid_file)!r})\n"
    text = script.read_text(encoding="utf-8")
    script.write_text(text.replace(HEAD, HEAD + note) + ending, encoding="utf-8")
    return pid_file


def _is_running(pid_file: Path) -> bool:
    try:
        os.kill(int(pid_file.read_text(encoding="utf-8")), 0)
    except ProcessLookupError:
        return False
    return True


def test_an_engine_that_ignores_the_end_is_not_left_behind(conformance: Conformance) -> None:
    engine = conformance.engine(RIGHT)
    pid_file = _with_pid_file(conformance, engine, "\ntime.sleep(1000)\n")
    assert conformance.run(conformance.scenarios(TWO), *engine)[0] == 0
    assert not _is_running(pid_file)


def test_control_c_ends_the_engine_too(conformance: Conformance) -> None:
    engine = conformance.engine("pass")
    pid_file = _with_pid_file(conformance, engine)
    command = [sys.executable, "-m", "matching.conformance", "--seconds", "1000", PRIORITY]
    with subprocess.Popen([*command, *engine], cwd=ROOT, stderr=subprocess.PIPE) as running:
        wait_until(pid_file.exists, "the engine")
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=PATIENCE_SECONDS)
    assert (running.returncode, errors) == (130, b"")
    assert not _is_running(pid_file)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--"], "no engine command follows --"),
        (["no-such-file.txt"], "No such file"),
        (["docs"], "no scenario in docs"),
        (["README.md"], "no scenario has begun"),
        ([PRIORITY, "--", "./no-such-engine"], "the engine cannot be started"),
        (["--fast"], "unrecognized arguments"),
    ],
)
def test_a_wrong_call_is_refused_with_2(
    conformance: Conformance, arguments: list[str], complaint: str
) -> None:
    code, printed = conformance.run(*arguments)
    assert code == 2
    assert complaint in printed


def test_our_engine_behind_the_protocol_answers_what_it_cannot_read() -> None:
    product = Product()
    assert product.answer("new tick=0.05 lot=10 reference=20.00") == "ok"
    assert '"bad_syntax"' in product.answer("hello")
    assert '"bad_syntax"' in product.answer("1700000000000000 7:bye intc 5")
    assert '"bad_syntax"' in product.answer("1700000000000000 7:login intc nonce=1 ts=1")

    assert '"bad_tick"' in product.answer("1700000000000000 7:buy intc 10@50.01")
    assert product.answer("book") == '{"bids":[],"asks":[]}'
    assert product.answer("phase") == '"continuous"'
    assert product.answer("indicative") == "null"


def test_the_loop_of_the_documentation_works(conformance: Conformance) -> None:
    text = (ROOT / "docs" / "CONFORMANCE.md").read_text(encoding="utf-8")
    [loop] = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (conformance.folder / "loop.py").write_text(loop, encoding="utf-8")
    (conformance.folder / "my_engine.py").write_text(
        textwrap.dedent("""
            import json
            from matching.conformance import Product

            class Engine:
                def __init__(self, product):
                    self.product = Product()
                    self.product.answer("new " + product)

                def apply(self, at, command):
                    return json.loads(self.product.answer(f"{at} {command}"))

                def ask(self, name, argument):
                    return json.loads(self.product.answer(f"{name} {argument}".strip()))
        """),
        encoding="utf-8",
    )
    files = [
        str(SCENARIOS / name) for name in ("01-priority.txt", "10-auction.txt", "00-words.txt")
    ]
    loop_file = str(conformance.folder / "loop.py")
    code, printed = conformance.run(*files, "--", sys.executable, loop_file)
    assert code == 0, printed
