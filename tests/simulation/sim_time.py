"""Virtual time, and threads that take turns in it: one runs at a time, in an order of the seed's.

A thread runs until it waits; then whoever is due next runs, and the clock is his. So code that
waits for a broker, as the product's does, needs no change to be simulated.
"""

import heapq
import itertools
import threading
from collections.abc import Callable

START_S = 1_900_000_000.0
"""When simulations begin, in seconds since 1970: later than any test is run."""


class Killed(BaseException):
    """The process ends here: nothing that comes after it is done."""


class Task:
    """A thread that waits for its turn."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.killed = False
        self.ended = False
        self.wake = 0
        """The number of its newest place in the queue; older ones are void."""
        self._baton = threading.Lock()
        self._baton.acquire()

    def go(self) -> None:
        """Let it run; who calls this waits or ends at once."""
        self._baton.release()

    def await_turn(self) -> None:
        """Wait to be let run; raises `Killed`."""
        self._baton.acquire()


class Time:
    """The clock and the queue of what is due."""

    def __init__(self) -> None:
        self.now_s = START_S
        self.error: BaseException | None = None
        self._due: list[tuple[float, int, Task | Callable[[], None]]] = []
        self._numbers = itertools.count(1)
        self._main = Task("main")
        self.running = self._main
        self._acts = False
        self._threads: dict[Task, threading.Thread] = {}

    def now(self) -> float:
        """The clock."""
        return self.now_s

    def call(self, after_s: float, act: Callable[[], None]) -> None:
        """Have something done at a time; it must not wait."""
        heapq.heappush(self._due, (self.now_s + after_s, next(self._numbers), act))

    def spawn(self, name: str, work: Callable[[], None]) -> Task:
        """A thread whose turn comes as soon as others wait."""
        task = Task(name)

        def run() -> None:
            task.await_turn()
            try:
                if not task.killed:
                    work()
            except Killed:
                pass
            except BaseException as error:
                self.fail(error)
            task.ended = True
            self._next().go()

        thread = threading.Thread(target=run, daemon=True)
        self._threads[task] = thread
        thread.start()
        self._queue(task, 0.0)
        return task

    def sleep(self, seconds: float) -> None:
        """Wait while others go on; raises `Killed`."""
        me = self.running
        if self._acts:
            raise AssertionError("what is called at a time must not wait")
        if me.killed:
            raise Killed
        if me is self._main:
            self.now_s += seconds
            return
        self._queue(me, seconds)
        self._pass_on(me)

    def kill(self, task: Task) -> None:
        """End a thread where it waits."""
        if not task.ended:
            task.killed = True
            self._queue(task, 0.0)

    def run(self, limit_s: float) -> bool:
        """Let all go on until `stop` is called; false where the limit came first."""
        self._queue(self._main, limit_s)
        self._stopped = False
        self._pass_on(self._main)
        if self.error is not None:
            raise self.error
        return self._stopped

    def stop(self) -> None:
        """Have `run` return next."""
        self._stopped = True
        self._queue(self._main, -1.0)

    def fail(self, error: BaseException) -> None:
        """Have `run` raise this."""
        self.error = self.error or error
        self.stop()

    def close(self) -> None:
        """End all threads."""
        for task, thread in self._threads.items():
            self.kill(task)
            while not task.ended:
                self._queue(self._main, -1.0)
                self.running = task
                task.go()
                self._main.await_turn()
            thread.join()
        self._threads.clear()

    def forget(self, task: Task) -> None:
        """Let go of a thread that has ended."""
        if task.ended:
            self._threads.pop(task).join()

    def _queue(self, task: Task, after_s: float) -> None:
        task.wake = next(self._numbers)
        heapq.heappush(self._due, (self.now_s + after_s, task.wake, task))

    def _pass_on(self, me: Task) -> None:
        following = self._next()
        if following is not me:
            following.go()
            me.await_turn()
        if me.killed:
            raise Killed

    def _next(self) -> Task:
        """Whose turn it is; what is to be done before that is done here."""
        while True:
            at_s, number, what = heapq.heappop(self._due)
            if isinstance(what, Task):
                if what.ended or what.wake != number:
                    continue
                self.now_s = max(self.now_s, at_s)
                self.running = what
                return what
            self.now_s = max(self.now_s, at_s)
            self._acts = True
            try:
                what()
            except BaseException as error:
                self.fail(error)
            self._acts = False
