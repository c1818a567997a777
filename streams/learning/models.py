"""Models as Hugging Face folders: made new, taken from a base, and held in memory across versions.

The log's weights are the master copy, so folders hold float32 whatever the model computes in.
"""

import json
import tempfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load as tensors_of

from schemas.effects import Effect, Get
from schemas.learning import WeightVersion
from schemas.missions import ModelSpec, NewModel, Training
from schemas.tensors import ObjectRef
from streams.learning.spill import whole

PAD, EOS = "<pad>", "<eos>"
_INDEX = "model.safetensors.index.json"
_IN_MEMORY_BYTES = 64 << 20
"""A larger shard goes through a file and is mapped, so memory never holds the model twice."""


class ModelUnavailable(Exception):
    """The base model of a mission cannot be had, and why."""


class PromptError(ValueError):
    """A prompt that this model cannot be given, and why."""


class WrongWeights(Exception):
    """The shards of a version are not the tensors of the model in its files."""


def new_model(spec: NewModel, folder: Path, shard_bytes: int = 1 << 30) -> None:
    """Write a GPT-2 with random weights and a tokenizer of single characters to a folder.

    Learned positions, untied embeddings, no dropout, float32; equal specs give equal bytes. Needs
    a width that the heads divide; raises ValueError.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    if spec.width % spec.heads:
        raise ValueError(f"model.new: width {spec.width} is no multiple of heads {spec.heads}")
    tokenizer = _character_tokenizer(spec)
    pad, eos = tokenizer.pad_token_id, tokenizer.eos_token_id
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=spec.positions,
        n_embd=spec.width,
        n_layer=spec.layers,
        n_head=spec.heads,
        # The same function as GPT-2's gelu_new, in one kernel.
        activation_function="gelu_pytorch_tanh",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        tie_word_embeddings=False,
        bos_token_id=eos,
        eos_token_id=eos,
        pad_token_id=pad,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        model = GPT2LMHeadModel(config)
    _save(model, tokenizer, folder, shard_bytes)


def _character_tokenizer(spec: NewModel) -> Any:
    """One token a character; a character outside the alphabet is an error, never dropped."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    characters = dict.fromkeys([PAD, EOS, *spec.alphabet])
    words = {word: number for number, word in enumerate(characters)}
    tokenizer = Tokenizer(models.WordLevel(words))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        padding_side="left",
        model_max_length=spec.positions,
        clean_up_tokenization_spaces=False,
    )


def base_folder(spec: ModelSpec, into: Path, shard_bytes: int = 1 << 30) -> None:
    """Write the base model of a mission to a folder: config, tokenizer, `*.safetensors` in float32.

    The base is `new`, a local folder, or a name on the hub. Of tied weights one is stored. Raises
    `ModelUnavailable` where the base is not there or cannot be loaded.
    """
    if spec.base == "new":
        return new_model(spec.new, into, shard_bytes)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        with _quiet():
            tokenizer = AutoTokenizer.from_pretrained(spec.base)
            model = AutoModelForCausalLM.from_pretrained(spec.base, dtype=torch.float32)
    except (OSError, ValueError) as error:
        here = Path(spec.base).exists()
        mend = "is it a causal language model in Hugging Face layout?" if here else _NOT_HERE
        raise ModelUnavailable(
            f"model.base {spec.base!r}: {mend} ({_first_line(error)})"
        ) from error
    _save(model, tokenizer, into, shard_bytes)


_NOT_HERE = (
    "no such folder here, and the hub does not have it or cannot be reached; "
    "give a folder with config.json and *.safetensors, or base: new"
)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _save(model: Any, tokenizer: Any, folder: Path, shard_bytes: int) -> None:
    with _quiet():
        model.save_pretrained(folder, max_shard_size=shard_bytes)
    tokenizer.save_pretrained(folder)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's progress bars, which belong to no log of ours."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def pick_device(name: str) -> torch.device:
    """The device of that name; `auto` takes CUDA, then Apple's GPU, then the CPU."""
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


