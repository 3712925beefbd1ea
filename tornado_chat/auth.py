"""Who a client is: signed tokens (JWT, HS256), guests, and the key that signs both."""

from __future__ import annotations

import binascii
import contextlib
import hmac
import logging
import math
import os
import secrets
import time
from functools import lru_cache
from typing import Any

import jwt
import msgspec

from tornado_chat.config import Settings, sqlite_path
from tornado_chat.errors import ChatError, ConfigError, ErrorCode
from tornado_chat.wire.commands import check_name, check_printable, check_user_id, is_blank

logger = logging.getLogger(__name__)

GUEST_PREFIX = "guest-"
"""Of the user ids of guests, which are `jti` in their tokens too: whatever token a guest has, that id revokes it."""

GUEST_TTL = 30 * 86400.0
"""Seconds that a guest's token is good for."""

SHORT_SECRET_BYTES = 16
"""Whoever has a token can try all keys shorter than this."""

MAX_SECRET_BYTES = 4096
MAX_TOKEN_CHARS = 8192
"""A longer token is refused unread; room for some hundred patterns of rooms."""

MAX_JTI_CHARS = 256

DEVICE_BYTES = 4
"""Of the id of a device that has none: its user has few others."""

_ALGORITHM = "HS256"
_HEADER = b"eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9."
"""What each token of ours begins with: {"alg":"HS256","typ":"JWT"} in base64url, and the point."""

_jws = jwt.PyJWS(algorithms=[_ALGORITHM])
_TO_URL, _FROM_URL = bytes.maketrans(b"+/", b"-_"), bytes.maketrans(b"-_", b"+/")


class Identity(msgspec.Struct, frozen=True, gc=False):
    """A signed-in user. `rooms` are patterns (None: every room), `expires_at` is in Unix seconds (inf: never).

    `acts_as` are patterns of the ids of users for whom they may publish. `moderator`: may stop others' messages.
    `agent`: their messages say that an agent said them.
    `guest`: made here, and given a new token with each connection. `new`: made with this one, so nobody has been it.
    """

    user: str
    name: str
    device: str | None = None
    rooms: tuple[str, ...] | None = None
    expires_at: float = math.inf
    jti: str | None = None
    guest: bool = False
    new: bool = False
    acts_as: tuple[str, ...] = ()
    moderator: bool = False
    agent: bool = False

    def may_enter(self, room: str) -> bool:
        return self.rooms is None or any(matches(pattern, room) for pattern in self.rooms)

    def check_room(self, room: str) -> None:
        """Raise `forbidden` if the token does not cover the room."""
        if not self.may_enter(room):
            raise ChatError(ErrorCode.FORBIDDEN, f"your token does not let you into {room}: ask for one that does")

    def may_act_as(self, user: str) -> bool:
        return not user.startswith(GUEST_PREFIX) and any(matches(pattern, user) for pattern in self.acts_as)


def matches(pattern: str, name: str) -> bool:
    """Whether `name` fits `pattern`, where `*` is any run of characters and nothing else is special. Linear."""
    first, *rest = pattern.split("*")
    if not rest:
        return name == pattern
    last = rest.pop()
    if not name.startswith(first) or not name.endswith(last) or len(name) < len(first) + len(last):
        return False
    position, end = len(first), len(name) - len(last)
    for part in rest:
        position = name.find(part, position, end)
        if position < 0:
            return False
        position += len(part)
    return True


class _Claims(msgspec.Struct):
    """The payload of a token: what is not named here means nothing to this server."""

    sub: str
    exp: float
    nbf: float | None = None
    name: str | None = None
    device: str | None = None
    jti: str | None = None
    rooms: tuple[str, ...] | None = None
    acts_as: tuple[str, ...] | None = None
    moderator: bool = False
    agent: bool = False
    guest: object = None
    aud: object = None


def mint(
    secret: bytes,
    user: str,
    *,
    name: str | None = None,
    device: str | None = None,
    rooms: tuple[str, ...] | list[str] | None = None,
    ttl: float,
    jti: str | None = None,
    guest: bool = False,
    acts_as: tuple[str, ...] | list[str] | None = None,
    moderator: bool = False,
    agent: bool = False,
) -> str:
    """A token for `user`, good for `ttl` seconds; ChatError (bad_request) for what `authenticate` would refuse.

    `guest`: it is renewed with each connection, as only what this server gives to its guests may be.
    """
    check_user_id(user)
    claims: dict[str, Any] = {"sub": user, "exp": math.ceil(time.time() + ttl)}
    if name is not None:
        claims["name"] = check_name(name)
    if device is not None:
        claims["device"] = check_printable("device", device)
    if rooms is not None:
        claims["rooms"] = rooms
    if jti is not None:
        claims["jti"] = jti
    if guest:
        claims["guest"] = True
    if acts_as is not None:
        claims["acts_as"] = acts_as
    if moderator:
        claims["moderator"] = True
    if agent:
        claims["agent"] = True
    signed = _HEADER + _base64url(msgspec.json.encode(claims))
    token = b"%b.%b" % (signed, _signature(secret, signed))
    if len(token) > MAX_TOKEN_CHARS:
        raise ChatError(
            ErrorCode.BAD_REQUEST, f"the token is longer than {MAX_TOKEN_CHARS} characters; give fewer patterns"
        )
    return token.decode()


