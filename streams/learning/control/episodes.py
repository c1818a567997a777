"""Episodes as arrays, and as the bytes of their object: one safetensors file a group."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from schemas.learning import EpisodesSummary

Floats = npt.NDArray[np.float32]
_KINDS = {"lengths": np.int64, "terminated": np.bool_}


class BadEpisodes(ValueError):
    """The object holds no episodes, or their arrays do not fit each other."""


@dataclass(frozen=True)
class Episodes:
    """Some episodes, their steps one after another.

    [steps, …]: `obs` before each action, `actions` in half-widths of the range and before they
    were clipped, `logprobs` of these, `rewards`. [episodes, …]: `lengths`, `terminated` (by itself;
    otherwise the time limit cut it off, and its future is worth what the critic says), `last_obs`.
    """

    obs: Floats
    actions: Floats
    logprobs: Floats
    rewards: Floats
    lengths: npt.NDArray[np.int64]
    terminated: npt.NDArray[np.bool_]
    last_obs: Floats

    @property
    def truncated(self) -> npt.NDArray[np.bool_]:
        """Which ended by the time limit."""
        return ~self.terminated

    @property
    def returns(self) -> list[float]:
        """The sum of rewards of each episode, undiscounted."""
        return [float(self.rewards[part].sum(dtype=np.float64)) for part in self.parts()]

    def parts(self) -> Iterator[slice]:
        """Where the steps of each episode lie."""
        stop = 0
        for length in self.lengths.tolist():
            start, stop = stop, stop + length
            yield slice(start, stop)

    def summary(self, task: str) -> EpisodesSummary:
        """What the event says of them."""
        return EpisodesSummary(
            task=task,
            returns=self.returns,
            lengths=self.lengths.tolist(),
            terminated=int(self.terminated.sum()),
        )


def joined(groups: Sequence[Episodes]) -> Episodes:
    """All episodes of some groups, in order."""
    arrays: dict[str, Any] = {
        field.name: np.concatenate([getattr(group, field.name) for group in groups])
        for field in fields(Episodes)
    }
    return Episodes(**arrays)


def dump_episodes(episodes: Episodes) -> bytes:
    """The bytes of the object; equal episodes give equal bytes."""
    from safetensors.numpy import save

    data: bytes = save(
        {f.name: np.ascontiguousarray(getattr(episodes, f.name)) for f in fields(Episodes)}
    )
    return data


def load_episodes(data: bytes) -> Episodes:
    """The episodes in an object; raises `BadEpisodes`."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        arrays = load(data)
        episodes = Episodes(**arrays)
    except (SafetensorError, TypeError, ValueError) as error:
        raise BadEpisodes(f"no episodes: {error}") from error
    _check(episodes)
    return episodes


def _check(episodes: Episodes) -> None:
    steps, count = len(episodes.rewards), len(episodes.lengths)
    for field in fields(Episodes):
        array = getattr(episodes, field.name)
        rows = count if field.name in ("lengths", "terminated", "last_obs") else steps
        if len(array) != rows or array.dtype != _KINDS.get(field.name, np.float32):
            raise BadEpisodes(f"{field.name} is {array.dtype} {list(array.shape)}: {rows} rows")
        if array.dtype == np.float32 and not np.isfinite(array).all():
            raise BadEpisodes(f"{field.name} is not finite")
    if not count or (episodes.lengths < 1).any() or episodes.lengths.sum() != steps:
        raise BadEpisodes(f"{count} episodes with {episodes.lengths.sum()} of {steps} steps")
    if episodes.obs.shape[1:] != episodes.last_obs.shape[1:]:
        raise BadEpisodes("the last observations are of another shape than the others")
