"""How RedisStore keeps a record, and the Lua that changes it in one step.

A record is one string: a head, for a session that has an owner what its index needs, the
data. A touch rewrites the first bytes alone.
"""

from __future__ import annotations

import os
import struct
from hashlib import sha1
from math import ceil
from typing import Any, NamedTuple

from django_kvsessions.stores.base import OWNER_SIZE, Record, now

__all__ = [
    "CREATE",
    "DELETE",
    "LIST",
    "REPLACE",
    "SCRIPTS",
    "TELL_INDEX",
    "TIME",
    "TOUCH",
    "UNTIL",
    "Command",
    "Head",
    "Reply",
    "bucket",
    "condition",
    "listed",
    "listed_until",
    "new_token",
    "script",
    "ttl",
    "value",
]

#: Name and arguments of what is asked of a server.
Command = tuple[bytes, ...]
#: Bytes, a number, None, or a list of these; where the server answers with an error, that.
Reply = Any

TIME = struct.Struct(">d")
REVISION = struct.Struct(">Q")
UNTIL = struct.Struct(">I")
TOKEN_SIZE = 8
# When it expires, its revision, random bytes of the write, the length of its owner. By the
# random bytes a write whose answer was lost knows that it was done.
HEADER = struct.Struct(f">dQ{TOKEN_SIZE}sB")
# Only where there is an owner: until when its index lists the session, in whole seconds.
OWNED = struct.Struct(f">I{OWNER_SIZE}s")

MARK_SIZE = 4


def field(of: str, start: int, size: int) -> str:
    """Lua for some bytes of a text; its positions count from 1."""
    return f"{of}:sub({start + 1}, {start + size})"


def expires_of(of: str) -> str:
    return f"struct.unpack('>d', {of})"


def revision_of(of: str) -> str:
    return field(of, TIME.size, REVISION.size)


def is_owned(of: str) -> str:
    return f"{of}:byte({HEADER.size}) > 0"


def until_of(of: str) -> str:
    return f"struct.unpack('>I4', {of}, {HEADER.size + 1})"


def owner_of(of: str) -> str:
    return field(of, HEADER.size + UNTIL.size, OWNER_SIZE)


# Every script gets one key, because a cluster runs no other, and the caller's clock,
# because a record ends by it: the server's TTL only sweeps up.
LIVE = f"""
local head = redis.call('GETRANGE', KEYS[1], 0, {HEADER.size + OWNED.size - 1})
local there = head ~= ''
if #head < {HEADER.size} or {expires_of("head")} <= {expires_of("ARGV[1]")} then head = nil end
"""
# A replica would say of what has not reached it yet that it is gone. A write, even
# one that changes nothing, makes it say that it is read-only instead.
GONE = """
if not head then
  if not there then redis.call('DEL', KEYS[1]) end
  return 0
end
"""
# ARGV: now, value, ttl.
CREATE = f"""{LIVE}
if head then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
"""
# ARGV: now, value, ttl, the revision it must have, or nothing. Returns 2 where the owner's
# index has to be told first: it does not list the session, or not for long enough.
REPLACE = f"""{LIVE}{GONE}
local value = ARGV[2]
if ARGV[4] ~= '' and {revision_of("head")} ~= ARGV[4] then return 0 end
local listed = {is_owned("value")} and {until_of("value")} == 0
if listed then
  if {owner_of("value")} ~= {owner_of("head")} or not ({is_owned("head")}) then return 2 end
  if {expires_of("value")} > {until_of("head")} then return 2 end
end
redis.call('SET', KEYS[1], value, 'PX', ARGV[3])
if listed then
  redis.call('SETRANGE', KEYS[1], {HEADER.size}, {field("head", HEADER.size, UNTIL.size)})
end
return 1
"""
# ARGV: now, expires, ttl, the revision it must have, or nothing, the owner whose index was
# told, until when it lists the session. Returns the owner where it has to be told first.
TOUCH = f"""{LIVE}{GONE}
if ARGV[4] ~= '' and {revision_of("head")} ~= ARGV[4] then return 0 end
if {is_owned("head")} and {expires_of("ARGV[2]")} > {until_of("head")} then
  if {owner_of("head")} ~= ARGV[5] then return {owner_of("head")} end
  redis.call('SETRANGE', KEYS[1], {HEADER.size}, ARGV[6])
end
redis.call('SETRANGE', KEYS[1], 0, ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
"""
# ARGV: now, the name of an index without its end, the key. Returns the owner where an index
# still lists the session: a cluster has it elsewhere.
DELETE = f"""{LIVE}
redis.call('DEL', KEYS[1])
if not head then return 0 end
if {is_owned("head")} then
  local owner = {owner_of("head")}
  local index = ARGV[2] .. owner:sub(1, 1) .. string.char(owner:byte(2) - owner:byte(2) % 32)
  local removed = redis.pcall('ZREM', index, {field("owner", 1, MARK_SIZE)} .. ARGV[3])
  if type(removed) == 'table' and removed.err then return owner end
end
return 1
"""
# An index: sessions by until when they are listed. ARGV: now, ttl, until, what is listed.
LIST = f"""
redis.call('ZADD', KEYS[1], ARGV[3], ARGV[4])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ({expires_of("ARGV[1]")}))
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 1
"""
TELL_INDEX = 2

