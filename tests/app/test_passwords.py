"""A password changed, or lost and chosen anew, as a browser and a mailbox see it."""

import asyncio
import itertools
import logging
import re
from collections.abc import Callable, Iterator
from email import message_from_string, policy
from email.message import EmailMessage
from pathlib import Path

import pytest

from app.controllers.base import ERRANDS, LINKS_A_NAME
from app.controllers.passwords import LINK_ASKED
from app.controllers.throttle import PAIR_LIMIT
from app.models.accounts import User
from app.models.settings import Smtp
from tests.app.test_webserver import listens
from tests.app.venue import JSON, Browser, Response, Web, running_web
from tests.waiting import free_port, wait_until

pytestmark = pytest.mark.usefixtures("quick_hashing", "nobody_has_failed")

LOGIN = "/default/user/login"
PROFILE = "/default/user/profile"
PRODUCTS = "/default/products"
CHANGE = "/default/user/change_password"
REQUEST = "/default/user/request_reset_password"
RESET = "/default/user/reset_password"

NEW = "analytical engine"
NUMBERS = itertools.count(1)
LINK = re.compile(r"(http://\S+)/default/user/reset_password\?key=([A-Za-z0-9_-]{43})")


class Mailbox:
    """A mail server on the web server's loop that keeps what it is handed."""

    def __init__(self, web: Web) -> None:
        self.letters: list[tuple[str, EmailMessage]] = []
        self.words: list[str] = []
        self.callers = 0
        self.takes_mail = True
        self.is_open = asyncio.Event()
        self.is_open.set()
        self._web = web
        self._server = web.run(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port: int = self._server.sockets[0].getsockname()[1]

    def settings(self, user: str = "") -> Smtp:
        return Smtp("127.0.0.1", self.port, user, "letter box", "EMTE <emte@venue.example>")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to = ""
        self.callers += 1
        await self.is_open.wait()
        writer.write(b"220 mailbox\r\n")
        while word := (await reader.readline()).decode("ascii").strip():
            self.words.append(word)
            answer = "250 good"
            if word.startswith("ehlo"):
                answer = "250-mailbox\r\n250 AUTH PLAIN"
            elif word.startswith("AUTH"):
                answer = "235 welcome"
            elif word.startswith("rcpt") and not self.takes_mail:
                answer = "550 no such mailbox"
            elif word.startswith("rcpt"):
                to = word.partition("<")[2].rstrip(">")
            elif word == "data":
                writer.write(b"354 go on\r\n")
                text = await reader.readuntil(b"\r\n.\r\n")
                letter = message_from_string(text[:-3].decode("ascii"), policy=policy.default)
                assert isinstance(letter, EmailMessage)
                self.letters.append((to, letter))
            elif word.lower() == "quit":
                answer = "221 good bye"
            writer.write(f"{answer}\r\n".encode("ascii"))
        writer.close()

    def open(self) -> None:
        """Greet who waits for it."""
        self._web.run(self._on_the_loop(self.is_open.set))

    def close(self) -> None:
        """Take no more connections."""
        self._web.run(self._on_the_loop(self._server.close))

    async def _on_the_loop(self, work: Callable[[], None]) -> None:
        work()


@pytest.fixture
def mailbox(web: Web, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mailbox]:
    box = Mailbox(web)
    monkeypatch.setattr(web.platform, "smtp", box.settings())
    yield box
    box.close()


@pytest.fixture
def user(web: Web) -> User:
    """An account of the test's own; its password is its name."""
    return web.add_user(f"forgetful{next(NUMBERS)}")


@pytest.fixture
def log_lines(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "webserver")
    return caplog


def ask_for_link(web: Web, name: str) -> Response:
    """Send the form, and wait until what follows its answer has been done."""
    answer = web.browser().post(REQUEST, {"username": name})
    wait_until(lambda: not web.platform.errands, "the link to be handed out")
    return answer


def link_of(web: Web, name: str, lines: pytest.LogCaptureFixture) -> str:
    """The key of the link that stands in the log."""
    lines.clear()
    ask_for_link(web, name)
    found = LINK.findall(lines.text)
    assert len(found) == 1
    return str(found[0][1])


def log_in(web: Web, name: str, password: str) -> int:
    return web.browser().post(LOGIN, {"username": name, "password": password}).status


def new_password(password: str = NEW, **fields: str) -> dict[str, str]:
    return {"password": password, "password_two": password, **fields}


# -- changed by who knows it


def test_a_changed_password_logs_out_every_other_browser(web: Web, user: User) -> None:
    browser, other = web.browser(user), web.browser(user)
    before = browser.session
    answer = browser.post(CHANGE, new_password(old_password=user.username))
    assert (answer.status, answer.headers["location"]) == (303, PROFILE)
    assert "Your password is changed" in browser.get(PROFILE).text
    assert other.get(PRODUCTS).status == 303
    assert browser.session != before
    other.session = before
    assert other.get(PRODUCTS).status == 303, "the cookie of before is worth nothing either"
    assert log_in(web, user.username, user.username) == 403
    assert log_in(web, user.username, NEW) == 303


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({}, "password"),
        (new_password(), "old_password"),
        (new_password(old_password="guess"), "old_password"),
        (new_password(old_password="nul\0"), "old_password"),
        (new_password(old_password="x" * 1025), "old_password"),
        (new_password("abc"), "password"),
        (new_password("x" * 1025), "password"),
        (new_password("nul\0nul"), "password"),
        ({"password": NEW, "password_two": "another"}, "password_two"),
        ({"password": NEW}, "password_two"),
    ],
)
def test_a_wrong_change_is_told_and_nothing_is_changed(
    web: Web, trader: User, fields: dict[str, str], wrong: str
) -> None:
    browser = web.browser(trader)
    form = {"old_password": "trader1"} | fields if wrong != "old_password" else fields
    answer = browser.post(CHANGE, form)
    assert answer.status == 400
    assert 'aria-invalid="true"' in answer.text
    assert NEW not in answer.text
    assert list(browser.post(CHANGE, form, JSON).json()["errors"]) == [wrong]
    assert browser.get(PRODUCTS).status == 200
    assert log_in(web, "trader1", "trader1") == 303


