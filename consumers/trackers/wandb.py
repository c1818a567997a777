"""Weights & Biases runs, one a policy, offline unless asked otherwise."""

import uuid
from pathlib import Path
from typing import Any

from consumers.trackers.scalars import Scalars
from schemas.ids import derived_id


class WandbSink:
    """Logs to one run a policy, whose id is the same after a restart.

    Each offline start leaves a folder of its own; `wandb sync --append` joins those of one run.
    """

    def __init__(self, project: str, folder: Path, online: bool = False) -> None:
        self._project, self._folder, self._online = project, folder, online
        self._runs: dict[str, Any] = {}

    def write(self, scalars: Scalars) -> None:
        """Log the scalars of one version; versions may come in any order."""
        self._run(scalars.policy).log({"version": scalars.version, **scalars.values})

    def _run(self, policy: str) -> Any:
        import wandb

        if policy not in self._runs:
            self._folder.mkdir(parents=True, exist_ok=True)
            run = wandb.init(
                project=self._project,
                id=derived_id("wandb", self._project, policy),
                name=policy,
                dir=str(self._folder),
                mode="online" if self._online else "offline",
                resume="allow" if self._online else None,
                reinit="create_new",
                settings=wandb.Settings(
                    silent=True,
                    console="off",
                    disable_git=True,
                    x_disable_stats=True,
                    # Folders are named by the second, and a second start must not replace one.
                    x_sync_dir_suffix=uuid.uuid4().hex[:6],
                ),
            )
            # An evaluation comes after later versions, and W&B's own steps never go back.
            run.define_metric("version")
            run.define_metric("*", step_metric="version")
            self._runs[policy] = run
        return self._runs[policy]

    def flush(self) -> None:
        """W&B writes in a process of its own, which outlives this one."""

    def close(self) -> None:
        """End the runs; W&B's own process may write the last of them a moment later."""
        for run in self._runs.values():
            run.finish()