DIGESTS = {
    each: sha1(each.encode(), usedforsecurity=False).hexdigest().encode()
    for each in (CREATE, REPLACE, TOUCH, DELETE, LIST)
}
SCRIPTS = {digest: each.encode() for each, digest in DIGESTS.items()}

# The longest TTL asked for, in ms: what comes later overflows in some servers.
MAX_TTL = 10**15


def bucket(owner: bytes) -> bytes:
    """Which of 2048 indexes lists the sessions of an owner. One for each owner would take
    a third of what a small session takes."""
    return bytes((owner[0], owner[1] & 0xE0))


def listed(owner: bytes, key: bytes) -> bytes:
    """A session as an index has it. Whose it is for certain, its record says."""
    return owner[1 : 1 + MARK_SIZE] + key


class Head(NamedTuple):
    """What stands before the data, and where they begin."""

    expires: float
    revision: int
    token: bytes
    owner: bytes
    size: int

    @classmethod
    def of(cls, stored: bytes) -> Head:
        """``struct.error`` where it is no record."""
        expires, revision, token, length = HEADER.unpack_from(stored)
        if length not in (0, OWNER_SIZE):
            raise struct.error("no owner has this length")
        if not length:
            return cls(expires, revision, token, b"", HEADER.size)
        _, owner = OWNED.unpack_from(stored, HEADER.size)
        return cls(expires, revision, token, owner, HEADER.size + OWNED.size)


def value(record: Record, token: bytes, until: int) -> bytes:
    data, expires, revision, owner = record
    head = HEADER.pack(expires, revision, token, len(owner))
    return head + (OWNED.pack(until, owner) if owner else b"") + data


def script(source: str, name: bytes, *arguments: bytes) -> Command:
    """The command that runs a script on one key, with the time as its first argument."""
    return (b"EVALSHA", DIGESTS[source], b"1", name, TIME.pack(now()), *arguments)


def listed_until(expires: float) -> int:
    """Until when the index is to list a session: longer than it lives, so that most of
    the writes that prolong its life need not tell the index."""
    life = max(expires - now(), 0)
    return min(max(ceil(expires), int(expires + life / 10), 0), 2**32 - 1)


def ttl(expires: float) -> bytes:
    # Relative, so that the server's clock need not agree with ours.
    return b"%d" % min(max(ceil((expires - now()) * 1000), 1), MAX_TTL)


def new_token() -> bytes:
    return os.urandom(TOKEN_SIZE)


def condition(expected: int | None) -> bytes:
    """The revision that a record must have; nothing where any will do."""
    return b"" if expected is None else REVISION.pack(expected)
