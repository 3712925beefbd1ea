from __future__ import annotations

import base64
import hashlib
import hmac
import json
import math
import os
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tornado_chat import auth
from tornado_chat.auth import Identity, authenticate, load_secret, matches, mint, new_guest
from tornado_chat.config import Settings
from tornado_chat.errors import ChatError, ConfigError, ErrorCode
from tornado_chat.wire.commands import check_user_id

SECRET = b"s" * 32


def signed(payload: bytes, header: bytes = b'{"alg":"HS256","typ":"JWT"}', secret: bytes = SECRET) -> str:
    """A token made by hand: PyJWT would refuse to make most of what is tried here."""
    parts = [base64.urlsafe_b64encode(part).rstrip(b"=") for part in (header, payload)]
    signature = hmac.new(secret, b".".join(parts), hashlib.sha256).digest()
    return b".".join([*parts, base64.urlsafe_b64encode(signature).rstrip(b"=")]).decode()


def claims(**changes: Any) -> bytes:
    return json.dumps({"sub": "alice", "exp": time.time() + 60} | changes).encode()


def refused(token: str, *, guests: bool = True, secret: bytes = SECRET) -> str:
    with pytest.raises(ChatError) as caught:
        authenticate(secret, token, guests=guests)
    assert caught.value.code is ErrorCode.UNAUTHORIZED
    return caught.value.message


def test_what_is_minted_comes_back() -> None:
    token = mint(SECRET, "alice", name="Alice", device="phone", rooms=["team-*", "lobby"], ttl=60, jti="1")
    identity = authenticate(SECRET, token, guests=False)
    assert identity == Identity("alice", "Alice", "phone", ("team-*", "lobby"), identity.expires_at, "1", False)
    assert 59 < identity.expires_at - time.time() <= 61


def test_for_whom_a_backends_token_may_act() -> None:
    backend = authenticate(SECRET, mint(SECRET, "shop", ttl=60, acts_as=["app-*", "ada"]), guests=True)
    assert [user for user in ("app-", "app-1", "ada", "adam", "shop", "x-app-1") if backend.may_act_as(user)] == [
        "app-",
        "app-1",
        "ada",
    ]
    for token in (mint(SECRET, "alice", ttl=60), mint(SECRET, "alice", ttl=60, acts_as=[])):
        assert not authenticate(SECRET, token, guests=True).may_act_as("alice")
    anybody = authenticate(SECRET, mint(SECRET, "shop", ttl=60, acts_as=["*"]), guests=True)
    assert anybody.may_act_as("bob")
    assert not anybody.may_act_as("guest-1"), "never a guest"


def test_name_is_the_user_id_when_absent_or_null() -> None:
    assert authenticate(SECRET, mint(SECRET, "alice", ttl=60), guests=False).name == "alice"
    identity = authenticate(
        SECRET, signed(claims(name=None, device=None, rooms=None, jti=None, nbf=None)), guests=False
    )
    assert (identity.name, identity.device, identity.rooms, identity.jti) == ("alice", None, None, None)


def test_a_token_of_another_library_is_good() -> None:
    token = jwt.encode({"sub": "bob", "exp": int(time.time()) + 60, "iat": int(time.time()), "other": {}}, SECRET)
    assert authenticate(SECRET, token, guests=False).user == "bob"


@pytest.mark.parametrize(
    "changes",
    [
        {"sub": None},
        {"sub": 7},
        {"sub": ""},
        {"sub": "x" * 65},
        {"sub": "a\nb"},
        {"sub": ["alice"]},
        {"exp": None},
        {"exp": "9999999999"},
        {"exp": True},
        {"exp": {}},
        {"exp": 0},
        {"exp": -1},
        {"exp": math.nan},
        {"exp": math.inf},
        {"exp": 10**400},
        {"nbf": "0"},
        {"nbf": 10**10},
        {"name": 7},
        {"name": ""},
        {"name": "x" * 65},
        {"name": "a\0b"},
        {"device": 7},
        {"device": ""},
        {"jti": 7},
        {"rooms": "lobby"},
        {"rooms": [7]},
        {"rooms": [None]},
        {"rooms": {"lobby": True}},
        {"acts_as": "app-*"},
        {"acts_as": [7]},
        {"agent": "yes"},
        {"agent": 1},
        {"aud": "another"},
    ],
)
def test_a_wrong_claim(changes: dict[str, Any]) -> None:
    message = refused(signed(claims(**changes)))
    assert message.startswith("the token does not check: ")
    assert next(iter(changes)) in message.replace("user id", "sub") or "JSON is malformed" in message
    assert len(message) < 300


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"null",
        b"[]",
        b'"alice"',
        b"\xff",
        b"{",
        b'{"exp":99999999999}',
        b'{"sub":"alice"}',
        b'{"sub":"\\ud800","exp":99999999999}',
        b'{"sub":"alice","exp":1e400}',
        b'{"sub":"alice","exp":99999999999,"deep":' + b"[" * 2500 + b"]" * 2500 + b"}",
    ],
)
def test_a_wrong_payload(payload: bytes) -> None:
    refused(signed(payload))


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"{}",
        b"[]",
        b'{"alg":"none"}',
        b'{"alg":"HS512"}',
        b'{"alg":"RS256"}',
        b'{"alg":["HS256"]}',
        b'{"alg":{}}',
        b'{"alg":"HS256","crit":["x"]}',
        b'{"alg":"HS256","b64":false}',
        b'{"alg":"HS256","kid":7}',
        b"[" * 3000,
        b'{"alg":' + b"9" * 4400 + b"}",
    ],
)
def test_a_wrong_header(header: bytes) -> None:
    refused(signed(claims(), header))


