"""What must be equal for floating point to give the same bits, as it is in this process."""

import functools
from importlib.metadata import PackageNotFoundError, version

from schemas.learning import Environment

_LIBRARIES = ("numpy", "safetensors", "transformers")


def environment(device: str = "cpu") -> Environment:
    """The torch build, its threads and the CPU's vector unit, and library versions."""
    import torch

    return Environment(
        torch=str(torch.__version__),
        threads=torch.get_num_threads(),
        cpu_capability=torch.backends.cpu.get_cpu_capability(),
        device=device,
        libraries=dict(_libraries()),
    )


def differences(then: Environment, now: Environment) -> list[str]:
    """What differs of the things that decide the bits of a step, in words; empty when nothing."""
    fields = ("torch", "threads", "cpu_capability", "device")
    return [
        f"{name} was {getattr(then, name)}, here it is {getattr(now, name)}"
        for name in fields
        if getattr(then, name) != getattr(now, name)
    ]


def other_libraries(then: Environment, now: Environment) -> list[str]:
    """Which libraries are of another version: they seldom change bits, but they can."""
    return [
        f"{name} was {then.libraries.get(name)}, here it is {now.libraries.get(name)}"
        for name in sorted(then.libraries.keys() | now.libraries.keys())
        if then.libraries.get(name) != now.libraries.get(name)
    ]


@functools.cache
def _libraries() -> tuple[tuple[str, str], ...]:
    found = []
    for name in _LIBRARIES:
        try:
            found.append((name, version(name)))
        except PackageNotFoundError:
            continue
    return tuple(found)
