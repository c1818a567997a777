"""Environments as tasks name them: made, and described for a policy that is to act in them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from schemas.environments import OWN_MODULES, EnvironmentTask
from schemas.missions import NewPolicy
from schemas.policies import PolicyConfig

MakeEnvironment = Callable[[EnvironmentTask], Any]
"""Makes the Gymnasium environment of a task; raises `EnvironmentUnavailable`."""


class EnvironmentUnavailable(ValueError):
    """There is no such environment here, or no control policy can act in it; and why."""


def make_environment(task: EnvironmentTask, allow_local_code: bool = False) -> Any:
    """The environment of a task, with a time limit; raises `EnvironmentUnavailable`."""
    import gymnasium

    _must_be_allowed(task, allow_local_code)
    try:
        made = gymnasium.make(task.id, disable_env_checker=True, **task.make)
    except Exception as error:  # whatever a library or an environment raises for wrong arguments
        raise EnvironmentUnavailable(
            f"environment {task.text}: {type(error).__name__}: {error}"
        ) from error
    if made.spec is None or made.spec.max_episode_steps is None:
        made.close()
        raise EnvironmentUnavailable(
            f"environment {task.text} has no time limit: give make.max_episode_steps"
        )
    return made


def _must_be_allowed(task: EnvironmentTask, allow_local_code: bool) -> None:
    module = task.module
    own = module is None or module.startswith(OWN_MODULES)
    if not own and not allow_local_code:
        raise EnvironmentUnavailable(
            f"environment {task.id!r} imports {module}, which is local code: set "
            "RALO_ALLOW_LOCAL_CODE=1 where you trust it"
        )


def describe(task: EnvironmentTask, made: Any, size: NewPolicy) -> PolicyConfig:
    """The shape of a policy for this environment; raises `EnvironmentUnavailable`."""
    observation = _box(task, "observation", made.observation_space)
    action = _box(task, "action", made.action_space)
    low, high = action.low.tolist(), action.high.tolist()
    if not action.is_bounded():
        raise EnvironmentUnavailable(f"environment {task.text}: its actions have no bounds")
    bare = made.unwrapped
    return PolicyConfig(
        environment=task.id,
        observation=_names(bare, "observation_names", "observation", observation.shape[0]),
        action=_names(bare, "action_names", "action", action.shape[0]),
        low=low,
        high=high,
        hidden=list(size.hidden),
        clip=size.clip,
    )


def policy_folder(
    size: NewPolicy,
    tasks: Sequence[EnvironmentTask],
    folder: Path,
    allow_local_code: bool = False,
) -> None:
    """Write a new policy that can act in all of these tasks; raises `EnvironmentUnavailable`."""
    from streams.learning.control.torch_mlp import new_policy

    configs = []
    for task in tasks:
        made = make_environment(task, allow_local_code)
        configs.append(describe(task, made, size))
        made.close()
    first = configs[0]
    for task, config in zip(tasks, configs, strict=True):
        if config.model_copy(update={"environment": first.environment}) != first:
            raise EnvironmentUnavailable(
                f"environments {tasks[0].text} and {task.text} have different observations or "
                "actions: one policy cannot act in both"
            )
    new_policy(size, first, folder)


def _box(task: EnvironmentTask, what: str, space: Any) -> Any:
    import gymnasium

    if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
        raise EnvironmentUnavailable(
            f"environment {task.text}: its {what} space is {space}; a control policy takes a list "
            "of numbers (a Box of one dimension)"
        )
    return space


def _names(bare: Any, attribute: str, what: str, count: int) -> list[str]:
    """The names that the environment gives, or numbers."""
    names = getattr(bare, attribute, None)
    if names is not None and len(names) == count:
        return [str(name) for name in names]
    return [f"{what}_{i}" for i in range(count)]
