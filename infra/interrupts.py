"""What a signal means for a while: a wish to stop, or something to be heeded later."""

import _thread
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

Handler = Callable[[int, FrameType | None], object]


@contextlib.contextmanager
def handled(by: Handler, *numbers: signal.Signals) -> Iterator[None]:
    """Have this called for these signals as long as the block lasts; in the main thread only."""
    before = {number: signal.signal(number, by) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def signals_stop() -> Iterator[threading.Event]:
    """An event that SIGTERM and Ctrl-C set, as long as the block lasts."""
    stop = threading.Event()

    def set_it(number: int, frame: object) -> None:
        # Elsewhere: this thread may be inside `stop.wait`, holding the lock that `set` wants.
        _thread.start_new_thread(stop.set, ())

    with handled(set_it, signal.SIGTERM, signal.SIGINT):
        yield stop


@contextlib.contextmanager
def interrupts_wait() -> Iterator[None]:
    """Have a Ctrl-C of meanwhile come at the end; in the main thread only, for others get none.

    A handler, not a mask: processes that are started meanwhile would inherit a mask.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    try:
        with handled(lambda number, _: came.append(number), signal.SIGINT):
            yield
    finally:
        if came:
            signal.raise_signal(signal.SIGINT)
