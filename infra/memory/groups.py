"""Consumer groups in memory: static members, cooperative rebalances, generations.

Like librdkafka, a member learns of a new generation in the background, and gives up and takes
partitions only when it polls. Sessions end when told to (`expire`), never by a clock.
"""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field

from infra.log import Fenced, Mark
from schemas.records import Partition


@dataclass(eq=False, slots=True)
class Member:
    """One incarnation of a static instance: what it should own, and what it has taken."""

    instance: str
    id: int
    subscribed: frozenset[Partition]
    target: set[Partition] = field(default_factory=set)
    held: set[Partition] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class MemoryMembership:
    """Who read some records: instance, incarnation and generation at that time."""

    instance: str
    member: int
    generation: int


class Group:
    """One group: its members, its generation and its committed marks."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.generation = 0
        self.members: dict[str, Member] = {}
        self.marks: dict[Partition, Mark] = {}
        self._ids = itertools.count(1)

    def join(self, instance: str, partitions: Iterable[Partition]) -> Member:
        """A new member, or a new incarnation of one: that has its assignment, others keep theirs.

        The older incarnation is fenced.
        """
        known = self.members.get(instance)
        member = Member(instance, next(self._ids), frozenset(partitions))
        self.members[instance] = member
        if known is not None and known.subscribed == member.subscribed:
            member.target = known.target
        else:
            self._rebalance()
        return member

    def expire(self, instance: str) -> None:
        """End the session of a member: its partitions go to the others."""
        if self.members.pop(instance, None) is not None:
            self._rebalance()

    def poll(self, member: Member) -> tuple[set[Partition], set[Partition]]:
        """What the member gains and gives up now; a partition moves in two polls, never at once."""
        revoked = member.held - member.target
        member.held -= revoked
        if revoked:
            self.generation += 1
        elsewhere = {p for m in self.members.values() if m is not member for p in m.held}
        gained = member.target - member.held - elsewhere
        member.held |= gained
        return gained, revoked

    def is_replaced(self, member: Member) -> bool:
        """Whether a newer incarnation of this instance has joined."""
        return self.members.get(member.instance, member) is not member

    def is_expired(self, member: Member) -> bool:
        """Whether the session of this instance has ended."""
        return member.instance not in self.members

    def membership(self, member: Member) -> MemoryMembership:
        """The member's proof for a commit; stale at once when its session is over."""
        return MemoryMembership(member.instance, member.id, self.generation)

    def check(self, membership: object) -> None:
        """Raise `Fenced` unless the commit comes from a member of this generation.

        As on the broker, who owns the partitions is not looked at.
        """
        if not isinstance(membership, MemoryMembership):
            raise TypeError(f"{membership!r} is not a membership of this log")
        member = self.members.get(membership.instance)
        if member is None:
            raise Fenced(f"group {self.name}: {membership.instance} is no member any more")
        if member.id != membership.member:
            raise Fenced(f"group {self.name}: {membership.instance} has a newer incarnation")
        if membership.generation != self.generation:
            raise Fenced(
                f"group {self.name}: generation {membership.generation} of "
                f"{membership.instance} is over, now {self.generation}"
            )

    def _rebalance(self) -> None:
        self.generation += 1
        members = [self.members[name] for name in sorted(self.members)]
        wanted = {p for m in members for p in m.subscribed}
        taken: set[Partition] = set()
        for member in members:
            # A fresh set: an older incarnation may still look at the one it was given.
            member.target = (member.target & member.subscribed) - taken
            taken |= member.target
        for partition in sorted(wanted - taken, key=str):
            takers = [m for m in members if partition in m.subscribed]
            min(takers, key=lambda m: len(m.target)).target.add(partition)
        while _move_one(members):
            pass


def _move_one(members: list[Member]) -> bool:
    """Move one partition from a loaded member to one with at least two fewer."""
    by_load = sorted(members, key=lambda m: len(m.target))
    for poor, rich in itertools.product(by_load, reversed(by_load)):
        movable = rich.target & poor.subscribed
        if movable and len(rich.target) - len(poor.target) > 1:
            partition = max(movable, key=str)
            rich.target.remove(partition)
            poor.target.add(partition)
            return True
    return False
