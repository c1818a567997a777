"""The page of a ledger: what was broken, how long it took to be back, what the books say."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from consumers.reliability.evidence import WORDS
from consumers.reliability.ledger import FaultLine, Line, RunLine
from consumers.reliability.schedule import (
    CLOCK,
    KAFKA,
    KINDS,
    MINIO,
    NETWORK,
    PROCESSES,
    SLOW_STORE,
    SUPERVISOR,
)

_OUTAGES = {
    (KAFKA, "kill"): "broker, SIGKILL",
    (MINIO, "kill"): "store, SIGKILL",
    (MINIO, "freeze"): "store, SIGSTOP for seconds",
    (NETWORK, "network"): "network to the broker",
    (SLOW_STORE, "slow-store"): "network to the store",
    (CLOCK, "clock"): "clock of a process jumps",
}


def page(lines: Sequence[Line], ledger: str, path: str) -> str:
    """The page in Markdown; `ledger` and `path` are named in the command that makes it again."""
    faults = [line for line in lines if isinstance(line, FaultLine)]
    runs = [line for line in lines if isinstance(line, RunLine)]
    parts = [
        "# Reliability",
        _opening(ledger, path),
        *_section("Totals", _totals(faults, runs)),
        *_section("Runs", _runs(faults, runs)),
        *_section("Processes killed, and the time until they worked again", _processes(faults)),
        _kinds_of_time(),
        *_section("Servers, networks and clocks", _servers(faults)),
        *_section("What counts as being back", _criteria()),
        *_section("Books", _books(runs)),
        *_section("Proofs", _proofs(runs)),
        *_section("Not as promised", _breaches(runs)),
    ]
    return "\n\n".join(parts) + "\n"


def _opening(ledger: str, path: str) -> str:
    return (
        "Fault runs: a language model and an arm learn, the arm acts, and processes and servers "
        "are killed, frozen, slowed down and misled by a schedule that a seed determines. After "
        "each run the whole log is audited and every weight version is made again of its samples "
        f"and compared. This page is made of [the ledger]({ledger.rpartition('/')[2]}), which has "
        "a line for every fault:\n\n"
        "```\n"
        f"./ralo chaos --seed 1 --ledger {ledger}            # a run, half an hour\n"
        f"./ralo chaos --seed 2 --ledger {ledger} --resume   # a further one\n"
        f"./ralo chaos report --ledger {ledger} --write {path}\n"
        "```"
    )


def _section(title: str, rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A heading and a table, where there are rows beside its head."""
    found = [list(row) for row in rows]
    if len(found) > 1:
        head, *body = found
        aligned = ["---" if i == 0 else "---:" for i in range(len(head))]
        yield f"## {title}"
        yield "\n".join(f"| {' | '.join(row)} |" for row in [head, aligned, *body])


def _totals(faults: Sequence[FaultLine], runs: Sequence[RunLine]) -> Iterator[Sequence[str]]:
    done = [fault for fault in faults if fault.at_s is not None]
    kills = [fault for fault in done if fault.action == "kill"]
    of_processes = Counter(fault.kind for fault in kills if fault.kind in PROCESSES)
    yield "", "all runs"
    yield "runs", f"{len(runs)}"
    yield "samples", _sum(run.samples for run in runs)
    yield "weight versions", _sum(run.versions for run in runs)
    yield "missions", _sum(run.missions for run in runs)
    yield "SIGKILLs of processes", _sum(of_processes.values())
    least = min(PROCESSES, key=lambda kind: of_processes[kind])
    yield "… of each kind, at least", f"{of_processes[least]:,}"
    yield "SIGKILLs of the supervisor", f"{sum(f.kind == SUPERVISOR for f in kills):,}"
    yield "SIGKILLs of the broker", f"{sum(f.kind == KAFKA for f in kills):,}"
    yield "store outages (SIGKILL, SIGSTOP)", f"{sum(f.kind == MINIO for f in done):,}"
    yield "network faults", f"{sum(f.kind in (NETWORK, SLOW_STORE) for f in done):,}"
    yield "clock jumps", f"{sum(f.kind == CLOCK for f in done):,}"
    yield "not back in time", f"{sum(f.recovered_ms is None for f in done):,}"
    yield "lost", _sum(run.books.lost for run in runs)
    yield "duplicated", _sum(run.books.duplicated for run in runs)
    yield "order violations", _sum(run.books.order_violations for run in runs)
    yield "bad references", _sum(run.books.bad_references for run in runs)
    equal = sum(proof.equal for run in runs for proof in run.proofs)
    versions = sum(proof.versions for run in runs for proof in run.proofs)
    yield "versions made again, equal", f"{equal:,} of {versions:,}"
    most = max((run.books.unused_share for run in runs), default=0.0)
    yield "dropped and refused, at most", f"{most:.2%}"


