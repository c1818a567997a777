"""Balances the books of the log and the store: nothing lost, nothing counted twice."""

from consumers.audit.core import NeedsObjects, Records, UnknownMission, audit
from consumers.audit.objects import NoObjects, ObjectChecker
from consumers.audit.report import ACTING, INVARIANTS, LEARNING, AuditReport

__all__ = [
    "ACTING",
    "INVARIANTS",
    "LEARNING",
    "AuditReport",
    "NeedsObjects",
    "NoObjects",
    "ObjectChecker",
    "Records",
    "UnknownMission",
    "audit",
]
