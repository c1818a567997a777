"""Asks a trained weight version a question, as its mission would have put it."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from infra.interpreter import drive, perform
from infra.store import ObjectStore
from producers.problems.templates import compile_template
from schemas.effects import Commit, Effect, Outputs
from schemas.learning import WeightVersion
from schemas.missions import Mission
from streams.learning.engines import Row
from streams.learning.engines.transformers import TransformersEngine
from streams.learning.gradients import policy_logprobs
from streams.learning.models import PolicyModel


@dataclass(frozen=True, slots=True)
class Answer:
    """A greedy completion; `logprob` is its log-probability at temperature 1, in nats.

    `ended` is False where the completion was cut at the mission's length.
    """

    policy: str
    version: int
    prompt: str
    answer: str
    logprob: float
    ended: bool


def prompt_of(template: str, text: str) -> str:
    """The text in place of the template's field; the text itself where there are several or none.

    Raises `TemplateError`.
    """
    parts = compile_template(template)
    if len({path for _, path in parts if path}) != 1:
        return text
    return "".join(literal + (text if path else "") for literal, path in parts)


def ask(store: ObjectStore, version: WeightVersion, mission: Mission, text: str) -> Answer:
    """Load the version and answer greedily; raises `PromptError`, `MissingObject`, `BadObject`."""
    model = PolicyModel(mission.training)
    drive(_load(model, version), lambda effect: perform(effect, store, Outputs()))
    prompt = prompt_of(mission.problems.prompt, text)
    tokens = model.encode(prompt)
    engine = TransformersEngine(model.model)
    room, limit = engine.room(), mission.rollout.max_tokens
    row = Row(tokens, 0, 0, limit if room is None else min(limit, room - len(tokens)))
    (segment,) = engine.generate([row], 0.0, 1.0, model.stop_ids)
    (answer,) = model.texts([segment.tokens])
    logprob = _logprob(model, tokens, segment.tokens)
    return Answer(version.policy, version.version, prompt, answer, logprob, segment.ended)


def _load(model: PolicyModel, version: WeightVersion) -> Generator[Effect, Any, Commit]:
    yield from model.follow(version)
    return "commit"


def _logprob(model: PolicyModel, prompt: tuple[int, ...], completion: list[int]) -> float:
    """The engine scores nothing where it takes the best token, so the model is asked again."""
    import torch

    with torch.inference_mode():
        scored = policy_logprobs(model.model, [prompt], [completion])
    return float(scored.logp.double().sum())
