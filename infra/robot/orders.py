"""Orders that a person gives on the robot itself, for when the log is away: a file each."""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path

from pydantic import ValidationError

from infra.embedded.state import write_whole
from infra.settings import Settings
from schemas.acting import OperatorOrder

logger = logging.getLogger("ralo.actuator")

_ORDERS = "orders"


def robot_folder(config: Settings, robot_id: str) -> Path:
    """Where a robot keeps what must outlive its processes."""
    return config.state_dir / "robots" / f"{config.namespace}{robot_id}"


def give(folder: Path, order: OperatorOrder) -> None:
    """Lay an order before the actuator of this robot."""
    orders = folder / _ORDERS
    orders.mkdir(parents=True, exist_ok=True)
    write_whole(orders / f"{order.order_id}.json", order.to_bytes())


def take_back(folder: Path, order: OperatorOrder) -> bool:
    """Take an order away again; False where the actuator has it already."""
    try:
        (folder / _ORDERS / f"{order.order_id}.json").unlink()
    except FileNotFoundError:
        return False
    return True


class LocalOrders:
    """The actuator's side: what was there before it started is of the past."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / _ORDERS
        self._folder.mkdir(parents=True, exist_ok=True)
        self._past = set(os.listdir(self._folder))

    def __call__(self) -> list[tuple[OperatorOrder, bool]]:
        """The orders given since, oldest first, each with whether it is of the past."""
        with contextlib.suppress(OSError), os.scandir(self._folder) as entries:
            files = [entry for entry in entries if entry.name.endswith(".json")]
            files.sort(key=lambda entry: entry.stat().st_mtime_ns)
            return [found for entry in files if (found := self._take(Path(entry.path)))]
        return []

    def _take(self, path: Path) -> tuple[OperatorOrder, bool] | None:
        try:
            text = path.read_bytes()
            path.unlink()
            return OperatorOrder.model_validate_json(text), path.name in self._past
        except (OSError, ValidationError) as error:
            logger.warning("order %s cannot be used: %s", path, error)
            return None