class PolicyModel:
    """A model and its tokenizer in memory, following the weight versions of one policy.

    `follow` fetches only what changed and writes it into the parameters in place, so whoever holds
    `model` sees the new weights. `version` is None while nothing whole is loaded.
    """

    def __init__(self, training: Training | None = None) -> None:
        training = training or Training()
        self.setting = (training.device, training.dtype)
        self.device = pick_device(training.device)
        self.dtype: torch.dtype = getattr(torch, training.dtype)
        self.version: int | None = None
        self.model: Any = None
        self.tokenizer: Any = None
        self.stop_ids: frozenset[int] = frozenset()
        self.longest_token = 1
        self._files: dict[str, str] = {}
        self._shards: dict[str, str] = {}
        self._slots: dict[str, torch.Tensor] = {}

    def encode(self, prompt: str) -> tuple[int, ...]:
        """The tokens of a prompt; raises `PromptError` where it has none or does not fit."""
        try:
            tokens = tuple(self.tokenizer(prompt)["input_ids"])
        except Exception as error:  # the tokenizers library raises nothing narrower
            raise PromptError(f"prompt {prompt!r}: {_first_line(error)}") from error
        room = getattr(self.model.config, "max_position_embeddings", None) or len(tokens) + 1
        if not 0 < len(tokens) < room:
            raise PromptError(
                f"prompt {prompt[:80]!r} has {len(tokens)} tokens: "
                f"from 1 to {room - 1} fit the {room} positions of the model"
            )
        return tokens

    def texts(self, completions: Sequence[Sequence[int]]) -> list[str]:
        """What the completions say, without the stop token at the end; other special tokens show.

        So a completion with padding in its midst is not taken for the text without it.
        """
        plain = [t[:-1] if t and t[-1] in self.stop_ids else t for t in map(list, completions)]
        texts: list[str] = self.tokenizer.batch_decode(
            plain, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return texts

    def follow(self, version: WeightVersion) -> Generator[Effect, Any, None]:
        """Hold the weights of this version; all of it is fetched and checked before a byte changes.

        Raises `WrongWeights` when the shards do not fit the model.
        """
        version = yield from whole(version, "shards")
        if {name: ref.sha256 for name, ref in version.files.items()} != self._files:
            yield from self._load(version)
        elif changed := self._changed(version):
            yield from self._swap(version, changed)
        self.version = version.version

    def _changed(self, version: WeightVersion) -> dict[str, ObjectRef]:
        held = self._shards
        return {n: ref for n, ref in version.shards.items() if held.get(n) != ref.sha256}

    def _load(self, version: WeightVersion) -> Generator[Effect, Any, None]:
        """Build model and tokenizer from a folder fetched from the store; nothing is downloaded."""
        self.version, self._files = None, {}
        with tempfile.TemporaryDirectory(prefix="ralo-model-") as folder:
            for name, ref in {**version.files, **version.shards}.items():
                yield Get(ref, Path(folder) / Path(name).name)
            self._build(Path(folder), version)
        self._shards = {name: ref.sha256 for name, ref in version.shards.items()}
        self._files = {name: ref.sha256 for name, ref in version.files.items()}

    def _build(self, folder: Path, version: WeightVersion) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        _write_index(folder, list(version.shards))
        with _quiet():
            self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model = AutoModelForCausalLM.from_pretrained(
                folder, dtype=self.dtype, local_files_only=True
            )
        self.model = model.to(self.device).eval()
        # Masks are ours to pass: with a pad id set, each forward pass would look for padding.
        self.model.config.pad_token_id = None
        self.stop_ids = _stop_ids(self.model, self.tokenizer)
        self.longest_token = max(map(len, self.tokenizer.get_vocab()))
        # Parameters and buffers by their names in the shards; tied ones have one stored name.
        self._slots = dict(self.model.state_dict(keep_vars=False))

    def _swap(
        self, version: WeightVersion, changed: Mapping[str, ObjectRef]
    ) -> Generator[Effect, Any, None]:
        with tempfile.TemporaryDirectory(prefix="ralo-weights-") as folder:
            fetched: list[bytes | Path] = []
            for name, ref in changed.items():
                large = ref.size_bytes > _IN_MEMORY_BYTES
                fetched.append((yield Get(ref, Path(folder) / Path(name).name if large else None)))
            self.version = None
            for data in fetched:
                self._copy(data)
        self._shards = {name: ref.sha256 for name, ref in version.shards.items()}

    def _copy(self, data: bytes | Path) -> None:
        with torch.no_grad():
            for name, tensor in _tensors(data):
                self._slot(name, tensor).copy_(tensor)

    def _slot(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        slot = self._slots.get(name)
        if slot is not None and slot.shape == tensor.shape:
            return slot
        held = "none of that name" if slot is None else f"one of shape {tuple(slot.shape)}"
        self._files = {}  # What is held is no version: whatever comes next is loaded whole.
        raise WrongWeights(f"tensor {name} of shape {tuple(tensor.shape)}: the model has {held}")


def _tensors(data: bytes | Path) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(data, bytes):
        yield from tensors_of(data).items()
        return
    with safe_open(data, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - safe_open is no mapping
            yield name, file.get_tensor(name)


def _write_index(folder: Path, shards: list[str]) -> None:
    """The index that `from_pretrained` wants of several shards, where the version has none."""
    if len(shards) < 2 or (folder / _INDEX).exists():
        return
    names: dict[str, str] = {}
    for shard in shards:
        with safe_open(folder / Path(shard).name, framework="pt") as file:
            names |= dict.fromkeys(file.keys(), Path(shard).name)
    (folder / _INDEX).write_text(json.dumps({"metadata": {}, "weight_map": names}))


def _stop_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """The ids that end a completion: the generation config's, which may be many, and the EOS."""
    known = model.generation_config.eos_token_id
    listed = known if isinstance(known, list) else [known]
    return frozenset(i for i in (*listed, tokenizer.eos_token_id) if i is not None)
