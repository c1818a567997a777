"""What befalls a world of processors: each kind of fault, and when, drawn from the seed."""

from collections.abc import Callable
from functools import partial

from sim_world import LATE_MAX_S, Life, World


def befall(world: World, seconds: float, count: int) -> None:
    """Have so many things happen within so many seconds."""
    names = sorted(MISFORTUNES)
    for _ in range(count):
        misfortune = MISFORTUNES[world.random.choice(names)]
        world.time.call(world.random.uniform(0.0, seconds), partial(misfortune, world))


def _arm(name: str, most: int = 1) -> Callable[[World], None]:
    def misfortune(world: World) -> None:
        count = world.random.randint(1, most)
        setattr(world.cluster.faults, name, count)
        world.fault(name, f"from now on {name}: {count}")
        if name == "fail_next_commit":
            world.time.call(world.random.uniform(0.0, LATE_MAX_S), world.log.deliver_late)

    return misfortune


def _broker_away(world: World) -> None:
    count, faults = world.random.randint(2, 25), world.cluster.faults
    faults.unavailable_polls, faults.unavailable_commits = count, max(1, count // 5)
    faults.unavailable_writers = max(1, count // 5)
    world.fault("broker away", f"the broker is away for {count} polls")


def _store_away(world: World) -> None:
    world.weather.away = world.random.randint(1, 12)
    world.fault("store away", f"the store is away for {world.weather.away} requests")


def _store_missing(world: World) -> None:
    world.weather.missing = world.random.randint(1, 4)
    world.fault("store missing", f"the store misses the next {world.weather.missing} objects")


def _store_slow(world: World) -> None:
    world.weather.slow_s = world.random.uniform(0.1, 4.0)
    world.fault("store slow", f"each request to the store takes {world.weather.slow_s:.1f} s")
    world.time.call(world.random.uniform(1.0, 10.0), world.weather.be_fast)


def _to_someone(act: Callable[[World, Life], None]) -> Callable[[World], None]:
    def misfortune(world: World) -> None:
        if living := world.living():
            act(world, world.random.choice(living))

    return misfortune


def _kill(world: World, life: Life) -> None:
    world.tally.killed[f"{life.slot.kind}: waiting"] += 1
    world.say(f"{life.name} is killed where it waits")
    world.time.kill(life.task)


def _stop(world: World, life: Life) -> None:
    world.fault("stop", f"{life.name} is told to stop")
    life.stopping = True


def _expire(world: World, life: Life) -> None:
    world.fault("expire", f"{life.name} is thrown out of its group")
    world.log.expire(life.name)


def _time_out(world: World, life: Life) -> None:
    world.fault("time out", f"{life.name}: session and transaction are over, though it lives")
    life.slot.expire()


def _double(world: World, life: Life) -> None:
    """Another process takes its name; the old one goes on, and finds out."""
    world.fault("double", f"{life.name} is started a second time")
    life.slot.start()


MISFORTUNES: dict[str, Callable[[World], None]] = {
    "abort": _arm("abort_next"),
    "request lost": _arm("fail_next_commit"),
    "reply lost": _arm("lose_next_commit_reply"),
    "nothing to read": _arm("empty_polls", 6),
    "no state to read": _arm("empty_state_polls", 6),
    "broker away": _broker_away,
    "store away": _store_away,
    "store missing": _store_missing,
    "store slow": _store_slow,
    "kill": _to_someone(_kill),
    "stop": _to_someone(_stop),
    "expire": _to_someone(_expire),
    "time out": _to_someone(_time_out),
    "double": _to_someone(_double),
}
