"""From any id up to what caused it and down to what it led to, by the links that events hold."""

from consumers.trace.find import AmbiguousId, UnknownId
from consumers.trace.run import Traced, trace

__all__ = ["AmbiguousId", "Traced", "UnknownId", "trace"]
