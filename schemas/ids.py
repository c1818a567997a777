"""Ids and random numbers, both derived by hashing what they belong to.

No id depends on a batch, a worker or a weight version, so work done again has the same ids;
random numbers are counter-based, so they do not depend on what else ran in the process.
"""

import hashlib
import json
import unicodedata


def digest(data: bytes) -> str:
    """SHA-256 of the bytes, in hex."""
    return hashlib.sha256(data).hexdigest()


def _canonical(parts: tuple[object, ...]) -> bytes:
    return json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def derived_id(*parts: object) -> str:
    """An id of 80 bits (20 hex digits) from JSON-able parts."""
    return digest(_canonical(parts))[:20]


def derived_seed(*parts: object) -> int:
    """An unsigned 64-bit seed from JSON-able parts."""
    return int(digest(_canonical(parts))[:16], 16)


def canonical_text(text: str) -> str:
    """The text that decides identity: NFC, white space folded, ends stripped."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def problem_id(mission_id: str, epoch: int, question: str) -> str:
    """The id of one question in one epoch of one mission."""
    return derived_id("problem", mission_id, epoch, canonical_text(question))


def is_heldout(question: str, fraction: float) -> bool:
    """Whether the question belongs to the held-out split; by its text alone, so never to both."""
    return int(digest(canonical_text(question).encode())[:8], 16) / 2**32 < fraction
