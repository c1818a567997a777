"""Balances the books of the log and the store: nothing lost, nothing counted twice."""

from consumers.audit.core import NeedsObjects, Records, UnknownMission, audit
from consumers.audit.objects import NoObjects, ObjectChecker
from consumers.audit.report import INVARIANTS, AuditReport

__all__ = [
    "INVARIANTS",
    "AuditReport",
    "NeedsObjects",
    "NoObjects",
    "ObjectChecker",
    "Records",
    "UnknownMission",
    "audit",
]
