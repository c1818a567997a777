"""Why a replay is refused.

BadReplay
├── AlreadyThere        the sandbox holds copies already, and it was not said what to do
└── MissingReferences   objects that the events name are not in the store
"""


class BadReplay(ValueError):
    """The replay cannot be, or must not; the message says what can."""


class AlreadyThere(BadReplay):
    """The sandbox holds records of these topics already."""


class MissingReferences(BadReplay):
    """Objects that the selected events name are missing or wrong."""