def test_who_found_a_browser_open_cannot_guess_the_password(web: Web, user: User) -> None:
    browser = web.browser(user)
    guess = new_password(old_password="guess")
    statuses = [browser.post(CHANGE, guess).status for _ in range(PAIR_LIMIT + 1)]
    assert statuses == [400] * PAIR_LIMIT + [429]
    right = browser.post(CHANGE, new_password(old_password=user.username))
    assert right.status == 429
    assert "Try again in" in right.text


# -- lost


def test_who_asks_is_answered_alike_whether_or_not_there_is_an_account(
    web: Web, user: User
) -> None:
    def answer(name: str) -> tuple[int, str, str]:
        browser = web.browser()
        asked = browser.post(REQUEST, {"username": name})
        page = browser.get(LOGIN).text
        said = re.findall(r'<p class="flash"[^>]*>([^<]+)</p>', page)[0]
        return asked.status, asked.headers["location"], said.replace("&#39;", "'")

    names = (user.username, user.email, "nobody", "nobody@x.example", "nul\0", "x" * 9_999, "%")
    assert {answer(name) for name in names} == {(303, LOGIN, LINK_ASKED)}


def test_without_a_mail_server_the_link_is_one_line_of_the_log(
    web: Web, user: User, log_lines: pytest.LogCaptureFixture
) -> None:
    ask_for_link(web, "nobody")
    assert "key=" not in log_lines.text
    ask_for_link(web, user.email)
    (line,) = [line for line in log_lines.messages if "key=" in line]
    assert user.username in line
    assert "\n" not in line
    found = LINK.search(line)
    assert found is not None
    assert found[1] == f"http://127.0.0.1:{web.port}"


def test_a_link_opens_a_form_that_works_once_and_ends_all_sessions(
    web: Web, user: User, log_lines: pytest.LogCaptureFixture
) -> None:
    thief, browser = web.browser(user), web.browser()
    key = link_of(web, user.username, log_lines)
    for _ in range(2):  # looking at it is not using it: mail programs do that by themselves
        assert f'name="key" value="{key}"' in browser.get(f"{RESET}?key={key}").text
    answer = browser.post(RESET, new_password(key=key))
    assert (answer.status, answer.headers["location"]) == (303, LOGIN)
    assert not browser.session
    assert "Your new password is stored" in browser.get(LOGIN).text
    assert thief.get(PRODUCTS).status == 303
    assert log_in(web, user.username, user.username) == 403
    assert log_in(web, user.username, NEW) == 303
    again = browser.post(RESET, new_password("another one", key=key))
    assert again.status == 404
    assert "This link does not work" in again.text
    assert log_in(web, user.username, NEW) == 303


