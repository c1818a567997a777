"""A run's books in short, and what of them is not as promised."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from consumers.reliability.ledger import Books, FaultLine, Proof

if TYPE_CHECKING:
    from consumers.audit import AuditReport

UNUSED_MAX = 0.05
"""The share of sample groups that may be dropped or refused."""
ORDER = (
    "problem-index",
    "samples-source-overlap",
    "uploads-source-overlap",
    "version-sequence",
    "version-previous",
    "version-lineage",
    "version-marks",
    "version-resume",
    "weight-head",
    "fused-source-overlap",
    "command-epoch",
    "command-epoch-order",
    "release-step",
    "safety-mode",
)
"""The invariants that are about order."""


def books_of(report: "AuditReport") -> Books:
    """What the ledger keeps of an audit."""
    order = (i.broken for i in report.invariants if i.name in ORDER)
    broken = [invariant for invariant in report.invariants if invariant.broken]
    return Books(
        checked=sum(invariant.checked for invariant in report.invariants),
        lost=report.lost,
        duplicated=report.duplicated,
        order_violations=sum(order),
        bad_references=report.bad_refs,
        breaches=[f"{i.name}, {i.broken} times: {'; '.join(i.first)}" for i in broken],
        unused_share=round(report.unused_share, 5),
        counts={name: count for name, count in report.counts.items() if count},
    )


def breaches_of(faults: Iterable[FaultLine], books: Books, proofs: Sequence[Proof]) -> list[str]:
    """All that is not as promised, each in a line."""
    found = [f"the books: {breach}" for breach in books.breaches]
    if books.unused_share > UNUSED_MAX:
        found.append(
            f"{books.unused_share:.1%} of the sample groups were not learnt from, "
            f"at most {UNUSED_MAX:.0%} may be"
        )
    found += [f"{proof.policy}: {text}" for proof in proofs for text in proof.differing]
    lost = (fault for fault in faults if fault.at_s is not None and fault.recovered_ms is None)
    return found + [f"fault {fault.number}, {fault.what}: {fault.why}" for fault in lost]
