"""What of a state directory is ours: all of that, and nothing else, goes with a purge.

The directory may be one that its owner keeps other things in, so files are known by name and
folders of processors by what is in them; a folder that holds anything else stays.
"""

import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

from infra.instance import try_lock
from infra.settings import Settings

PROCESSORS = ("provider", "orchestrator", "aggregator", "sampler", "trainer", "evaluator", "gate")
OF_A_ROBOT = ("actuator", "fusion", "controller")

_OF_A_SERVER = ("{}", "{}.broken-*", "{}.properties*", "{}.json*", "logs/{}.log*")
_FILES = (
    "stack.json*",
    "supervisor.json*",
    "supervisor.lock",
    "processors.json",
    "processors.new",
    "scale.json",
    "robots.json",
    "http-port",
    "slots/*.lock",
    "logs/supervisor.log",
    "logs/world-*.log",
    *(f"logs/{processor}-*.log" for processor in PROCESSORS),
    *(f"logs/{processor}@*.log" for processor in OF_A_ROBOT),
)
_FOLDERS = ("slots", "logs", "scratch", "orchestrator")


def purge(config: Settings, servers: Collection[str]) -> Iterator[Path]:
    """Delete our files and the data of these servers; answers each as it goes."""
    patterns = [pattern.format(name) for name in servers for pattern in _OF_A_SERVER]
    for pattern in (*patterns, *_FILES):
        for path in sorted(config.state_dir.glob(pattern)):
            yield path
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    yield from sweep_scratch(config, keep=())
    for name in _FOLDERS:
        _remove_empty(config.state_dir / name)


def scratch_folder(config: Settings, policy: str, instance: str) -> Path:
    """Where an aggregator keeps copies of what it last fetched or made."""
    return config.state_dir / "scratch" / f"{policy}-{instance}"


def sweep_scratch(config: Settings, keep: Collection[str]) -> Iterator[Path]:
    """Delete what aggregators of policies but these have left; answers each slot as it goes.

    All of it is in the store. What a living process has locked stays.
    """
    for lock in sorted((config.state_dir / "scratch").glob("*-*/[0-9]*/lock")):
        slot = lock.parent
        if any(slot.parent.name.startswith(f"{policy}-") for policy in keep):
            continue
        held = try_lock(lock)
        if held is not None:
            with held:
                yield slot
                shutil.rmtree(slot)
            _remove_empty(slot.parent)


def _remove_empty(folder: Path) -> None:
    """Remove a folder and those in it, as far as there is no file."""
    if not folder.is_dir() or folder.is_symlink():
        return
    for child in folder.iterdir():
        _remove_empty(child)
    if not any(folder.iterdir()):
        folder.rmdir()