def test_an_expired_link_is_refused(
    web: Web, user: User, log_lines: pytest.LogCaptureFixture
) -> None:
    key = link_of(web, user.username, log_lines)
    with web.database(write=True) as db:
        db.executesql(
            "UPDATE auth_user SET reset_password_key = substr(reset_password_key, 1, 65) || '1'"
            f" WHERE id = {user.id}"
        )
    for answer in (
        web.browser().get(f"{RESET}?key={key}"),
        web.browser().post(RESET, new_password(key=key)),
    ):
        assert answer.status == 404
        assert "This link does not work" in answer.text
    assert log_in(web, user.username, user.username) == 303


@pytest.mark.parametrize("key", ["", "guess", "%", "x" * 9_999, "nul\0", "../login", '"><script>'])
def test_what_is_no_link_says_so_and_no_more(web: Web, key: str) -> None:
    browser = web.browser()
    for answer in (browser.post(RESET, new_password(key=key)), browser.get(RESET)):
        assert answer.status == 404
        assert "This link does not work" in answer.text
        assert "guess" not in answer.text
        assert 'name="password"' not in answer.text
    as_json = browser.post(RESET, new_password(key=key), JSON)
    assert as_json.json() == {"key": "", "is_good": False, "errors": {}}


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({}, "password"),
        (new_password("abc"), "password"),
        (new_password("x" * 1025), "password"),
        (new_password("nul\0nul"), "password"),
        ({"password": NEW, "password_two": "another"}, "password_two"),
    ],
)
def test_a_wrong_new_password_is_told_and_the_link_stays_good(
    web: Web,
    trader: User,
    log_lines: pytest.LogCaptureFixture,
    fields: dict[str, str],
    wrong: str,
) -> None:
    key = link_of(web, "trader1", log_lines)
    browser = web.browser()
    answer = browser.post(RESET, {"key": key, **fields})
    assert answer.status == 400
    assert 'aria-invalid="true"' in answer.text
    assert f'name="key" value="{key}"' in answer.text
    assert NEW not in answer.text
    assert list(browser.post(RESET, {"key": key, **fields}, JSON).json()["errors"]) == [wrong]
    assert browser.get(f"{RESET}?key={key}").status == 200


def test_a_request_without_a_name_is_told(web: Web) -> None:
    for fields in ({}, {"username": "  "}):
        answer = web.browser().post(REQUEST, fields)
        assert answer.status == 400
        assert "Enter your username or e-mail address" in answer.text


@pytest.mark.parametrize("path", [REQUEST, RESET, CHANGE])
def test_a_form_of_passwords_takes_its_own_fields_from_our_pages_only(
    web: Web, trader: User, path: str
) -> None:
    browser = web.browser(trader)
    extra = browser.post(path, {"owner": "1"}, JSON)
    assert (extra.status, extra.error) == (400, "bad_request")
    forged = browser.post(path, {"_xsrf": "theirs"}, JSON)
    assert (forged.status, forged.error) == (403, "bad_xsrf")


@pytest.mark.parametrize("name", ["trader1", "nobody"])
def test_links_for_one_name_are_throttled_wherever_they_are_asked_for(
    web: Web, trader: User, name: str
) -> None:
    def ask(number: int) -> int:
        header = {"X-Forwarded-For": f"203.0.113.{number}"}
        return web.browser().post(REQUEST, {"username": name.title()}, header).status

    statuses = [ask(number) for number in range(LINKS_A_NAME + 2)]
    assert statuses == [303] * LINKS_A_NAME + [429] * 2


def test_too_many_mails_at_once_are_told_to_come_back(web: Web, trader: User) -> None:
    async def crowd() -> list[asyncio.Task[None]]:
        tasks = [asyncio.create_task(asyncio.sleep(3600)) for _ in range(ERRANDS)]
        web.platform.errands |= set(tasks)
        return tasks

    async def leave(tasks: list[asyncio.Task[None]]) -> None:
        for task in tasks:
            task.cancel()
        web.platform.errands.clear()

    tasks = web.run(crowd())
    try:
        for name in ("trader1", "nobody"):
            answer = web.browser().post(REQUEST, {"username": name}, JSON)
            assert (answer.status, answer.error) == (503, "busy")
    finally:
        web.run(leave(tasks))


# -- by mail