def authenticate(secret: bytes, token: str, *, guests: bool) -> Identity:
    """Whom `token` names; ChatError (unauthorized) says why it does not check. There is no leeway on times."""
    if len(token) > MAX_TOKEN_CHARS:
        raise _unauthorized(f"it is longer than {MAX_TOKEN_CHARS} characters")
    try:
        payload = _own_payload(secret, token) or _jws.decode(token, secret, algorithms=[_ALGORITHM])
        claims = msgspec.json.decode(payload, type=_Claims)
        user = check_user_id(claims.sub)
        name = claims.name
        if name is None or (name and is_blank(name)):  # blank ones were good once: they keep nobody out
            name = user
        else:
            check_name(name)
        device = None if claims.device is None else check_printable("device", claims.device)
    except jwt.PyJWTError as error:
        raise _unauthorized(_fault(token, error)) from None
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        raise _unauthorized(str(error)) from None
    except ChatError as error:
        raise _unauthorized(error.message) from None
    now = time.time()
    if claims.exp <= now:
        raise _unauthorized("it has expired; sign in again")
    if claims.nbf is not None and claims.nbf > now:
        raise _unauthorized("its time (nbf) has not come yet")
    if claims.aud is not None:  # RFC 7519 section 4.1.3: whoever is not named in it must refuse
        raise _unauthorized("it is meant for another audience (aud)")
    jti = claims.jti
    if user.startswith(GUEST_PREFIX):
        if not guests:
            raise _unauthorized("it is a guest's, and guests are not let in here; sign in")
        jti = jti or user
    # Of a backend's token for such an id, or one that an older version gave to a guest, `guest` is False: both are good
    # until they expire, and not renewed, since they cannot be told apart.
    guest = claims.guest is True and jti == user
    return Identity(
        user,
        name,
        device,
        claims.rooms,
        claims.exp,
        jti,
        guest,
        acts_as=claims.acts_as or (),
        moderator=claims.moderator,
        agent=claims.agent,
    )


def _fault(token: str, error: jwt.PyJWTError) -> str:
    """What is wrong with a token that PyJWT refused, for people."""
    if not token:
        return "it is empty; give one, or nothing at all"
    match error:
        case jwt.InvalidSignatureError():
            return "its signature is not this server's; it was signed with another key, or changed since"
        case jwt.DecodeError():
            return "it is not a JWT, three parts in base64url with dots between them; give it whole, as it was made"
    return str(error)


def _own_payload(secret: bytes, token: str) -> bytes | None:
    """The payload of a token that `mint` could have made; None: PyJWT tells what it is, and takes five times as long.

    It is read as strictly: what has no canonical base64url (RFC 7515 section 2) is left to it, too.
    """
    if not token.isascii():
        return None
    signed, _, signature = token.encode().rpartition(b".")
    if not signed.startswith(_HEADER) or not hmac.compare_digest(_signature(secret, signed), signature):
        return None
    text = signed[len(_HEADER) :]
    try:
        payload = binascii.a2b_base64(text.translate(_FROM_URL) + b"=" * (-len(text) % 4))
    except binascii.Error:
        return None
    return payload if _base64url(payload) == text else None


def _signature(secret: bytes, signed: bytes) -> bytes:
    mac = _keyed(secret).copy()
    mac.update(signed)
    return _base64url(mac.digest())


@lru_cache(8)
def _keyed(secret: bytes) -> hmac.HMAC:
    """To copy it takes a quarter of what OpenSSL takes to begin anew. Nothing may be added to it."""
    return hmac.new(secret, digestmod="sha256")


def _base64url(data: bytes) -> bytes:
    return binascii.b2a_base64(data, newline=False).rstrip(b"=").translate(_TO_URL)


class _SessionClaims(msgspec.Struct):
    jti: str | None = None


def jti_of(session: str) -> str:
    """The `jti` to be revoked: a token's own, or `session` itself.

    The signature is not looked at: whoever revokes has a token, not always the key. ConfigError says what is wrong.
    """
    if not (session.startswith("eyJ") and "." in session):  # as every JWT does: its header is a JSON object
        return check_jti(session)
    try:
        claims = msgspec.json.decode(_jws.decode(session, options={"verify_signature": False}), type=_SessionClaims)
    except (jwt.PyJWTError, ValueError, RecursionError) as error:
        why = _fault(session, error) if isinstance(error, jwt.PyJWTError) else error
        raise ConfigError(f"TOKEN_OR_JTI: it looks like a token, but cannot be read: {why}") from None
    if claims.jti is None:
        raise ConfigError(
            "TOKEN_OR_JTI: the token has no `jti`, by which it could be revoked; `tornado-chat token` mints tokens "
            "with one, and a new key in --secret-file ends all tokens"
        )
    return check_jti(claims.jti)


