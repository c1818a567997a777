"""What keeps a what-if from being played."""


class BadWhatIf(Exception):
    """It cannot be played, and why."""
