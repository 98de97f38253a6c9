"""The checks before the engine, in the order of PROTOCOL §2: the first that fails is the answer."""

import pytest

from matching import signing
from matching.order import Cancel, NewOrder, RaiseKey
from matching.session import Denied, Gate, Holder, Keyring, Session

VENUE_KEY = "5e" * 32
NOW = 1_700_000_000_000_000
TS = NOW // 1000
NONCE = "ab" * 16


class Nobody:
    def deliver(self, message: object) -> None:
        raise AssertionError(message)


def key(owner: int, generation: int = 1) -> str:
    return signing.owner_key(VENUE_KEY, owner, generation)


def gate(**generations: int) -> Gate:
    by_owner = {int(name[1:]): generation for name, generation in generations.items()}
    return Gate("intc", Keyring(VENUE_KEY), lambda owner: by_owner.get(owner, 1))


def session(*, trusted: bool = True) -> Session:
    return Session(Nobody(), NONCE, trusted=trusted)


def logged_in(text: str, signing_key: str, *, trusted: bool = True) -> Session:
    made = session(trusted=trusted)
    gate().login(made, text, signing.sign(signing_key, text), now=NOW)
    return made


def denial(action: object) -> str:
    assert callable(action)
    with pytest.raises(Denied) as denied:
        action()
    assert denied.value.message
    return denied.value.code


@pytest.mark.parametrize(
    ("text", "signing_key", "trusted", "code"),
    [
        pytest.param("7:bye", None, True, "bad_syntax", id="syntax before all else"),
        pytest.param("x" * 257, None, True, "bad_syntax", id="too long"),
        pytest.param(f"7:buy 1@50 ts={TS}", None, True, "bad_syntax", id="no ticker"),
        pytest.param("7:buy amd 1@50", None, True, "bad_syntax", id="no ts"),
        pytest.param("7:buy amd 1@50 ts=1", None, True, "unknown_ticker", id="ticker, then key"),
        pytest.param("7:buy intc 1@50 ts=1", None, True, "bad_signature", id="key, then time"),
        pytest.param("7:buy intc 1@50 ts=1", key(8), True, "bad_signature", id="another's key"),
        pytest.param("7:buy intc 1@50 ts=1", key(7, 2), True, "bad_signature", id="another age"),
        pytest.param("7:buy intc 1@50 ts=1", key(7), True, "stale_timestamp", id="time"),
        pytest.param("7:buy intc 1@50 ts=1", VENUE_KEY, False, "stale_timestamp", id="time first"),
        pytest.param(f"7:buy intc 1 ts={TS}", VENUE_KEY, False, "venue_only", id="wrong address"),
        pytest.param(f"phase intc halted ts={TS}", key(7), True, "bad_signature", id="venue verb"),
        pytest.param(f"login intc nonce={NONCE} ts={TS}", VENUE_KEY, True, "bad_request", id="op"),
        pytest.param(f"0:buy intc 1 ts={TS}", key(1), True, "bad_signature", id="house: no key"),
    ],
)
def test_a_signed_command_is_refused_for_the_first_reason(
    text: str, signing_key: str | None, trusted: bool, code: str
) -> None:
    signature = "0" * 64 if signing_key is None else signing.sign(signing_key, text)
    assert denial(lambda: gate().admit_signed(text, signature, now=NOW, trusted=trusted)) == code


@pytest.mark.parametrize("offset_ms", [-5_000, 0, 5_000])
def test_a_timestamp_counts_for_five_seconds_either_way(offset_ms: int) -> None:
    text = f"7:buy intc 1@50 ts={TS + offset_ms}"
    command, holder = gate().admit_signed(text, signing.sign(key(7), text), now=NOW, trusted=False)
    assert isinstance(command, NewOrder)
    assert holder is Holder.OWNER


@pytest.mark.parametrize("offset_ms", [-5_001, 5_001])
def test_a_timestamp_further_off_is_stale(offset_ms: int) -> None:
    text = f"7:buy intc 1@50 ts={TS + offset_ms}"
    signature = signing.sign(key(7), text)
    code = denial(lambda: gate().admit_signed(text, signature, now=NOW, trusted=False))
    assert code == "stale_timestamp"


def test_the_venue_key_speaks_for_everybody() -> None:
    for text in (f"7:buy intc 1@50 ts={TS}", f"buy intc 1 ts={TS}", f"key intc 7 2 ts={TS}"):
        signature = signing.sign(VENUE_KEY, text)
        _, holder = gate().admit_signed(text, signature, now=NOW, trusted=True)
        assert holder is Holder.VENUE


