"""Where processors are put together: which class, with which of the settings."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from infra.belongings import scratch_folder
from infra.clock import monotonic, wall
from infra.settings import Settings, SettingsError, kafka_bootstrap
from schemas.effects import Processor
from schemas.missions import Mission

if TYPE_CHECKING:
    from schemas.environments import EnvironmentTask
    from schemas.missions import NewPolicy
    from streams.learning.control.environments import MakeEnvironment

ORCHESTRATOR = "orchestrator"
LEARNERS = ("sampler", "trainer", "aggregator", "evaluator")
ORCHESTRATOR_PORT = 8071

Factory = Callable[[Settings], Processor]


def factory(name: str) -> Factory:
    """How to make the processor of that name; raises `SettingsError` listing the names."""
    if name not in _FACTORIES:
        known = ", ".join([*_FACTORIES, ORCHESTRATOR])
        raise SettingsError(f"no processor {name!r}; there are {known}")
    return _FACTORIES[name]


def _provider(config: Settings) -> Processor:
    from producers.problems.provider import ProblemProvider
    from streams.learning.algorithms import algorithm_of

    def check(mission: Mission) -> None:
        algorithm_of(mission)

    def base_folder(*args: object) -> None:
        # Imports transformers, so only when a base model is to be made.
        from streams.learning.models import base_folder as make

        make(*args)  # type: ignore[arg-type]

    def policy_folder(size: "NewPolicy", tasks: "Sequence[EnvironmentTask]", folder: Path) -> None:
        from streams.learning.control.environments import policy_folder as make

        make(size, tasks, folder, config.allow_local_code)

    return ProblemProvider(check, base_folder, monotonic, config.allow_local_code, policy_folder)


def _sampler(config: Settings) -> Processor:
    from producers.problems.verifiers import scorer
    from streams.learning.algorithms import token_algorithm
    from streams.learning.rollout import RolloutPlan
    from streams.learning.sampler import Sampler

    def plan(mission: Mission) -> RolloutPlan:
        return token_algorithm(mission).plan(mission)

    _one_thread_per_worker(config)
    allowed = config.allow_local_code
    return Sampler(config.policy, scorer(allowed), plan, make=_environments(allowed))


def _trainer(config: Settings) -> Processor:
    from streams.learning.trainer import Trainer

    _one_thread_per_worker(config)
    return Trainer(config.policy, f"trainer-{config.instance or 0}")


def _aggregator(config: Settings) -> Processor:
    from streams.learning.aggregator import Aggregator

    _one_thread_per_worker(config)
    return Aggregator(config.policy, scratch_folder(config, config.policy, config.instance or "0"))


def _evaluator(config: Settings) -> Processor:
    from producers.problems.verifiers import scorer
    from streams.learning.evaluator import Evaluator

    _one_thread_per_worker(config)
    allowed = config.allow_local_code
    return Evaluator(config.policy, scorer(allowed), make=_environments(allowed))


def _gate(config: Settings) -> Processor:
    from streams.acting.release.gate import Gate

    return Gate(config.policy, lambda: wall() * 1000)


def _environments(allow_local_code: bool) -> "MakeEnvironment":
    from streams.learning.control.environments import make_environment

    return partial(make_environment, allow_local_code=allow_local_code)


_FACTORIES: Mapping[str, Factory] = {
    "provider": _provider,
    "sampler": _sampler,
    "trainer": _trainer,
    "aggregator": _aggregator,
    "evaluator": _evaluator,
    "gate": _gate,
}


def _one_thread_per_worker(config: Settings) -> None:
    import torch

    torch.set_num_threads(config.torch_threads)


def run_orchestrator(config: Settings) -> int:
    """Run the orchestrator until it is told to stop; its exit status."""
    from streams.missions.app import run

    port = config.http_port or ORCHESTRATOR_PORT
    extra = config.kafka.extra
    bootstrap = kafka_bootstrap(config)
    return run(bootstrap, config.namespace, config.bind_host, port, config.state_dir, extra)