def test_the_link_is_mailed_to_the_address_of_the_account(
    web: Web, user: User, mailbox: Mailbox, log_lines: pytest.LogCaptureFixture
) -> None:
    ask_for_link(web, "nobody")
    assert mailbox.words == []
    ask_for_link(web, user.username)
    ((to, letter),) = mailbox.letters
    assert to == user.email
    assert letter["To"] == user.email
    assert letter["From"] == "EMTE <emte@venue.example>"
    assert letter["Subject"] == "Your password at EMTE"
    found = LINK.search(letter.get_content())
    assert found is not None
    assert web.browser().get(f"{RESET}?key={found[2]}").status == 200
    assert found[2] not in log_lines.text
    assert not [word for word in mailbox.words if word.startswith("AUTH")]


def test_a_mail_server_that_asks_for_it_gets_a_log_in(
    web: Web, user: User, mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web.platform, "smtp", mailbox.settings(user="emte"))
    ask_for_link(web, user.username)
    assert [to for to, _ in mailbox.letters] == [user.email]
    assert [word for word in mailbox.words if word.startswith("AUTH PLAIN")]


def test_no_log_in_is_sent_in_clear_to_another_machine(
    web: Web,
    user: User,
    mailbox: Mailbox,
    monkeypatch: pytest.MonkeyPatch,
    expected_errors: list[logging.LogRecord],
) -> None:
    elsewhere = Smtp("127.1", mailbox.port, "emte", "letter box", "emte@venue.example")
    monkeypatch.setattr(web.platform, "smtp", elsewhere)  # a name that is not known to be local
    ask_for_link(web, user.username)
    assert "offers no TLS" in expected_errors[0].getMessage()
    assert mailbox.callers == 1
    assert not [word for word in mailbox.words if word.startswith("AUTH")]
    assert mailbox.letters == []


def test_a_link_leads_to_our_address_whatever_the_request_calls_us(
    web: Web, user: User, mailbox: Mailbox
) -> None:
    browser = web.browser()
    header = {"Host": "evil.example", "X-Forwarded-Host": "evil.example"}
    browser.post(REQUEST, {"username": user.username}, header)
    wait_until(lambda: mailbox.letters, "the mail")
    text = mailbox.letters[0][1].get_content()
    assert f"http://127.0.0.1:{web.port}/default/user/reset_password?key=" in text
    assert "evil" not in text


def test_nobody_waits_for_the_mail_server(web: Web, user: User, mailbox: Mailbox) -> None:
    mailbox.is_open.clear()
    assert web.browser().post(REQUEST, {"username": user.username}).status == 303
    wait_until(lambda: web.platform.errands, "the mail to be on its way")
    assert web.browser().get(LOGIN).status == 200
    assert mailbox.letters == []
    mailbox.open()
    wait_until(lambda: mailbox.letters, "the mail")


def test_a_mail_that_is_on_its_way_is_handed_over_before_the_server_ends(tmp_path: Path) -> None:
    with running_web(tmp_path) as web:
        user, mailbox = web.add_user("late"), Mailbox(web)
        web.platform.smtp = mailbox.settings()
        mailbox.is_open.clear()
        web.browser().post(REQUEST, {"username": user.username})
        wait_until(lambda: mailbox.callers, "the mail to be on its way")
        mailbox.close()  # to others
        web.begin_to_stop()
        wait_until(lambda: not listens(web.port), "the server to be stopping")
        assert mailbox.letters == []
        mailbox.open()
    assert [to for to, _ in mailbox.letters] == [user.email]


@pytest.mark.parametrize("trouble", ["away", "refuses"])
def test_a_mail_that_is_not_taken_is_an_error_of_the_operators(
    web: Web,
    user: User,
    mailbox: Mailbox,
    monkeypatch: pytest.MonkeyPatch,
    expected_errors: list[logging.LogRecord],
    trouble: str,
) -> None:
    if trouble == "away":
        nowhere = Smtp("127.0.0.1", free_port(), "", "", "emte@venue.example")
        monkeypatch.setattr(web.platform, "smtp", nowhere)
    mailbox.takes_mail = False
    browser: Browser = web.browser()
    answer = browser.post(REQUEST, {"username": user.username})
    assert (answer.status, answer.headers["location"]) == (303, LOGIN)
    wait_until(lambda: expected_errors, "the line in the log")
    line = expected_errors[0].getMessage()
    assert user.email in line
    assert "key=" not in line
    assert "\n" not in line
