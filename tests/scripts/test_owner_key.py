"""The key of an owner, as the script prints it."""

import subprocess
import sys
from pathlib import Path

import pytest

from app.models.db import close
from matching import config, signing
from matching.config import Var
from tests.database import add_user, make_database, make_var
from tests.processes import ROOT


@pytest.fixture
def var(tmp_path: Path) -> Var:
    var = make_var(tmp_path)
    config.load_venue_key(var)
    return var


def _run(var: Var, owner: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "scripts/owner_key.py", owner, "--var", str(var.root)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_number_needs_no_database(var: Var) -> None:
    done = _run(var, "7")
    assert done.stdout == signing.owner_key(config.load_venue_key(var), 7) + "\n"
    assert done.stderr == "owner_key: 7 is owner 7\n"


def test_it_is_the_generation_in_force(var: Var) -> None:
    var.generations_file.write_text("7 3\n")
    assert _run(var, "7").stdout == signing.owner_key(config.load_venue_key(var), 7, 3) + "\n"


def test_a_username_is_looked_up(var: Var) -> None:
    db = make_database(var)
    add_user(db, "somebody")
    user = add_user(db, "trader1")
    close(db)
    done = _run(var, "trader1")
    assert done.stdout == signing.owner_key(config.load_venue_key(var), user.id) + "\n"
    assert done.stderr == f"owner_key: trader1 is owner {user.id}\n"
    done = _run(var, "nobody")
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr == "owner_key: there is no user nobody\n"


@pytest.mark.parametrize(
    ("owner", "code", "words"),
    [("0", 78, "is the house"), ("trader1", 69, "cannot look trader1 up: ")],
)
def test_what_has_no_key_is_said_in_one_line(var: Var, owner: str, code: int, words: str) -> None:
    done = _run(var, owner)
    assert (done.returncode, done.stdout) == (code, "")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_without_a_venue_there_is_no_key(tmp_path: Path) -> None:
    done = _run(Var(tmp_path / "nowhere"), "7")
    assert (done.returncode, done.stdout) == (78, "")
    assert "the first server of a venue makes it" in done.stderr
    assert not (tmp_path / "nowhere").exists()
