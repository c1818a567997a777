"""The engine against plain forward passes, and its random numbers against their definition."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import SPEC, peaked_folder
from transformers import AutoModelForCausalLM

from streams.learning.engines import Row, Segment
from streams.learning.engines.counters import keyed, mix, uniforms
from streams.learning.engines.draws import draw, log_distribution, shortest_floats
from streams.learning.engines.transformers import TransformersEngine

EOS = 1
PROMPTS = [(2, 3, 4), (5,), (8, 9, 10, 2, 3), (5,), (7, 7)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = peaked_folder(tmp_path_factory.mktemp("engine") / "model")
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def rows_of(prompts: list[tuple[int, ...]], copies: int = 8, limit: int = 6) -> list[Row]:
    return [
        Row(prompt, keyed(99, p, i), 0, limit)
        for p, prompt in enumerate(prompts)
        for i in range(copies)
    ]


def generate(
    model: Any, rows: list[Row], temperature: float = 1.0, top_p: float = 1.0, stop: int = EOS
) -> list[Segment]:
    return TransformersEngine(model).generate(rows, temperature, top_p, {stop})


def reference(model: Any, row: Row, tokens: list[int], temperature: float, top_p: float) -> Any:
    """Log-probs of the tokens by one forward pass over the whole sequence, without a cache."""
    with torch.no_grad():
        logits = model(torch.tensor([[*row.prefix, *tokens]])).logits[0, len(row.prefix) - 1 : -1]
    logp = torch.log_softmax(logits / temperature, -1)
    if top_p < 1:
        for one in logp:
            order = one.argsort(descending=True)
            kept, mass = [], 0.0
            for token in order:
                kept.append(int(token))
                mass += float(one[token].exp())
                if mass >= top_p:
                    break
            outside = torch.ones_like(one, dtype=torch.bool)
            outside[kept] = False
            one[outside] = -torch.inf
        logp = torch.log_softmax(logp, -1)
    return logp.gather(-1, torch.tensor(tokens).unsqueeze(-1)).squeeze(-1)


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 1.0), (1.4, 0.8)])
@pytest.mark.parametrize("prompts", [PROMPTS, [(2, 3, 4), (4, 3, 2)]])
def test_logprobs_are_those_of_the_distribution_that_was_sampled_from(
    model: Any, prompts: list[tuple[int, ...]], temperature: float, top_p: float
) -> None:
    rows = rows_of(prompts)
    segments = generate(model, rows, temperature, top_p)
    assert len({tuple(s.tokens) for s in segments}) > 10
    assert {s.ended for s in segments} == {True, False}
    for row, segment in zip(rows, segments, strict=True):
        wanted = reference(model, row, segment.tokens, temperature, top_p)
        assert torch.isfinite(wanted).all()
        np.testing.assert_allclose(segment.logprobs, wanted.numpy(), atol=1e-5)


def test_greedy_takes_the_best_token_whatever_the_padding(model: Any) -> None:
    rows = rows_of([*PROMPTS, (2,) * 12], copies=1)
    together = generate(model, rows, temperature=0.0)
    alone = [generate(model, [row], temperature=0.0)[0] for row in rows]
    assert together == alone
    for row, segment in zip(rows, together, strict=True):
        ids = list(row.prefix)
        for token in segment.tokens:
            with torch.no_grad():
                assert token == int(model(torch.tensor([ids])).logits[0, -1].argmax())
            ids.append(token)


def test_a_sample_depends_on_its_own_seed_and_prefix_alone(model: Any) -> None:
    rows = rows_of(PROMPTS)
    together = generate(model, rows)
    assert together == generate(model, rows)
    alone = [generate(model, [row])[0] for row in rows]
    assert [s.tokens for s in together] == [s.tokens for s in alone]
    backwards = generate(model, rows[::-1])[::-1]
    assert [s.tokens for s in together] == [s.tokens for s in backwards]


def test_a_completion_in_segments_is_the_completion_in_one_go(model: Any) -> None:
    rows = rows_of(PROMPTS)
    whole = generate(model, rows)
    for row, wanted in zip(rows, whole, strict=True):
        tokens: list[int] = []
        ended = False
        while not ended and len(tokens) < 6:
            part = Row((*row.prefix, *tokens), row.seed, len(tokens), 2)
            (segment,) = generate(model, [part])
            tokens += segment.tokens
            ended = segment.ended
        assert tokens == wanted.tokens


def test_rows_end_at_their_stop_token_or_their_own_limit(model: Any) -> None:
    rows = [Row(row.prefix, row.seed, 0, 1 + i % 5) for i, row in enumerate(rows_of(PROMPTS, 16))]
    segments = generate(model, rows)
    for row, segment in zip(rows, segments, strict=True):
        assert EOS not in segment.tokens[:-1]
        assert segment.ended == (segment.tokens[-1] == EOS)
        assert segment.ended or len(segment.tokens) == row.limit
        assert len(segment.logprobs) == len(segment.tokens) <= row.limit
    assert any(s.ended and len(s.tokens) == 1 for s in segments)


def test_a_stop_token_at_once_ends_the_row(model: Any) -> None:
    (first,) = generate(model, [Row((2, 3), 0, 0, 4)], temperature=0.0, stop=-1)
    stop = first.tokens[0]
    segments = generate(model, [Row((2, 3), 0, 0, 4)] * 3, temperature=0.0, stop=stop)
    assert segments == [Segment([stop], [0.0], True)] * 3


def test_rows_may_fill_the_positions_of_the_model_beside_shorter_ones(model: Any) -> None:
    room = TransformersEngine(model).room()
    assert room == SPEC.positions
    # One ended row of seven is carried along past the last position.
    rows = [Row((2,) * (room - 1), 1, 0, 1), *[Row((3, 4), i, 0, room - 2) for i in range(6)]]
    segments = generate(model, rows, stop=-1)
    assert [len(segment.tokens) for segment in segments] == [1] + [room - 2] * 6


def test_no_rows_give_no_segments(model: Any) -> None:
    assert generate(model, []) == []


def test_splitmix_gives_its_published_sequence() -> None:
    gamma = 0x9E3779B97F4A7C15
    states = np.array([(1234567 + gamma * k) % 2**64 for k in range(1, 6)], dtype=np.uint64)
    assert mix(states).tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


@given(st.integers(0, 2**64 - 1), st.lists(st.integers(0, 2**40), max_size=3))
def test_keyed_numbers_are_the_same_mix_in_plain_integers(seed: int, counters: list[int]) -> None:
    gamma = np.array([0x9E3779B97F4A7C15], dtype=np.uint64)
    state = np.array([seed], dtype=np.uint64)
    for counter in counters:
        state = mix(mix(state) + np.array([counter + 1], dtype=np.uint64) * gamma)
    assert keyed(seed, *counters) == int(state[0])


def test_uniform_numbers_are_uniform_by_seed_and_by_position() -> None:
    many = np.arange(100_000)
    zeros = np.zeros(len(many), dtype=np.int64)
    by_seed = uniforms(many.astype(np.uint64), zeros)
    by_position = uniforms(zeros.astype(np.uint64), many)
    for u in (by_seed, by_position):
        assert u.min() >= 0 and u.max() < 1
        counts, _ = np.histogram(u, bins=100, range=(0, 1))
        assert ((counts - 1000) ** 2 / 1000).sum() < 150  # chi-square, 99 degrees: p < 0.001
        assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 0.015
    assert len({*by_seed.tolist(), *by_position.tolist()}) > 199_000


def test_draws_follow_the_distribution_and_never_take_what_has_no_probability() -> None:
    p = torch.tensor([0.0, 0.5, 0.0, 0.2, 0.299, 0.001, 0.0])
    count = 200_000
    u = uniforms(np.arange(count).astype(np.uint64), np.zeros(count, dtype=np.int64))
    tokens, logprobs = draw(p.log().expand(count, -1), u)
    counts = np.bincount(tokens, minlength=7)
    assert counts[[0, 2, 6]].tolist() == [0, 0, 0]
    kept = p.numpy() > 0
    expected = p.numpy()[kept] * count
    assert ((counts[kept] - expected) ** 2 / expected).sum() < 16.3  # 3 degrees: p < 0.001
    np.testing.assert_array_equal(logprobs, p.log().numpy()[tokens])
    ends, _ = draw(p.log().expand(2, -1), np.array([0.0, 1 - 2**-53]))
    assert ends.tolist() == [1, 5]


def test_draws_of_a_large_vocabulary_are_the_same_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    logp = torch.log_softmax(torch.randn(7, 50, generator=torch.Generator().manual_seed(1)), -1)
    u = uniforms(np.arange(7).astype(np.uint64), np.arange(7))
    whole, _ = draw(logp, u)
    monkeypatch.setattr("streams.learning.engines.draws._ELEMENTS", 100)
    parts, _ = draw(logp, u)
    assert whole.tolist() == parts.tolist()


def test_top_p_keeps_the_token_that_crosses_it() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    kept = log_distribution(logits, 1.0, 0.7).exp()
    torch.testing.assert_close(kept, torch.tensor([[0.625, 0.375, 0.0, 0.0]]))
    torch.testing.assert_close(
        log_distribution(logits, 1.0, 1e-9).exp(), torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    )


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
def test_logprobs_as_json_parse_to_the_same_float32(values: list[float]) -> None:
    exact = np.array([values], dtype=np.float32)
    parsed = np.array(json.loads(json.dumps(shortest_floats(exact))), dtype=np.float32)
    assert parsed.tobytes() == exact.tobytes()


def test_logprobs_are_written_short() -> None:
    assert json.dumps(shortest_floats(np.array([[-0.1, -3.3672957]], dtype=np.float32))) == (
        "[[-0.1, -3.3672957]]"
    )
