"""The last window of events and what the filter knew after each, so that late ones find a place.

Any order of arrival inside the window ends in the same state to the last bit: the state is a
function of the events in their own order, and the history begins with the initial state.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Sequence

from streams.acting.fusion.filter import Event, Snapshot

Step = Callable[[Snapshot, Event], Snapshot]


class History:
    """Events in order, with the snapshot after each; before them lies `base`."""

    def __init__(self, step: Step, base: Snapshot) -> None:
        self._step, self._base = step, base
        self._events: list[Event] = []
        self._after: list[Snapshot] = []
        self._known: set[tuple[str, int]] = set()

    @property
    def newest(self) -> Snapshot:
        """After all events."""
        return self._after[-1] if self._after else self._base

    @property
    def newest_event(self) -> Event | None:
        """The last in the order of events, if the window has any."""
        return self._events[-1] if self._events else None

    def knows(self, event: Event) -> bool:
        """Whether this reading of its channel was added before."""
        return (event.channel, event.seq) in self._known

    def add(self, events: Sequence[Event]) -> None:
        """Put events in their places and step again from the first of them."""
        if not events:
            return
        at = bisect_left(self._events, min(events))
        del self._after[at:]
        for event in events:
            insort(self._events, event)
            self._known.add((event.channel, event.seq))
        snapshot = self.newest
        for event in self._events[at:]:
            snapshot = self._step(snapshot, event)
            self._after.append(snapshot)

    def forget(self, before_ms: float) -> None:
        """Let go of events before this time: what comes in after must not be earlier."""
        count = bisect_left(self._events, (before_ms,))
        if count:
            self._base = self._after[count - 1]
            self._known.difference_update((e.channel, e.seq) for e in self._events[:count])
            del self._events[:count], self._after[:count]
