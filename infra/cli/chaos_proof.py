"""The proof at the end of a fault run: every version of every policy again, from its samples."""

import multiprocessing
import signal
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from consumers.reliability.ledger import Proof
from infra.cli.chaos_stack import Say
from infra.connect import connect_log, connect_store
from infra.settings import Settings

if TYPE_CHECKING:
    from consumers.recompute.report import ChainReport

SAY_EVERY_S = 5.0


def proofs(config: Settings, policies: Sequence[str], say: Say) -> list[Proof]:
    """What the full proof of each policy's chain found, each in a process of its own."""
    say(f"proving every version of {' and '.join(policies)}")
    processes = multiprocessing.get_context("spawn")
    # A pool whose processes end with the block: a Ctrl-C does not wait for the proofs.
    with processes.Pool(len(policies)) as pool:
        return pool.starmap(_proof, [(config, policy) for policy in policies])


def _proof(config: Settings, policy: str) -> Proof:
    """The proof of a policy's chain: samples to gradients to weights."""
    from consumers.recompute import verify_chain

    # A Ctrl-C at the terminal is for the run, which ends this.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    said_s = time.monotonic()

    def report(what: str, done: int, of: int) -> None:
        nonlocal said_s
        if time.monotonic() - said_s > SAY_EVERY_S:
            said_s = time.monotonic()
            line = f"chaos:   proving {policy}: {what} {done:,} of {of:,}"
            print(line, file=sys.stderr, flush=True)

    log, store = connect_log(config), connect_store(config)
    return _in_short(verify_chain(log, store, policy, full=True, report=report))


def _in_short(chain: "ChainReport") -> Proof:
    unproved = [
        f"version {proof.version}: {proof.verdict} {'; '.join(proof.why)}"
        for proof in chain.versions
        if not proof.equal
    ]
    return Proof(
        policy=chain.policy,
        versions=len(chain.versions),
        equal=chain.equal,
        gradients=sum(proof.gradients for proof in chain.versions),
        objects=chain.objects,
        differing=[*unproved, *(f"{f.what} {f.at}: {f.why}" for f in chain.findings)],
        seconds=round(chain.seconds, 1),
    )
