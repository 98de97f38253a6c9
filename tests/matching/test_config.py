"""Configuration: where files lie, which of flag, environment, emte.toml and default wins."""

import multiprocessing
from pathlib import Path

import pytest

from matching import config
from matching.config import Var
from matching.exits import ExitCode, Fatal


@pytest.fixture
def var(tmp_path: Path) -> Var:
    made = Var(tmp_path / "var")
    made.make()
    return made


def test_a_flag_beats_the_environment_beats_the_file_beats_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert config.setting("colour", None, "default") == "default"
    Path("emte.toml").write_text('colour = "file"\n')
    assert config.setting("colour", None, "default") == "file"
    monkeypatch.setenv("EMTE_COLOUR", "environment")
    assert config.setting("colour", None, "default") == "environment"
    assert config.setting("colour", "flag", "default") == "flag"


def test_a_broken_emte_toml_is_a_configuration_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("emte.toml").write_text("colour = \n")
    with pytest.raises(Fatal, match=r"emte\.toml") as fatal:
        config.setting("colour", None, "default")
    assert fatal.value.code is ExitCode.CONFIGURATION


def test_var_is_closed_to_others(var: Var) -> None:
    assert var.root.stat().st_mode & 0o777 == 0o700
    assert var.journal_file("intc") == var.root / "journal" / "intc.log"


def test_a_var_that_cannot_be_made_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Fatal, match="cannot make") as fatal:
        Var(tmp_path / "file" / "var").make()
    assert fatal.value.code is ExitCode.CONFIGURATION


def test_the_venue_key_is_made_once_and_kept(var: Var) -> None:
    key = config.load_venue_key(var)
    assert config.KEY.fullmatch(key)
    assert var.venue_key_file.stat().st_mode & 0o777 == 0o600
    assert config.load_venue_key(var) == key


def _load(root: str) -> str:
    return config.load_venue_key(Var(Path(root)))


def test_of_ten_processes_that_start_at_once_all_have_one_key(var: Var) -> None:
    with multiprocessing.get_context("fork").Pool(10) as pool:
        keys = pool.map(_load, [str(var.root)] * 10, chunksize=1)
    assert len(set(keys)) == 1
    assert [path.name for path in var.root.glob("venue.key*")] == ["venue.key"]


def test_a_venue_key_that_others_can_read_is_refused(var: Var) -> None:
    config.load_venue_key(var)
    var.venue_key_file.chmod(0o640)
    with pytest.raises(Fatal, match="can be read by others"):
        config.load_venue_key(var)


def test_a_venue_key_file_without_a_key_is_refused(var: Var) -> None:
    var.venue_key_file.write_text("secret\n")
    var.venue_key_file.chmod(0o600)
    with pytest.raises(Fatal, match="does not hold a key of 64 hex digits"):
        config.load_venue_key(var)


def test_a_key_comes_from_the_flag_the_file_it_names_the_environment_or_var(
    var: Var, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert config.choose_key(None, var) == config.load_venue_key(var)
    monkeypatch.setenv("EMTE_HMAC_KEY", "22" * 32)
    assert config.choose_key(None, var) == "22" * 32
    assert config.choose_key("11" * 32, var) == "11" * 32
    (var.root / "mine").write_text("33" * 32 + "\n")
    assert config.choose_key(f"@{var.root / 'mine'}", var) == "33" * 32


@pytest.mark.parametrize("word", ["secret", "AB" * 32, "ab" * 31])
def test_any_other_word_is_a_key_only_where_it_is_allowed(var: Var, word: str) -> None:
    with pytest.raises(Fatal, match="a key is 64 lowercase hex digits"):
        config.choose_key(word, var)
    assert config.choose_key(word, var, any_text=True) == word


def test_a_key_file_that_is_not_there_is_a_configuration_error(var: Var) -> None:
    with pytest.raises(Fatal, match="cannot read the key file"):
        config.choose_key(f"@{var.root / 'nowhere'}", var)


def test_generations_are_read_and_a_broken_line_is_refused(var: Var) -> None:
    assert config.read_generations(var) == {}
    var.generations_file.write_text("7 2\n12 5\n")
    assert config.read_generations(var) == {7: 2, 12: 5}
    var.generations_file.write_text("7 2\n12\n")
    with pytest.raises(Fatal, match=r"line 2: '12' is not `owner generation`"):
        config.read_generations(var)


@pytest.mark.parametrize("text", ["7 2\xe9\n", f"7 {'9' * 5000}\n", "0x7 2\n", "7 2 \u0663\n"])
def test_generations_that_cannot_be_read_are_refused(var: Var, text: str) -> None:
    var.generations_file.write_text(text, encoding="utf-8")
    with pytest.raises(Fatal) as refused:
        config.read_generations(var)
    assert refused.value.code == ExitCode.CONFIGURATION


def test_generations_that_are_no_file_are_refused(var: Var) -> None:
    var.generations_file.mkdir()
    with pytest.raises(Fatal) as refused:
        config.read_generations(var)
    assert refused.value.code == ExitCode.CONFIGURATION


def test_var_is_found_by_flag_environment_or_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout = Path(config.__file__).resolve().parent.parent
    assert config.find_var().root == checkout / "var"
    monkeypatch.setenv("EMTE_VAR", str(tmp_path / "environment"))
    assert config.find_var().root == tmp_path / "environment"
    assert config.find_var(str(tmp_path / "flag")).root == tmp_path / "flag"


def test_nothing_is_left_of_a_venue_key_that_could_not_be_made(tmp_path: Path) -> None:
    with pytest.raises(Fatal, match="cannot make"):
        config.load_venue_key(Var(tmp_path / "nowhere"))
