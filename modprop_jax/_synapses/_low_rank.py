"""Weights of few dimensions, beside others."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from .. import _arguments as arguments
from .._precision import times, times_back, wide
from ._base import AbstractSynapses, described, Types


class LowRank(AbstractSynapses):
    r"""\( W = left\, right^T + plus \), of rank r beside `plus`.

    `left` (post, r) and `right` (pre, r) train, and so do the parameters of `plus`, another map of
    the same neurons; to keep some of them as they are, leave them out of what is differentiated
    (`eqx.partition`). A parameter of rank r acts on many synapses, so that no eligibility trace of
    a synapse serves it: it learns offline under any rule, and streams where one leak serves all
    neurons (EProp, MDGL, ModProp with types) or by RTRL.

    Time and memory O((post + pre) r), and those of `plus`.

    Source: Mastrogiuseppe & Ostojic, Neuron 99 (2018), for recurrence of low rank beside other
    weights.
    """

    left: Float[Array, "post r"]
    right: Float[Array, "pre r"]
    plus: AbstractSynapses | None

    def __init__(
        self,
        left: Float[Array, "post r"],
        right: Float[Array, "pre r"],
        plus: AbstractSynapses | None = None,
    ):
        """**Arguments:** `left` (post, r), `right` (pre, r); `plus`: another map; None: nothing."""
        self.left = arguments.parameters("left", left, 2)
        self.right = arguments.parameters("right", right, 2)
        self.plus = plus
        if left.shape[-1] != right.shape[-1]:
            raise ValueError(
                f"left and right must be of one rank r, (post, r) and (pre, r), but are of shape "
                f"{left.shape} and {right.shape}."
            )
        if plus is None:
            return
        if not isinstance(plus, AbstractSynapses) or plus.shape != self.shape:
            came = described(plus) if isinstance(plus, AbstractSynapses) else arguments.shown(plus)
            raise ValueError(
                f"plus must be a map of shape {self.shape} [post, pre], such as Dense(weights), "
                f"but is {came}."
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Of W."""
        return self.left.shape[-2], self.right.shape[-2]

    def resolved(self) -> "LowRank":
        """Of the other map."""
        return LowRank(self.left, self.right, None if self.plus is None else self.plus.resolved())

    def __call__(self, pre: Float[Array, "*axes pre"]) -> Float[Array, "*axes post"]:
        """Down to r numbers, and up again."""
        own = times(times(pre, self.right), self.left.T)
        return own if self.plus is None else own + self.plus(pre)

    def back(self, post: Float[Array, "*axes post"]) -> Float[Array, "*axes pre"]:
        """The same in reverse."""
        own = times_back(times_back(post, self.left), self.right.T)
        return own if self.plus is None else own + self.plus.back(post)

    def gradient(
        self, post: Float[Array, "*axes post"], pre: Float[Array, "*axes pre"]
    ) -> "LowRank":
        """Each factor meets what comes through the other."""
        credit, sent = (a.reshape(-1, a.shape[-1]) for a in (post, pre))
        dtype = wide(self.dtype)
        left = credit.T @ (sent @ self.right.astype(dtype))
        right = sent.T @ (credit @ self.left.astype(dtype))
        return LowRank(left, right, None if self.plus is None else self.plus.gradient(post, pre))

    def own(self) -> Float[Array, " n"]:
        """The diagonal."""
        own = jnp.sum(self.left * self.right, axis=-1)
        return own if self.plus is None else own + self.plus.own()

    def type_sums(
        self, types: Types, gain: ArrayLike = 1.0, mu: ArrayLike = 1.0
    ) -> Float[Array, "C C"]:
        """Of both."""
        own = AbstractSynapses.type_sums(LowRank(self.left, self.right), types, gain, mu)
        return own if self.plus is None else own + self.plus.type_sums(types, gain, mu)
