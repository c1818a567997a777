"""A control policy as it travels: `config.json` beside safetensors shards, run in numpy or torch.

Tensors, all float32: `actor.<i>.weight` [out, in] and `actor.<i>.bias` [out] for each layer,
`log_std` [actions]; `critic.<i>.*` for learning only; `obs_mean`, `obs_var` [observations] and
`obs_count` [1], which no gradient changes. The mean action is

    x = clip((observation - obs_mean) / sqrt(obs_var + 1e-8), -clip, clip)
    h = tanh(W_i h + b_i) for each hidden layer, then W h + b without tanh,

in units of the half-width of each action's range around its middle; noise of exp(log_std) is added
there when it explores, and the result is clipped to the range.
"""

from typing import Literal

from pydantic import Field

from schemas.base import Strict


class PolicyConfig(Strict):
    """The shape of a control policy, and what its numbers mean."""

    architecture: Literal["mlp"] = "mlp"
    environment: str = Field(description="what it was learnt in: a Gymnasium id")
    observation: list[str] = Field(description="names of the inputs, unit last")
    action: list[str] = Field(description="names of the outputs, as the driver's set-point")
    low: list[float]
    high: list[float]
    hidden: list[int] = [64, 64]
    clip: float = 10.0
    explores: bool = Field(True, description="it acts by drawing from its distribution")
