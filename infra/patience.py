"""Waits that have a limit: what is missing may come, but not for ever."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from infra.clock import monotonic
from infra.log import LogUnavailable

logger = logging.getLogger("ralo.driver")

Vain = Callable[[BaseException | None], None]
"""Called after each vain attempt; raises `GaveUp` in the end."""

PAUSE_S = 0.05


class GaveUp(Exception):
    """A wait reached its limit; the process ends and its supervisor starts it again."""


@dataclass
class Patience:
    """How long one processor waits for anything, and what it does meanwhile."""

    name: str
    limit_s: float = 60.0
    clock: Callable[[], float] = monotonic
    sleep: Callable[[float], None] = time.sleep
    meanwhile: Callable[[], None] = field(default=lambda: None)
    broker_limit_s: Callable[[], float] | None = None
    """How long to wait for the broker, where that is not `limit_s`."""
    counted: Callable[[], None] = field(default=lambda: None)
    """Called at the beginning of each wait for what is missing."""

    def wait(self, what: str) -> Vain:
        """A wait for `what`, beginning at the first vain attempt."""
        began: float | None = None

        def vain(error: BaseException | None) -> None:
            nonlocal began
            if began is None:
                began = self.clock()
                if error is not None:
                    self.counted()
                    logger.info("%s: waiting for %s: %s", self.name, what, error)
            limit_s = self._limit_s(error)
            if self.clock() - began > limit_s:
                text = f"{self.name}: waited {limit_s:.0f} s for {what}"
                raise GaveUp(f"{text}: {error}" if error else text) from error
            self.meanwhile()
            if error is not None:
                self.sleep(PAUSE_S)

        return vain

    def _limit_s(self, error: BaseException | None) -> float:
        if self.broker_limit_s is not None and isinstance(error, LogUnavailable):
            return self.broker_limit_s()
        return self.limit_s

    def until_available(self, what: str, attempt: Callable[[], Any]) -> Any:
        """The answer of an attempt, made again while the log does not answer."""
        vain = self.wait(what)
        while True:
            try:
                return attempt()
            except LogUnavailable as error:
                vain(error)
