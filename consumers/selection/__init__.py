"""Which records: ranges in the words of rpk, filters, expressions, several topics in one order.

selection = Selection(("samples",), parse_range("@-10m:end"), where=Expression("event.version > 3"))
for record in selection.records(log):
    print(record.at, record.event)
"""

from consumers.selection.expression import BadExpression, Expression
from consumers.selection.merge import merged
from consumers.selection.ranges import BadRange, Range, ends_of, parse_range
from consumers.selection.select import BadSelection, Report, Selection

__all__ = [
    "BadExpression",
    "BadRange",
    "BadSelection",
    "Expression",
    "Range",
    "Report",
    "Selection",
    "ends_of",
    "merged",
    "parse_range",
]
