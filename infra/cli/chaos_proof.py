"""The proof at the end of a fault run: every version of every policy again, from its samples."""

import time
from typing import TYPE_CHECKING

from consumers.reliability.ledger import Proof
from infra.cli.chaos_stack import Say
from infra.log import Log
from infra.store import ObjectStore

if TYPE_CHECKING:
    from consumers.recompute.report import ChainReport

SAY_EVERY_S = 5.0


def proof_of(log: Log, store: ObjectStore, policy: str, say: Say) -> Proof:
    """What the full proof of a policy's chain found: samples to gradients to weights."""
    from consumers.recompute import verify_chain

    said_s = time.monotonic()

    def report(what: str, done: int, of: int) -> None:
        nonlocal said_s
        if time.monotonic() - said_s > SAY_EVERY_S:
            said_s = time.monotonic()
            say(f"  proving {policy}: {what} {done:,} of {of:,}")

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