def test_an_unsigned_token() -> None:
    header, payload, _ = signed(claims(), b'{"alg":"none"}').split(".")
    refused(f"{header}.{payload}.")


def test_another_key() -> None:
    assert "signed with another key" in refused(signed(claims(), secret=b"t" * 32))


@pytest.mark.parametrize("token", ["", ".", "..", "...", "a.b.c", "é.é.é", "\ud800", "\0", "x" * 8192])
def test_no_token_at_all(token: str) -> None:
    refused(token)


def test_what_is_no_token_is_told_in_our_words() -> None:
    whole = mint(SECRET, "alice", ttl=60)
    assert "it is empty" in refused("")
    for broken in ("nonsense", "a.b", "a.b.c", whole[1:], whole.rpartition(".")[0]):
        assert "it is not a JWT, three parts" in refused(broken)


PYJWT = jwt.PyJWS(algorithms=["HS256"])
NAMES = st.text(min_size=1, max_size=64)


@given(NAMES, NAMES, st.none() | st.lists(st.text(max_size=9), max_size=3), st.booleans())
def test_a_token_is_the_same_bytes_as_the_librarys(
    name: str, device: str, rooms: list[str] | None, guest: bool
) -> None:
    try:
        token = mint(SECRET, "guest-1", name=name, device=device, rooms=rooms, ttl=60, jti="guest-1", guest=guest)
    except (ChatError, UnicodeEncodeError):  # no name, or no text
        return
    payload = PYJWT.decode(token, SECRET, algorithms=["HS256"])
    assert token == PYJWT.encode(payload, SECRET, "HS256")
    assert auth._own_payload(SECRET, token) == payload, "and it is read without the library"
    found = json.loads(payload)
    assert (found["name"], found["device"], found.get("rooms")) == (name, device, rooms)
    assert list(found) == [key for key in ("sub", "exp", "name", "device", "rooms", "jti", "guest") if key in found]


@given(st.from_regex(r"\A[A-Za-z0-9_.=+/-]*\Z") | st.binary().map(lambda data: base64.urlsafe_b64encode(data).decode()))
def test_what_is_read_without_the_library_is_what_the_library_reads(text: str) -> None:
    """Whoever has the key may have signed anything: padding, the alphabet of plain base64, bits that nothing uses."""
    head = mint(SECRET, "alice", ttl=60).partition(".")[0] + "." + text
    signature = base64.urlsafe_b64encode(hmac.digest(SECRET, head.encode(), "sha256")).decode()
    for end in (signature.rstrip("="), signature):
        try:
            payload = PYJWT.decode(f"{head}.{end}", SECRET, algorithms=["HS256"])
        except jwt.PyJWTError:
            payload = None
        assert auth._own_payload(SECRET, f"{head}.{end}") in (None, payload)


@given(st.integers(0, 300), st.sampled_from("A_-.=+/ \néx"), st.booleans())
def test_a_token_with_another_character_is_none(at: int, char: str, instead: bool) -> None:
    token = mint(SECRET, "guest-1", name="Ann", device="d", ttl=60, jti="guest-1", guest=True)
    at %= len(token) + 1
    changed = token[:at] + char + token[at + instead :]
    if changed.rstrip("=") != token:  # the library takes padding at the end
        refused(changed)


def test_an_overlong_token_is_neither_read_nor_minted() -> None:
    assert "8192" in refused(signed(claims(rooms=["x" * 7000])))
    with pytest.raises(ChatError, match="8192"):
        mint(SECRET, "alice", rooms=["x" * 7000], ttl=60)


@given(st.text() | st.from_regex(r"\A[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*\Z"))
def test_any_text_is_unauthorized_and_nothing_else(token: str) -> None:
    refused(token)