def test_only_the_generation_in_force_counts() -> None:
    text = f"7:buy intc 1@50 ts={TS}"
    raised = gate(o7=3)
    old, new = signing.sign(key(7, 2), text), signing.sign(key(7, 3), text)
    assert denial(lambda: raised.admit_signed(text, old, now=NOW, trusted=True)) == "bad_signature"
    raised.admit_signed(text, new, now=NOW, trusted=True)


@pytest.mark.parametrize("signature", ["", "é" * 64, "A" * 64, "0" * 63])
def test_a_signature_is_compared_as_text_whatever_it_holds(signature: str) -> None:
    text = f"7:buy intc 1@50 ts={TS}"
    code = denial(lambda: gate().admit_signed(text, signature, now=NOW, trusted=True))
    assert code == "bad_signature"


LOGIN = f"7:login intc nonce={NONCE} ts={TS}"


@pytest.mark.parametrize(
    ("text", "signing_key", "trusted", "code"),
    [
        pytest.param("7:buy intc 1@50", None, True, "bad_request", id="no login"),
        pytest.param(f"7:login amd nonce={NONCE} ts=1", None, True, "unknown_ticker", id="ticker"),
        pytest.param(LOGIN, None, True, "bad_signature", id="signature"),
        pytest.param(LOGIN, key(8), True, "bad_signature", id="another's key"),
        pytest.param(f"7:login intc nonce={NONCE} ts=1", key(7), True, "stale_timestamp", id="ts"),
        pytest.param(LOGIN, VENUE_KEY, False, "venue_only", id="wrong address"),
        pytest.param(
            f"7:login intc nonce={'cd' * 16} ts={TS}", key(7), True, "bad_signature", id="nonce"
        ),
        pytest.param(
            f"login intc nonce={NONCE} ts={TS}", key(7), True, "bad_signature", id="venue"
        ),
    ],
)
def test_a_login_is_refused_for_the_first_reason(
    text: str, signing_key: str | None, trusted: bool, code: str
) -> None:
    signature = "0" * 64 if signing_key is None else signing.sign(signing_key, text)
    made = session(trusted=trusted)
    assert denial(lambda: gate().login(made, text, signature, now=NOW)) == code
    assert not made.is_logged_in


def test_a_nonce_is_good_for_one_login() -> None:
    made = logged_in(LOGIN, key(7))
    signature = signing.sign(key(7), LOGIN)
    assert denial(lambda: gate().login(made, LOGIN, signature, now=NOW)) == "bad_request"


@pytest.mark.parametrize("signing_key", [key(7), VENUE_KEY])
def test_an_owner_session_speaks_for_its_owner_only(signing_key: str) -> None:
    made = logged_in(LOGIN, signing_key)
    assert (made.owner, made.venue) == (7, False)
    for text in ("buy 1@50", "7:buy 1@50", "buy intc 1@50"):
        command = gate().admit(made, text, now=NOW)
        assert isinstance(command, NewOrder)
        assert command.owner == 7
    cancel = gate().admit(made, "del 3", now=NOW)
    assert isinstance(cancel, Cancel)
    assert cancel.owner == 7
    assert denial(lambda: gate().admit(made, "8:buy 1@50", now=NOW)) == "not_owner"
    assert denial(lambda: gate().admit(made, "0:del 3", now=NOW)) == "not_owner"
    assert denial(lambda: gate().admit(made, "phase intc halted", now=NOW)) == "venue_only"
    assert denial(lambda: gate().admit(made, "buy amd 1@50", now=NOW)) == "unknown_ticker"
    assert denial(lambda: gate().admit(made, "buy 1@50 ts=1", now=NOW)) == "stale_timestamp"
    assert denial(lambda: gate().admit(made, "buy", now=NOW)) == "bad_syntax"
    assert denial(lambda: gate().admit(made, LOGIN, now=NOW)) == "bad_request"


def test_a_venue_session_speaks_for_anybody_and_for_the_house_without_an_owner() -> None:
    made = logged_in(f"login intc nonce={NONCE} cod=1 ts={TS}", VENUE_KEY)
    assert (made.owner, made.venue, made.cod) == (None, True, True)
    for text, owner in (("buy 1@50", 0), ("8:buy 1@50", 8)):
        command = gate().admit(made, text, now=NOW)
        assert isinstance(command, NewOrder)
        assert command.owner == owner
    assert isinstance(gate().admit(made, "key intc 7 2", now=NOW), RaiseKey)


def test_without_a_login_an_unsigned_text_may_not_pass() -> None:
    assert denial(lambda: gate().admit(session(), "buy 1@50", now=NOW)) == "bad_signature"
