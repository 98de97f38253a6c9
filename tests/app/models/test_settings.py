"""The platform's settings: mail and address, from the environment or emte.toml."""

from pathlib import Path

import pytest

from app.models import settings
from app.models.settings import Smtp
from matching.exits import ExitCode, Fatal


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no emte.toml lies but the test's own."""
    monkeypatch.chdir(tmp_path)
    for name in ("URL", "SMTP_HOST", "SMTP_PORT", "SMTP_USER", "SMTP_PASSWORD", "SMTP_FROM"):
        monkeypatch.delenv(f"EMTE_{name}", raising=False)


def test_without_a_mail_server_there_is_no_mail() -> None:
    assert settings.smtp() is None


def test_a_mail_server_needs_its_name_and_a_sender(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMTE_SMTP_HOST", "mail.example")
    with pytest.raises(Fatal) as raised:
        settings.smtp()
    assert raised.value.code is ExitCode.CONFIGURATION
    monkeypatch.setenv("EMTE_SMTP_FROM", "emte@venue.example")
    assert settings.smtp() == Smtp("mail.example", 587, "", "", "emte@venue.example")


@pytest.mark.parametrize("port", ["0", "65536", "-1", "smtp", "٣", "2 5"])
def test_a_port_is_a_number_of_one(monkeypatch: pytest.MonkeyPatch, port: str) -> None:
    monkeypatch.setenv("EMTE_SMTP_HOST", "mail.example")
    monkeypatch.setenv("EMTE_SMTP_FROM", "emte@venue.example")
    monkeypatch.setenv("EMTE_SMTP_PORT", port)
    with pytest.raises(Fatal) as raised:
        settings.smtp()
    assert raised.value.code is ExitCode.CONFIGURATION


def test_all_of_it_may_stand_in_a_file() -> None:
    Path("emte.toml").write_text(
        'url = "https://venue.example/"\nsmtp_host = "mail.example"\nsmtp_port = 465\n'
        'smtp_user = "emte"\nsmtp_password = "letter box"\nsmtp_from = "EMTE <e@venue.example>"\n'
    )
    expected = Smtp("mail.example", 465, "emte", "letter box", "EMTE <e@venue.example>")
    assert settings.smtp() == expected
    assert settings.public_url("http://127.0.0.1:8000") == "https://venue.example"


def test_without_a_setting_the_address_is_where_the_server_listens() -> None:
    assert settings.public_url("http://127.0.0.1:8000") == "http://127.0.0.1:8000"