@given(
    st.dictionaries(
        st.sampled_from(["sub", "exp", "nbf", "name", "device", "jti", "rooms", "aud", "x"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
            max_leaves=5,
        ),
    )
)
def test_any_payload_is_an_identity_or_unauthorized(payload: dict[str, Any]) -> None:
    try:
        identity = authenticate(
            SECRET, signed(json.dumps({"sub": "alice", "exp": 10**11} | payload).encode()), guests=True
        )
    except ChatError as error:
        assert error.code is ErrorCode.UNAUTHORIZED  # noqa: PT017  either outcome is right
    else:
        assert check_user_id(identity.user)
        assert math.isfinite(identity.expires_at)


def test_there_is_no_leeway() -> None:
    now = time.time()
    assert "expired" in refused(signed(claims(exp=now - 0.001)))
    assert "nbf" in refused(signed(claims(nbf=now + 30)))
    authenticate(SECRET, signed(claims(nbf=now)), guests=False)


def test_a_guest_keeps_its_id_for_thirty_days() -> None:
    guest = new_guest("Ann")
    assert guest.guest
    assert guest.user.startswith("guest-")
    assert guest.expires_at == math.inf
    assert guest.jti == guest.user, "by which it can be thrown out"
    token = mint(SECRET, guest.user, name=guest.name, ttl=auth.GUEST_TTL, jti=guest.jti, guest=True)
    again = authenticate(SECRET, token, guests=True)
    assert (again.user, again.name, again.jti, again.guest) == (guest.user, "Ann", guest.user, True)
    assert 29.9 < (again.expires_at - time.time()) / 86400 < 30.1


def test_a_guests_token_where_guests_are_not_let_in() -> None:
    assert "guest" in refused(mint(SECRET, new_guest(None).user, ttl=60), guests=False)


@pytest.mark.parametrize(
    "changes", [{}, {"jti": "x", "guest": True}, {"guest": 1}, {"guest": "yes"}, {"guest": False, "jti": "guest-1"}]
)
def test_who_is_called_like_a_guest_is_none_that_was_made_here(changes: dict[str, Any]) -> None:
    """So the token is not renewed: it is a backend's, or one of an older version."""
    identity = authenticate(SECRET, signed(claims(sub="guest-1", **changes)), guests=True)
    assert not identity.guest
    assert identity.jti == changes.get("jti", "guest-1")


def test_nobody_is_a_guest_by_a_claim_alone() -> None:
    assert not authenticate(SECRET, signed(claims(guest=True)), guests=False).guest


@pytest.mark.parametrize("blank", [" ", "   ", "\u200d", "\u3164", "\u2800 ", "\u0301", "\ufe0f", "\U000e0100"])
def test_blank_names(blank: str) -> None:
    assert authenticate(SECRET, signed(claims(name=blank)), guests=False).name == "alice", "it keeps nobody out"
    with pytest.raises(ChatError, match="name: must have a character that can be seen"):
        mint(SECRET, "alice", name=blank, ttl=60)
    with pytest.raises(ChatError, match="name: must have a character that can be seen"):
        new_guest(blank)


def test_guests_have_names_of_their_own() -> None:
    guests = [new_guest(None) for _ in range(100)]
    assert len({guest.user for guest in guests}) == 100
    assert len({guest.name for guest in guests}) > 10
    for name in ("", "x" * 65, "a\nb", "\ud800"):
        with pytest.raises(ChatError) as caught:
            new_guest(name)
        assert caught.value.code is ErrorCode.BAD_REQUEST


def test_mint_refuses_what_authenticate_would() -> None:
    for wrong in ({"user": ""}, {"user": "x" * 65}, {"name": ""}, {"device": "a\nb"}):
        with pytest.raises(ChatError):
            mint(SECRET, **{"user": "alice", "ttl": 60, **wrong})  # type: ignore[arg-type]  # mixed on purpose


@pytest.mark.parametrize(
    ("pattern", "room", "fits"),
    [
        ("lobby", "lobby", True),
        ("lobby", "lobby2", False),
        ("", "", True),
        ("", "a", False),
        ("*", "anything", True),
        ("*", "", True),
        ("team-*", "team-", True),
        ("team-*", "team-7", True),
        ("team-*", "xteam-7", False),
        ("*-team", "a-team", True),
        ("*-team", "a-team2", False),
        ("a*a", "a", False),
        ("a*a", "aa", True),
        ("a*b*a", "aba", True),
        ("a*b*a", "aa", False),
        ("*ab*ba*", "aba", False),
        ("*ab*ba*", "abba", True),
        ("a**b", "ab", True),
        ("a.c", "abc", False),
        ("a?c", "abc", False),
        ("[ab]", "a", False),
        ("LOBBY", "lobby", False),
    ],
)
def test_patterns(pattern: str, room: str, fits: bool) -> None:
    assert matches(pattern, room) is fits


def simple_match(pattern: str, room: str) -> bool:
    """The definition itself; exponential."""
    if not pattern:
        return not room
    if pattern[0] == "*":
        return any(simple_match(pattern[1:], room[i:]) for i in range(len(room) + 1))
    return room[:1] == pattern[0] and simple_match(pattern[1:], room[1:])


@given(st.text("ab*", max_size=8), st.text("ab", max_size=8))
def test_patterns_match_by_their_definition(pattern: str, room: str) -> None:
    assert matches(pattern, room) is simple_match(pattern, room)


def test_may_enter() -> None:
    assert Identity("a", "a").may_enter("lobby")
    assert not Identity("a", "a", rooms=()).may_enter("lobby")
    assert Identity("a", "a", rooms=("x", "lob*")).may_enter("lobby")
    assert not Identity("a", "a", rooms=("x", "lab*")).may_enter("lobby")


def key_file(folder: Path, text: bytes) -> str:
    file = folder / "key"
    file.write_bytes(text)
    return str(file)


def beside(path: Path) -> Settings:
    return Settings(database=f"sqlite:///{path}")


def test_a_secret_file_without_its_white_space(tmp_path: Path) -> None:
    assert load_secret(Settings(secret_file=key_file(tmp_path, b"\n  " + b"k" * 40 + b" \r\n"))) == b"k" * 40


def test_a_short_key_signs_as_it_stands(tmp_path: Path) -> None:
    secret = load_secret(Settings(secret_file=key_file(tmp_path, b"0123456789abcdef")))
    assert authenticate(secret, signed(claims(), secret=b"0123456789abcdef"), guests=False).user == "alice"


@pytest.mark.logs("the key that signs tokens is short")
def test_a_key_short_enough_to_be_guessed_is_warned_of(tmp_path: Path) -> None:
    secret = load_secret(Settings(secret_file=key_file(tmp_path, b"0123456789abcde")))
    assert authenticate(secret, signed(claims(), secret=b"0123456789abcde"), guests=False).user == "alice"


@pytest.mark.parametrize("text", [b"", b" \n", b"x" * 4097])
def test_a_secret_file_that_is_no_key(text: bytes, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--secret-file: .* bytes; it must have 1 to 4096") as caught:
        load_secret(Settings(secret_file=key_file(tmp_path, text)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        b"-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n",
        b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
        b"ssh-rsa AAAAB3NzaC1yc2E a@b",
    ],
)
def test_a_key_that_cannot_sign_is_told_at_the_start(text: bytes, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--secret-file: .*cannot sign tokens here; give .*openssl rand") as caught:
        load_secret(Settings(secret_file=key_file(tmp_path, text)))
    assert "\n" not in str(caught.value)


def test_a_secret_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_secret(Settings(secret_file=str(tmp_path / "none")))
    with pytest.raises(ConfigError, match="directory"):
        load_secret(Settings(secret_file=str(tmp_path)))
    assert not (tmp_path / "none").exists(), "a key of the user's own is never made"


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_the_key_beside_the_database(umask: int, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    before = os.umask(umask)
    try:
        secret = load_secret(beside(folder / "chat.db"))
    finally:
        os.umask(before)
    file = folder / "chat.db.secret"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(bytes.fromhex(secret.decode())) == 32
    assert load_secret(beside(folder / "chat.db")) == secret, "made once"
    assert load_secret(Settings(secret_file=str(file))) == secret
    assert os.listdir(folder) == ["chat.db.secret"], "no draft is left"


def test_the_folder_of_the_key_is_made(tmp_path: Path) -> None:
    load_secret(beside(tmp_path / "a" / "b" / "chat.db"))
    assert (tmp_path / "a" / "b" / "chat.db.secret").exists()


def test_the_folder_of_the_key_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"^--database: .*--secret-file"):
        load_secret(beside(tmp_path / "file" / "chat.db"))


@pytest.mark.logs("can be read by others; chmod 600 mends it")
def test_a_key_that_others_can_read(tmp_path: Path) -> None:
    load_secret(beside(tmp_path / "chat.db"))
    (tmp_path / "chat.db.secret").chmod(0o640)
    load_secret(beside(tmp_path / "chat.db"))


MAKE_KEY = """
import os, sys
from tornado_chat import auth
from tornado_chat.config import Settings
sys.stdout.write("ready\\n")
sys.stdout.flush()
sys.stdin.readline()
for number in range(50):
    print(auth.load_secret(Settings(database=f"sqlite:///{sys.argv[1]}/{number}.db")).decode())
"""


def test_two_processes_make_one_key(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", MAKE_KEY, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        first, second = (process.communicate(timeout=30)[0].split() for process in processes)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert len(set(first)) == 50
    assert first == second
    assert len(list(tmp_path.iterdir())) == 50
