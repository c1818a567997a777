"""The shared experience memory: the episodes of the log, read again from any offset on.

from consumers.experience import experience

for one in experience(policy="arm", versions=range(40, 60)):
    print(one.at, one.group.version, one.episodes.returns)
"""

from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass

from consumers.read import belongs, decoded, read_until
from infra.log import Log
from infra.store import ObjectStore
from schemas.learning import SampleGroup
from schemas.records import Partition, Record
from schemas.topics import SAMPLES
from streams.learning.control.episodes import Episodes, load_episodes


@dataclass(frozen=True)
class Experience:
    """The episodes of one group, and where it lies in the log."""

    record: Record
    group: SampleGroup
    episodes: Episodes

    @property
    def at(self) -> str:
        """Where its record lies."""
        return self.record.at

    @property
    def after(self) -> dict[Partition, int]:
        """What to add to `start`, so that reading goes on behind it."""
        return {self.record.partition: self.record.offset + 1}


def experience(
    *,
    policy: str | None = None,
    mission: str | None = None,
    versions: Container[int] | None = None,
    where: Callable[[SampleGroup], bool] | None = None,
    start: Mapping[Partition, int] | None = None,
    log: Log | None = None,
    store: ObjectStore | None = None,
) -> Iterator[Experience]:
    """All episodes of the log up to its end as of now, in order per partition, with their arrays.

    `versions` are those that played, `where` looks at a group before its object is fetched, `start`
    says where to begin in some partitions; what retention deleted before it is passed over. Without
    `log` and `store` those of the settings are read. Raises `LogUnavailable`, `MissingObject`,
    `BadEpisodes`.
    """
    log, store = log or _log_of_settings(), store or _store_of_settings()
    ends = {
        partition: (max(first, (start or {}).get(partition, first)), end)
        for partition, (first, end) in log.ends(SAMPLES.name).items()
    }
    left = {partition: (first, end) for partition, (first, end) in ends.items() if first < end}
    for record in map(decoded, read_until(log, left) if left else ()):
        group = record.event
        if not isinstance(group, SampleGroup) or group.episodes_ref is None:
            continue
        if not belongs(record, mission, policy) or (where and not where(group)):
            continue
        if versions is None or group.version in versions:
            yield Experience(record, group, load_episodes(store.get(group.episodes_ref)))


def _log_of_settings() -> Log:
    from infra.connect import connect_log
    from infra.settings import settings

    return connect_log(settings())


def _store_of_settings() -> ObjectStore:
    from infra.connect import connect_store
    from infra.settings import settings

    return connect_store(settings())
