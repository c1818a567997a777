"""`ralo bench latency`: from a sensor frame published to the command received, beside a bare chain.

Both chains are of the same shape: a publisher, a process that answers frames with states, a process
that answers states with commands, a receiver. Ours are `ralo run fusion` and `ralo run controller`;
the others pass a number on with plain confluent-kafka, in payloads of the same sizes. They take
turns, half a period apart, so that whatever the machine does meanwhile is done to both.
"""

import contextlib
import json as json_module
import os
import platform
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any

import typer

from infra.cli.bench_stack import delete_topics, say, stack_of
from infra.cli.latency_chains import (
    WORLD,
    BenchError,
    Chain,
    Work,
    bare_chain,
    drive,
    measured_work,
    mission_of,
    our_chain,
    robot_file,
)
from infra.settings import Settings

RATIO_MAX = 2.0
"""What is held to be good, at the median."""
WARM_S = 2.0
READY_S = 40.0
DRAIN_S = 5.0


def latency(
    rate: Annotated[float, typer.Option(min=1, max=200, help="Frames a second, each way.")] = 50.0,
    seconds: Annotated[float, typer.Option(min=1, help="Measure so long.")] = 20.0,
    frames: Annotated[
        int | None, typer.Option(min=10, help="Measure so many frames; instead of seconds.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Time sensor frames to commands through fusion and controller, beside a bare chain.

    The controller answers each fused state. Uses the stack that runs, or one of its own for as long
    as it measures. Exit status 1 where the median is more than twice that of the bare chain.
    """
    count = frames or round(rate * seconds)
    with contextlib.ExitStack() as undo:
        namespace = f"bench-{uuid.uuid4().hex[:8]}."
        config = stack_of(undo).model_copy(update={"namespace": namespace})
        figures = _measure(config, rate, count, undo)
    print(json_module.dumps(figures, indent=2) if json else _text(figures))
    if figures["ratio_p50"] > RATIO_MAX:
        raise typer.Exit(1)


def _measure(
    config: Settings, rate_hz: float, count: int, undo: contextlib.ExitStack
) -> dict[str, Any]:
    from infra.connect import connect_log
    from infra.envelope import message
    from producers.robots.worlds import read_world
    from schemas.topics import TOPICS

    warm, world = round(rate_hz * WARM_S), read_world(WORLD)
    frames = drive(world, warm + count + round(rate_hz * READY_S), rate_hz)
    log = connect_log(config)
    undo.callback(delete_topics, log)
    log.provision(list(TOPICS.values()))
    log.append([message(mission_of(world))])
    robot, path = robot_file(undo)
    work = measured_work(robot, world, frames)
    ours, bare = our_chain(config, log, path, frames, undo), bare_chain(log, work, undo)
    ended = threading.Event()
    threads = [threading.Thread(target=chain.listen, args=(ended,)) for chain in (ours, bare)]
    for thread in threads:
        thread.start()
    try:
        first = _until_both_answer(ours, bare, rate_hz)
        say(f"{count:,} frames each way at {rate_hz:g} Hz")
        _take_turns(ours, bare, first, first + warm + count, rate_hz)
        _drain(ours, bare)
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    return _figures(ours, bare, first + warm, rate_hz, work)


def _drain(*chains: Chain) -> None:
    """Give what is on its way the time to come."""
    until = time.monotonic() + DRAIN_S
    while any(chain.waits() for chain in chains) and time.monotonic() < until:
        time.sleep(0.01)


def _until_both_answer(ours: Chain, bare: Chain, rate_hz: float) -> int:
    """Send frames until both chains answer; the number of the next."""
    number, until = 0, time.monotonic() + READY_S
    while not (ours.back_ns and bare.back_ns):
        if time.monotonic() > until:
            silent = " and ".join(chain.name for chain in (ours, bare) if not chain.back_ns)
            raise BenchError(f"{silent} did not answer within {READY_S:.0f} s")
        ours.publish(number)
        bare.publish(number)
        number += 1
        time.sleep(1 / rate_hz)
    return number


def _take_turns(ours: Chain, bare: Chain, start: int, stop: int, rate_hz: float) -> None:
    """Publish at absolute times, the one half a period after the other."""
    began, said = time.monotonic(), time.monotonic()
    for number in range(start, stop):
        for half, chain in enumerate((ours, bare)):
            due = began + (number - start + half / 2) / rate_hz
            time.sleep(max(0.0, due - time.monotonic()))
            chain.publish(number)
        if time.monotonic() - said > 5:
            said = time.monotonic()
            say(f"{number - start:,} of {stop - start:,} frames")


# -- what is said -------------------------------------------------------------------------------


def _figures(ours: Chain, bare: Chain, first: int, rate_hz: float, work: Work) -> dict[str, Any]:
    one, other = ours.figures(first), bare.figures(first)
    return {
        "rate_hz": rate_hz,
        "passes": 3,
        "work": asdict(work),
        "ralo": one,
        "bare": other,
        "ratio_p50": round(one["p50_ms"] / other["p50_ms"], 2),
        "ratio_p99": round(one["p99_ms"] / other["p99_ms"], 2),
        "ratio_p50_max": RATIO_MAX,
        "machine": {"cpus": os.cpu_count(), "platform": platform.platform()},
    }


def _text(figures: Mapping[str, Any]) -> str:
    work = figures["work"]
    lines = [
        f"sensor frame published to command received, {figures['rate_hz']:g} Hz, "
        f"{work['frame_bytes']:,}, {work['state_bytes']:,} and {work['command_bytes']:,} bytes:"
    ]
    for name in ("ralo", "bare"):
        one = figures[name]
        lines.append(
            f"  {name:5} p50 {one['p50_ms']:6.2f} ms  p99 {one['p99_ms']:6.2f} ms  "
            f"({one['frames']:,} frames, {one['without_command']:,} without a command)"
        )
    lines.append(
        f"  of ours, fusion computes for {work['fusion_ms']:.2f} ms and the controller for "
        f"{work['controller_ms']:.2f} ms"
    )
    lines.append(
        f"  ralo over bare: {figures['ratio_p50']:.2f} at the median "
        f"(at most {figures['ratio_p50_max']:g}), {figures['ratio_p99']:.2f} at p99"
    )
    return "\n".join(lines)
