"""The body of `ralo weights verify`: proves versions, and says what was found."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import typer

from infra.cli.histories import history_for
from infra.settings import settings

if TYPE_CHECKING:
    from consumers.recompute import ChainReport

WRONG, ELSEWHERE, INTERRUPTED = 1, 3, 130
FINDINGS = 20
"""Findings that are printed; the others are counted, and all are in the JSON."""
Depth = Literal["step", "full", "samples"]


def run(version: int | None, chain: bool, depth: Depth, policy: str | None, as_json: bool) -> None:
    """Prove a version, or the chain up to it; exits 1 where something is wrong, 3 elsewhere."""
    from consumers.recompute import verify_chain
    from infra.cli.processors import factory
    from infra.connect import connect_log, connect_store

    if version is None and not chain:
        raise typer.BadParameter("name a version, or --chain for all of them")
    config = settings()
    found = history_for(policy)
    if version is not None:
        found.version(version)
    sampler = None
    if depth == "samples":
        sampler = factory("sampler")(config.model_copy(update={"policy": found.policy}))
    with progress("verify") as say:
        report = verify_chain(
            connect_log(config),
            connect_store(config),
            found.policy,
            version,
            depth != "step",
            say,
            since=0 if chain else version or 0,
            sampler=sampler,
        )
    print(report.model_dump_json(indent=2)) if as_json else show(report)
    leave(report.wrong + len(report.findings), report.elsewhere)


def leave(wrong: int, elsewhere: int) -> None:
    """Exit as the findings call for: 1 for what is wrong, 3 for what another machine must prove."""
    if wrong or elsewhere:
        raise typer.Exit(WRONG if wrong else ELSEWHERE)


@contextmanager
def progress(verb: str) -> Iterator["Progress"]:
    """A line of progress while this lasts; Ctrl-C ends the verb, and says how far it came."""
    say = Progress(verb)
    try:
        yield say
    except KeyboardInterrupt:
        say.end()
        print(f"{verb}: interrupted at {say.where}; nothing was changed", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    say.end()


class Progress:
    """How far a proof is and how long it still takes, on stderr, from the second second on."""

    def __init__(self, verb: str) -> None:
        self._verb, self._what, self.where = verb, "", "the beginning"
        self._began = self._stage = self._said = time.monotonic()
        self._shown = False

    def __call__(self, what: str, done: int, of: int) -> None:
        """Take note of `done` of `of`."""
        now = time.monotonic()
        if what != self._what:
            self._what, self._stage = what, now
        self.where = f"{what} {done:,} of {of:,}"
        every = 0.5 if sys.stderr.isatty() else 5.0
        if now - self._began < 2 or now - self._said < every:
            return
        self._said, self._shown = now, True
        left = (now - self._stage) / done * (of - done) if done else 0.0
        still = f", {left:,.0f} s to go" if done else ""
        end = "\r" if sys.stderr.isatty() else "\n"
        text = f"{self._verb}: {self.where}{still}"
        print(text.ljust(70), end=end, file=sys.stderr, flush=True)

    def end(self) -> None:
        """Clear the line."""
        if self._shown and sys.stderr.isatty():
            print(" " * 70, end="\r", file=sys.stderr, flush=True)


def show(report: "ChainReport") -> None:
    """Print what was found, for people."""
    proofs = report.versions
    first, last = proofs[0].version, proofs[-1].version
    span = f"version {first}" if first == last else f"versions {first} to {last}"
    print(f"policy {report.policy}, {span}: {_proved(report)}, in {report.seconds:,.1f} s")
    for finding in report.findings[:FINDINGS]:
        whose = "" if finding.version is None else f"version {finding.version}, "
        print(f"  {whose}{finding.what}: {finding.at}: {_after(finding.at, finding.why)}")
    if more := len(report.findings) - FINDINGS:
        print(f"  … and {more:,} more: --json lists them all") if more > 0 else None
    _cannot(report)
    print(_verdict(report))
    if report.findings:
        print(_how_on(report))


def _proved(report: "ChainReport") -> str:
    gradients = sum(proof.gradients for proof in report.versions)
    taken = sum(proof.taken for proof in report.versions)
    samples = sum(proof.samples for proof in report.versions)
    parts = [f"{report.equal:,} made again and equal"]
    if report.full:
        parts.append(f"{gradients:,} gradients made again of their samples")
    if taken:
        parts.append(f"{taken:,} taken as stored (not made on a CPU)")
    if report.sampling:
        parts.append(f"{samples:,} groups sampled again")
    return ", ".join([*parts, f"{report.objects:,} objects compared"])


def _cannot(report: "ChainReport") -> None:
    for verdict in ("elsewhere", "expired"):
        them = [proof for proof in report.versions if proof.verdict == verdict]
        if them:
            numbers = f"{them[0].version} to {them[-1].version}" if them[1:] else them[0].version
            print(f"  {len(them):,} {verdict} ({numbers}): {them[0].why[-1]}")


def _verdict(report: "ChainReport") -> str:
    apart = [
        f"{report.expired:,} expired: cannot be recomputed here" if report.expired else "",
        f"{report.elsewhere:,} for another machine to prove" if report.elsewhere else "",
    ]
    rest = "".join(f"; {part}" for part in apart if part)
    if report.findings or report.wrong:
        return f"WRONG: {report.wrong:,} of {len(report.versions):,} versions{rest}"
    all_ = "every version" if len(report.versions) > 1 else "the version"
    if rest:
        all_ = f"all that can be made again here ({report.equal:,})"
    return f"{all_} is equal to the last bit{rest}"


def _how_on(report: "ChainReport") -> str:
    places = [finding.at for finding in report.findings if "@" in finding.at]
    lines = [f"its causes and effects:         ralo trace '{places[0]}'"] if places else []
    bad = [proof.version for proof in report.versions if proof.verdict == "wrong"]
    good = [p.version for p in report.versions if p.equal and p.version < min(bad, default=0)]
    if good:
        lines.append(
            "go on from the last one before: "
            f"ralo weights rollback {good[-1]} --policy {report.policy}"
        )
    return "\n".join(lines)


def _after(at: str, why: str) -> str:
    """The reason without the place that stands before it already."""
    return why.removeprefix(f"{at}: ")