def _runs(faults: Sequence[FaultLine], runs: Sequence[RunLine]) -> Iterator[Sequence[str]]:
    yield "run", "of", "began (UTC)", "minutes of faults", "faults", "samples", "machine", "code"
    for run in runs:
        done = sum(fault.run == run.run and fault.at_s is not None for fault in faults)
        machine = run.machine
        there = f"{machine.cpus} CPUs, {machine.memory_gib:g} GiB, Python {machine.python}"
        minutes = f"{run.minutes:g}{' (interrupted)' if run.interrupted else ''}"
        began = run.began.partition("+")[0].replace("T", " ")
        yield (
            *(f"{run.run}", _options(run), began, minutes, f"{done:,}", f"{run.samples:,}"),
            f"{there}, {machine.platform}",
            f"`{run.code}`",
        )


def _options(run: RunLine) -> str:
    """What makes the same schedule again."""
    words = [f"--seed {run.seed}"]
    words += [f"--kinds {','.join(run.kinds)}"] if run.kinds else []
    words += [f"--pace {run.pace:g}"] if run.pace != 1 else []
    return f"`{' '.join(words)}`"


def _processes(faults: Sequence[FaultLine]) -> Iterator[Sequence[str]]:
    yield (
        *("kind", "SIGKILLs", "p50 s", "p99 s", "longest s"),
        *("beside outages", "p50 s", "p99 s", "longest s"),
    )
    for kind in (*PROCESSES, SUPERVISOR):
        done = [f for f in faults if f.kind == kind and f.at_s is not None]
        if done:
            alone = [f for f in done if not f.during]
            beside = [f for f in done if f.during]
            yield kind, f"{len(done):,}", *_times(alone), f"{len(beside):,}", *_times(beside)


def _kinds_of_time() -> str:
    return (
        "The first times are of recoveries into which no outage of a server, of a network or of "
        "the supervisor fell; other processes may have been down at the same time. Those that an "
        "outage fell into stand apart. They include the supervisor's pause before it starts a "
        "process again: half a second, doubled where the process had lived for seconds only."
    )


def _servers(faults: Sequence[FaultLine]) -> Iterator[Sequence[str]]:
    yield "what", "times", "p50 s", "p99 s", "longest s"
    for (kind, action), words in _OUTAGES.items():
        done = [f for f in faults if (f.kind, f.action) == (kind, action) and f.at_s is not None]
        if done:
            yield words, f"{len(done):,}", *_times(done)


def _criteria() -> Iterator[Sequence[str]]:
    yield "what", "is back with"
    for kind in KINDS:
        if kind in WORDS:
            yield kind, WORDS[kind]


def _books(runs: Sequence[RunLine]) -> Iterator[Sequence[str]]:
    yield (
        *("run", "checks", "lost", "duplicated", "order violations", "bad references"),
        *("sample groups", "learnt from", "dropped and refused"),
    )
    for run in runs:
        books = run.books
        yield (
            *(f"{run.run}", f"{books.checked:,}", f"{books.lost}", f"{books.duplicated}"),
            *(f"{books.order_violations}", f"{books.bad_references}"),
            *(f"{books.counts.get(name, 0):,}" for name in ("groups", "groups_learnt")),
            f"{books.unused_share:.2%}",
        )


def _proofs(runs: Sequence[RunLine]) -> Iterator[Sequence[str]]:
    yield "run", "policy", "versions", "equal", "gradients made again", "objects hashed", "seconds"
    for run in runs:
        for proof in run.proofs:
            yield (
                *(f"{run.run}", proof.policy, f"{proof.versions:,}", f"{proof.equal:,}"),
                *(f"{proof.gradients:,}", f"{proof.objects:,}", f"{proof.seconds:.0f}"),
            )


def _breaches(runs: Sequence[RunLine]) -> Iterator[Sequence[str]]:
    yield "run", "what"
    for run in runs:
        for breach in run.breaches:
            yield f"{run.run}", breach.replace("|", "\\|")


def _times(faults: Iterable[FaultLine]) -> tuple[str, str, str]:
    """Median, 99th percentile and the longest, in seconds."""
    times = sorted(f.recovered_ms / 1000 for f in faults if f.recovered_ms is not None)
    if not times:
        return "", "", ""
    return f"{quantile(times, 0.5):.1f}", f"{quantile(times, 0.99):.1f}", f"{times[-1]:.1f}"


def quantile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that so large a share does not exceed (nearest rank)."""
    rank = -int(-share * len(ordered) // 1)
    return ordered[max(0, rank - 1)]


def _sum(numbers: Iterable[int]) -> str:
    return f"{sum(numbers):,}"
