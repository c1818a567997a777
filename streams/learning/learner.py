"""What makes a gradient of groups and weights: the trainer learns with it, a proof repeats it."""

import tempfile
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from schemas.effects import BadObject, Effect, Get
from schemas.learning import SampleGroup, WeightVersion
from schemas.missions import Mission, MissionReport, Training
from streams.learning.algorithms import token_algorithm
from streams.learning.gradients import Gradient, upload_gradient
from streams.learning.layout import FlatLayout, LayoutError, chunk_ranges, header_bytes, read_layout
from streams.learning.models import PolicyModel
from streams.learning.rollout import load_rollouts
from streams.learning.sifting import fault
from streams.learning.spill import whole


def needs_reference(mission: Mission) -> bool:
    """Whether the mission's loss holds the policy near the model that it began as."""
    return not mission.acts and token_algorithm(mission).settings.kl > 0


def reference(prepared: MissionReport, like: WeightVersion) -> WeightVersion:
    """The policy's base model, as the provider stored it, in the form of a weight version."""
    files, shards = prepared.base_files, prepared.base_shards
    base = {"version": 0, "files": files, "shards": shards, "spilled": None}
    return like.model_copy(update=base)


def chunks_of(gradient: Gradient, elements: int) -> Iterator[bytes]:
    """The chunks of a gradient as little-endian float32, of so many elements at most."""
    vector = gradient.vector.numpy().astype("<f4", copy=False)
    return (vector[start:stop].tobytes() for start, stop in chunk_ranges(len(vector), elements))


class Learner:
    """The models of one policy in memory, and the gradients made with them."""

    def __init__(self) -> None:
        self._models: dict[str, PolicyModel] = {}
        self._layout: FlatLayout | None = None

    @property
    def device(self) -> str:
        """Where the policy's weights are; raises KeyError before they are."""
        return str(self._models["policy"].device.type)

    def follow(self, version: WeightVersion, training: Training) -> Generator[Effect, Any, None]:
        """Hold the weights of this version, on the mission's device and in its type."""
        yield from self._model("policy", training).follow(version)

    def complete(self, group: SampleGroup) -> Generator[Effect, Any, tuple[SampleGroup, str]]:
        """The group with its rollouts, and why the model cannot learn from it ("" when it can)."""
        if group.rollouts_ref is not None:
            try:
                rollouts = load_rollouts((yield Get(group.rollouts_ref)))
            except (BadObject, ValidationError) as error:
                return group, str(error)
            group = group.model_copy(update={"rollouts": rollouts})
        model = self._models["policy"].model
        vocabulary = model.get_input_embeddings().num_embeddings
        positions = getattr(model.config, "max_position_embeddings", None)
        return group, fault(group, vocabulary, positions)

    def gradient(
        self,
        mission: Mission,
        version: WeightVersion,
        groups: Sequence[SampleGroup],
        base: WeightVersion | None,
    ) -> Generator[Effect, Any, Gradient]:
        """The gradient of complete groups at the version that is held; `base` is the reference.

        Raises `LayoutError`, `GradientError`.
        """
        layout = yield from self._layout_of(version)
        frozen = None
        if base is not None:
            held = self._model("reference", mission.training)
            yield from held.follow(base)
            frozen = held.model
        return upload_gradient(self._models["policy"].model, layout, mission, groups, frozen)

    def _model(self, role: str, training: Training) -> PolicyModel:
        held = self._models.get(role)
        if held is None or held.setting != (training.device, training.dtype):
            held = self._models[role] = PolicyModel(training)
        return held

    def _layout_of(self, version: WeightVersion) -> Generator[Effect, Any, FlatLayout]:
        """The layout that the version names, read from its shards when it is another one."""
        named = version.layout.sha256
        if self._layout is None or self._layout.sha256 != named:
            headers: dict[str, bytes] = {}
            version = yield from whole(version, "shards")
            with tempfile.TemporaryDirectory(prefix="ralo-layout-") as folder:
                for name, ref in version.shards.items():
                    path = yield Get(ref, Path(folder) / "shard")
                    headers[name] = header_bytes(path)
            self._layout = read_layout(headers)
        if self._layout.sha256 != named:
            raise LayoutError(
                f"version {version.version} of {version.policy}: its shards have the layout "
                f"{self._layout.sha256[:16]}…, its manifest names {named[:16]}…"
            )
        return self._layout
