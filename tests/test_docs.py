"""The snippets of the documents for users are run: what they show must work as they show it.

A file's `bash` and `python` blocks run in order, in one folder, on a server of the test's own port.
A block whose first line is a comment with a file's name is that file too. A block that starts a
program which runs on is left running. A `text` block is what the block before it prints.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from app.models.db import close
from tests.database import make_database, make_var
from tests.processes import ROOT, Process
from tests.scripts.test_zap import trade
from tests.waiting import PATIENCE_SECONDS, free_port

PROGRAMS = {"matching.matchingserver": "listening on", "robot.robot_trader": "^order #"}
"""Programs that run on, and what they print when they work."""

FOLDERS = ("matching", "robot", "scripts", "stop_all.sh")
"""What a reader in the checkout has beside `var/`."""


class Block(NamedTuple):
    """A fenced block; `line` is where it stands."""

    line: int
    language: str
    text: str


def _blocks(path: Path, *, section: str = "") -> list[Block]:
    """The blocks of a file, or of the section under one of its headings."""
    text = path.read_text(encoding="utf-8")
    begin = text.index(f"## {section}\n") if section else 0
    end = text.find("\n## ", begin) if section else len(text)
    return [
        Block(text.count("\n", 0, match.start()) + 1, match[1], match[2])
        for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        if begin <= match.start() < end
    ]


class Reader:
    """Somebody who types what a document says, in a checkout of their own."""

    def __init__(self, folder: Path, exit_stack: ExitStack) -> None:
        self.folder = folder
        self.port = free_port()
        self._exit_stack = exit_stack
        self._environment = {
            **os.environ,
            "EMTE_VAR": str(folder / "var"),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        for name in FOLDERS:
            (folder / name).symlink_to(ROOT / name)

    def start(self, *arguments: str, says: str) -> None:
        """Start a program that runs on."""
        process = Process(*arguments, var=self.folder / "var", cwd=self.folder)
        self._exit_stack.callback(process.end)
        process.wait_for_line(says)

    def follow(self, blocks: list[Block], name: str) -> None:
        """Run all blocks; AssertionError with file and line for one that does not do as it says."""
        for block, after in zip(blocks, [*blocks[1:], Block(0, "", "")], strict=True):
            if block.language in ("bash", "python"):
                printed = self.run(block, f"{name}:{block.line}")
                if after.language == "text":
                    assert printed == after.text, f"{name}:{after.line}"

    def run(self, block: Block, where: str) -> str:
        """Run one block; what it prints."""
        text = block.text.replace("8888", str(self.port))
        if block.language == "bash":
            words = text.split()
            if words[:2] == ["python", "-m"] and words[2] in PROGRAMS:
                self.start(*words[1:], says=PROGRAMS[words[2]])
                return ""
            command = ["bash", "-euo", "pipefail", "-c", text]
        else:
            if file := re.match(r"# (\w+\.py)\n", text):
                (self.folder / file[1]).write_text(text, encoding="utf-8")
            command = [sys.executable, "-c", text]
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
        )
        assert done.returncode == 0, f"{where}: exit {done.returncode}\n{done.stderr}"
        return done.stdout


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    with ExitStack() as exit_stack:
        yield Reader(tmp_path, exit_stack)


def test_the_bots_page_does_what_it_says(reader: Reader) -> None:
    blocks = _blocks(ROOT / "docs" / "BOTS.md")
    assert sum(block.language == "python" for block in blocks) >= 6
    reader.follow(blocks, "docs/BOTS.md")


def test_the_readme_trades_by_program(reader: Reader) -> None:
    reader.start(
        *("-m", "matching.matchingserver", "-p", str(reader.port), "-t", "intc"),
        says="listening on",
    )
    blocks = _blocks(ROOT / "README.md", section="Trade by program")
    printed = [reader.run(block, "README.md") for block in blocks if block.language]
    assert printed == ["1"], "prints the order's number"


@pytest.mark.parametrize("each_database", ["sqlite"], indirect=True)
def test_the_operators_page_backs_up_and_restores(reader: Reader, each_database: str) -> None:
    var = make_var(reader.folder)
    close(make_database(var))
    journal = trade(var)
    before = journal.path.read_bytes()
    for section in ("Back up", "Restore"):
        blocks = _blocks(ROOT / "docs" / "OPERATIONS.md", section=section)
        assert any(block.language == "bash" for block in blocks)
        reader.follow(blocks, "docs/OPERATIONS.md")
    assert (reader.folder / "var.broken" / "emte.db").exists()
    assert journal.path.read_bytes() == before
    settle_and_verify = "python -m log2db -A intc --once; python -m log2db --verify intc"
    assert reader.run(Block(0, "bash", settle_and_verify), "the venue").startswith("OK intc: ")


def test_every_block_says_what_it_is() -> None:
    blocks = _blocks(ROOT / "docs" / "BOTS.md")
    assert {block.language for block in blocks} == {"bash", "python", "text"}


@pytest.mark.parametrize("text", ["exit 3", "false | true", "echo $nobody_has_set_this"])
def test_a_snippet_that_fails_is_found(reader: Reader, text: str) -> None:
    with pytest.raises(AssertionError, match=r"page\.md:7: exit"):
        reader.follow([Block(7, "bash", text)], "page.md")


def test_a_snippet_that_prints_something_else_is_found(reader: Reader) -> None:
    with pytest.raises(AssertionError, match=r"page\.md:9"):
        reader.follow([Block(7, "python", "print(1)"), Block(9, "text", "2\n")], "page.md")
