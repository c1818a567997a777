"""`ralo replay --through …`: recorded input through the same processors, with other settings."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from consumers.whatif.errors import BadWhatIf

if TYPE_CHECKING:
    from consumers.selection import Selection

LEARNING = (("trainer", "aggregator"), ("trainer", "aggregator", "evaluator"))
ACTING = (("fusion",), ("fusion", "controller"))
QUIET_S = 2.0


def run(
    through: str,
    *,
    selection: Selection,
    settings: Sequence[str] = (),
    config_file: Path | None = None,
    sandbox: str | None = None,
    as_json: bool = False,
) -> None:
    """Play a what-if and print both sides; raises `BadWhatIf` and what else keeps it from it.

    `through` is a list of processors, `settings` are `field.field=value`, and `config_file` is YAML
    with the same fields. Of learning, the sandbox stays.
    """
    names = tuple(name.strip() for name in through.split(","))
    if names in LEARNING:
        from infra.cli.whatif_learning import learning

        learning(selection, overrides(settings, config_file), sandbox, as_json)
    elif names in ACTING:
        from infra.cli.whatif_acting import acting

        acting(selection, names, settings, config_file, as_json)
    else:
        known = ", ".join(f"`{','.join(chain)}`" for chain in (*LEARNING, *ACTING))
        raise BadWhatIf(f"--through {through}: one can replay through {known}")


def overrides(settings: Sequence[str], config_file: Path | None) -> dict[str, Any]:
    """The fields to change, those of `--set` after those of the file; raises `MissionFileError`."""
    from infra.cli.mission_file import set_field

    document = read_yaml(config_file) if config_file else {}
    for text in settings:
        set_field(document, text)
    return document


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; raises `BadWhatIf`."""
    import yaml

    try:
        document = yaml.safe_load(path.read_text())
    except OSError as error:
        raise BadWhatIf(f"{path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadWhatIf(f"{path} is no YAML: {error}") from error
    if not isinstance(document, dict):
        raise BadWhatIf(f"{path}: a mapping of fields is needed, such as `algorithm: grpo`")
    return document


class Progress:
    """One line on stderr, from the second after `QUIET_S` on."""

    def __init__(self) -> None:
        self._began_s = self._said_s = self._first_s = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        """Since it was made."""
        return time.monotonic() - self._began_s

    def __call__(self, text: str) -> None:
        """Say where it is, twice a second at most."""
        now_s = time.monotonic()
        if now_s - self._began_s < QUIET_S or now_s - self._said_s < 0.5:
            return
        self._said_s = now_s
        end = "\r" if sys.stderr.isatty() else "\n"
        print(f"replay: {text}".ljust(78), end=end, file=sys.stderr, flush=True)

    def left(self, done: int, of: int) -> str:
        """How long the rest will take at the pace since the first was done."""
        if done <= 1:
            self._first_s = time.monotonic()
            return f"{of - done:,} to go"
        pace_s = (time.monotonic() - self._first_s) / (done - 1)
        return f"{pace_s * (of - done):,.0f} s left"

    def end(self) -> None:
        """Clear the line."""
        if self._said_s > self._began_s and sys.stderr.isatty():
            print(" " * 78, end="\r", file=sys.stderr)