def check_jti(jti: str) -> str:
    """`jti` if it can be revoked; ConfigError if not."""
    if not 1 <= len(jti) <= MAX_JTI_CHARS or not jti.isprintable():
        raise ConfigError(f"jti: must be a string of 1 to {MAX_JTI_CHARS} printable characters")
    return jti


def _unauthorized(why: str) -> ChatError:
    return ChatError(ErrorCode.UNAUTHORIZED, f"the token does not check: {why}")


# fmt: off
_ADJECTIVES = (
    "Amber", "Brave", "Bright", "Calm", "Clever", "Curious", "Eager", "Gentle",
    "Golden", "Happy", "Kind", "Lucky", "Merry", "Quick", "Quiet", "Silver",
)
_ANIMALS = (
    "Badger", "Beaver", "Crane", "Dolphin", "Falcon", "Fox", "Hare", "Heron",
    "Lynx", "Marten", "Otter", "Owl", "Robin", "Seal", "Swift", "Wren",
)
# fmt: on


def new_guest(name: str | None) -> Identity:
    """A guest nobody has been before; ChatError (bad_request) for a `name` that is none."""
    drawn = secrets.token_hex(8 + DEVICE_BYTES)
    user = GUEST_PREFIX + drawn[:16]
    if name is None:
        name = f"{secrets.choice(_ADJECTIVES)} {secrets.choice(_ANIMALS)}"
    return Identity(user, check_name(name), drawn[16:], jti=user, guest=True, new=True)


def new_device() -> str:
    return secrets.token_hex(DEVICE_BYTES)


def load_secret(settings: Settings) -> bytes:
    """The key that signs tokens: the bytes of --secret-file without white space at its ends.

    Without that flag: of `<database path>.secret`, which is made if it is not there yet.
    """
    path, source = settings.secret_file, "--secret-file"
    if path is None:
        if not settings.database.startswith("sqlite:"):
            raise ConfigError(
                "--secret-file: is needed with PostgreSQL: a file with a key of your own "
                "(such as from: openssl rand -hex 32)"
            )
        path, source = sqlite_path(settings.database) + ".secret", "--database"
        if not os.path.exists(path):
            _make_secret(path)
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            secret = file.read(MAX_SECRET_BYTES + 1).strip()
    except OSError as error:
        raise ConfigError(
            f"{source}: the key in {path!r} cannot be read: {error.strerror}; give a readable file"
        ) from None
    if not 1 <= len(secret) <= MAX_SECRET_BYTES:
        raise ConfigError(
            f"{source}: the key in {path!r} has {len(secret)} bytes; it must have 1 to {MAX_SECRET_BYTES} "
            "(such as from: openssl rand -hex 32)"
        )
    if len(secret) < SHORT_SECRET_BYTES:
        logger.warning("the key that signs tokens is short: it can be guessed path=%s bytes=%d", path, len(secret))
    # Only of the key made here: a file that is mounted into a container often is readable by all.
    if settings.secret_file is None and mode & 0o077:
        logger.warning("the key that signs tokens can be read by others; chmod 600 mends it path=%s", path)
    # HMAC pads a short key with zeros itself (RFC 2104 section 2): the same signatures, and no warning from PyJWT.
    secret = secret.ljust(32, b"\0")
    try:
        _jws.encode(b"", secret, _ALGORITHM)
    except jwt.PyJWTError:  # what looks like the key of another kind of signature
        raise ConfigError(
            f"{source}: the key in {path!r} is a public or private key or a certificate (PEM, SSH), which cannot sign "
            "tokens here; give a file of random characters (such as from: openssl rand -hex 32)"
        ) from None
    return secret


def find_secret(settings: Settings) -> bytes:
    """The key of a server that there is already, for who makes tokens beside it; ConfigError where there is none."""
    if settings.secret_file is None and settings.database.startswith("sqlite:"):
        # A key that is made here would be no server's.
        path = sqlite_path(settings.database)
        if not os.path.exists(path) and not os.path.exists(path + ".secret"):
            raise ConfigError(
                f"--database: there is no log at {path!r}; give the one that the server uses, or its --secret-file"
            )
    return load_secret(settings)


def _make_secret(path: str) -> None:
    """Write a new key to `path`, whole or not at all; if another process was first, its key stands."""
    draft = f"{path}.{secrets.token_hex(8)}"
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with open(descriptor, "wb") as file:
                os.fchmod(descriptor, 0o600)  # a umask may have taken the owner's bits
                file.write(secrets.token_hex(32).encode() + b"\n")
                file.flush()
                os.fsync(descriptor)
            with contextlib.suppress(FileExistsError):  # another process was first
                os.link(draft, path)
                logger.info("made a key that signs tokens path=%s", path)
        finally:
            os.unlink(draft)
    except OSError as error:
        raise ConfigError(
            f"--database: no key can be made at {path!r}: {error.strerror}; make its folder writable, "
            "or give --secret-file"
        ) from None
