"""The releases of one robot, as far as the log or this process has them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from schemas.acting import Release, Stage

_TERMINAL = {"COMMITTED", "ROLLED_BACK"}


@dataclass
class Way:
    """One release and the stages that were told of it."""

    offer: Release
    stages: set[Stage] = field(default_factory=set)

    @property
    def is_open(self) -> bool:
        """Whether it was offered and has not come to an end."""
        return self.offer.stage == "OFFERED" and not self.stages & _TERMINAL


class Ways:
    """All releases by id, in the order of the log."""

    def __init__(self) -> None:
        self._ways: dict[str, Way] = {}

    def __len__(self) -> int:
        return len(self._ways)

    def known(self, release: Release) -> None:
        """Take in a record of `releases`, of the past or new."""
        way = self._ways.setdefault(release.release_id, Way(release))
        way.stages.add(release.stage)
        if release.stage == "OFFERED" and not way.offer.files:
            way.offer = release

    def tells(self, offer: Release, stage: Stage) -> bool:
        """Note that a stage is told; False where it was told before."""
        way = self._ways.setdefault(offer.release_id, Way(offer))
        if stage in way.stages:
            return False
        way.stages.add(stage)
        return True

    def told(self, offer: Release, stage: Stage) -> bool:
        """Whether that stage was told before."""
        way = self._ways.get(offer.release_id)
        return way is not None and stage in way.stages

    def offer(self, release_id: str) -> Release | None:
        """The offer of that release, as far as it is known."""
        way = self._ways.get(release_id)
        return way.offer if way else None

    def open(self, without: str) -> Sequence[Release]:
        """The offers that wait for something, but for one release; the newest last."""
        return [way.offer for id_, way in self._ways.items() if way.is_open and id_ != without]

    def last_committed(self) -> Release | None:
        """The offer of the last release that was committed."""
        done = [w.offer for w in self._ways.values() if "COMMITTED" in w.stages and w.offer.files]
        return done[-1] if done else None
