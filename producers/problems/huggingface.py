"""Hugging Face datasets: a local file or folder, or a name on the hub."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import JsonValue

ARGS = ("config", "revision", "data_files", "data_dir")
_BUILDERS = {
    ".json": "json",
    ".jsonl": "json",
    ".csv": "csv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".txt": "text",
}


def open_dataset(
    name: str, split: str | None, args: Mapping[str, JsonValue]
) -> Iterable[Mapping[str, Any]]:
    """The rows of one split (`train` unless named); raises ValueError saying how to mend it."""
    if unknown := sorted(set(args) - set(ARGS)):
        raise ValueError(f"problems.args: {unknown} unknown; a dataset takes {list(ARGS)}")
    import datasets

    datasets.disable_progress_bars()
    options: dict[str, Any] = {("name" if k == "config" else k): v for k, v in args.items()}
    path, split = Path(name), split or "train"
    if _was_saved(path):
        return _saved(datasets.load_from_disk(name), name, split)
    if path.is_file():
        if path.suffix not in _BUILDERS:
            raise ValueError(f"problems.name: {path}: one of {sorted(_BUILDERS)} is needed")
        name, options = _BUILDERS[path.suffix], {**options, "data_files": name}
    return _load(datasets, name, split, options)


def _was_saved(path: Path) -> bool:
    return any((path / name).is_file() for name in ("state.json", "dataset_dict.json"))


def _saved(dataset: Any, name: str, split: str) -> Iterable[Mapping[str, Any]]:
    if not hasattr(dataset, "keys"):
        rows: Iterable[Mapping[str, Any]] = dataset
        return rows
    if split not in dataset:
        raise ValueError(f"problems.split: {name} has {sorted(dataset)}, not {split!r}")
    rows = dataset[split]
    return rows


def _load(
    datasets: Any, name: str, split: str, options: Mapping[str, Any]
) -> Iterable[Mapping[str, Any]]:
    try:
        rows: Iterable[Mapping[str, Any]] = datasets.load_dataset(name, split=split, **options)
        return rows
    except Exception as error:
        # The library raises what its transports raise: RuntimeError, OSError, its own, …
        where = "" if "data_files" in options else "; a hub name needs a network, a path must exist"
        raise ValueError(f"problems.name: dataset {name!r}: {_first_line(error)}{where}") from error


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]
