"""The newest entries by key: what tells a copy from another content under the same id."""

from collections import OrderedDict
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

KEPT = 4096
"""A copy comes of a retry, seconds later at most: at 1 kHz this is four seconds."""


class Recent(Generic[K, V]):
    """A dictionary that forgets its oldest entries."""

    def __init__(self, kept: int = KEPT) -> None:
        self._entries: OrderedDict[K, V] = OrderedDict()
        self._kept = kept
        self.forgot = False
        """Whether something was forgotten, so that a key may have been here."""

    def __setitem__(self, key: K, value: V) -> None:
        self._entries[key] = value
        if len(self._entries) > self._kept:
            self._entries.popitem(last=False)
            self.forgot = True

    def get(self, key: K) -> V | None:
        """The value under this key, or None."""
        return self._entries.get(key)

    def may_hold(self, key: K, value: V) -> bool:
        """Whether this value is under the key, or may have been."""
        return self._entries.get(key) == value or (key not in self._entries and self.forgot)
