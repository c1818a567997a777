"""Whether prompts and answers fit a model, by its `config.json` and `tokenizer.json` alone."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from producers.problems.sources import Item
from schemas.missions import RolloutSpec

NEEDED = ("config.json", "tokenizer.json")
_POSITIONS = ("max_position_embeddings", "n_positions")


class Misfit(ValueError):
    """An item that the model cannot read or whose answer it cannot write."""


def check_fit(files: Mapping[str, bytes], items: Sequence[Item], rollout: RolloutSpec) -> None:
    """Raise `Misfit` for a prompt that cannot be encoded or leaves no room for `max_tokens`.

    A base without `tokenizer.json` is not checked here; the sampler says what it cannot encode.
    """
    if "tokenizer.json" not in files:
        return
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(files["tokenizer.json"].decode())
    positions = _positions(json.loads(files.get("config.json", b"{}")))
    for item in items:
        length = len(_encode(tokenizer, "prompt", item.prompt))
        if positions is not None and length + rollout.max_tokens > positions:
            raise Misfit(
                f"prompt {_short(item.prompt)} has {length} tokens: with rollout.max_tokens "
                f"{rollout.max_tokens} that is more than the model's {positions} positions"
            )
    shortest = min(len(_encode(tokenizer, "answer", item.answer)) for item in items)
    if shortest + 1 > rollout.max_tokens:
        raise Misfit(
            f"rollout.max_tokens {rollout.max_tokens}: the shortest answer takes {shortest} tokens "
            "and its end, so none can be written"
        )


def _positions(config: Mapping[str, Any]) -> int | None:
    for part in (config, config.get("text_config") or {}):
        for name in _POSITIONS:
            if isinstance(part.get(name), int):
                return int(part[name])
    return None


def _encode(tokenizer: Any, what: str, text: str) -> list[int]:
    try:
        ids: list[int] = tokenizer.encode(text).ids
    except Exception as error:
        # The library raises bare Exception.
        raise Misfit(
            f"{what} {_short(text)} has characters that the model's tokenizer lacks "
            f"(model.new.alphabet, or another template): {error}"
        ) from error
    return ids


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "…")
