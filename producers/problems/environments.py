"""Environments as problems: a task and a seed of its resets each; nothing is made or imported."""

from collections.abc import Iterator

from pydantic import JsonValue, ValidationError

from schemas.environments import EnvironmentArgs, EnvironmentTask
from schemas.ids import derived_seed
from schemas.missions import ProblemSource


def tasks_of(source: ProblemSource) -> list[EnvironmentTask]:
    """The tasks of a source of environments, in order, none twice; raises ValueError."""
    try:
        args = EnvironmentArgs.model_validate(source.args)
        tasks = _chosen(source, args)
        if args.family:
            tasks = [_drawn(task, args, source.seed, n) for n, task in _repeated(tasks, args)]
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(["problems.args", *(str(part) for part in first["loc"])])
        raise ValueError(f"{where}: {first['msg']}") from error
    return list({task.text: task for task in tasks}.values())


def resets(source: ProblemSource) -> Iterator[tuple[str, dict[str, JsonValue]]]:
    """`size` problems, the tasks in turn: their text and what the sampler needs of them."""
    tasks = tasks_of(source)
    for number in range(source.size):
        task, seed = tasks[number % len(tasks)], number // len(tasks)
        text = f"{task.text} seed {source.seed}.{seed}"
        reset = derived_seed("environment", source.seed, task.text, seed)
        yield text, {"environment": task.model_dump(mode="json"), "seed": str(reset)}


def _chosen(source: ProblemSource, args: EnvironmentArgs) -> list[EnvironmentTask]:
    if not args.tasks:
        return [EnvironmentTask(id=source.name, make=args.make)]
    return [
        EnvironmentTask(id=choice.id or source.name, make={**args.make, **choice.make})
        for choice in args.tasks
    ]


def _repeated(
    tasks: list[EnvironmentTask], args: EnvironmentArgs
) -> Iterator[tuple[int, EnvironmentTask]]:
    return ((n, tasks[n % len(tasks)]) for n in range(args.family_size))


def _drawn(task: EnvironmentTask, args: EnvironmentArgs, seed: int, number: int) -> EnvironmentTask:
    """A task of the family: each argument uniform between its bounds, by its name and number."""
    drawn: dict[str, JsonValue] = {
        name: round(low + (high - low) * derived_seed("task", seed, name, number) / 2**64, 6)
        for name, (low, high) in sorted(args.family.items())
    }
    return task.model_copy(update={"make": {**task.make, **drawn}})
