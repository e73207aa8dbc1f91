"""A lab's own task and networks, as a user would write them; test_own.py copies this file."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

import modprop_jax as mpj


def context_decision(key, batch, steps=8):
    """Which of two noisy streams is positive, as a context says; trials of different length."""
    k1, k2, k3, k4 = jr.split(key, 4)
    mean = jr.choice(k1, jnp.array([-1.0, 1.0]), (2, batch))
    context = jr.bernoulli(k2, shape=(batch,)).astype(jnp.int32)
    last = jr.randint(k3, (1, batch), steps // 2, steps)
    time = jnp.arange(steps)[:, None]
    on = (time <= last).astype(mean.dtype)[..., None]
    streams = on * (mean.T[None] + jr.normal(k4, (steps, batch, 2)))
    cue = jnp.broadcast_to(jax.nn.one_hot(context, 2), streams.shape)
    label = (mean[context, jnp.arange(batch)] > 0).astype(jnp.int32)
    return jnp.concatenate([streams, cue], -1), (
        jnp.broadcast_to(label, (steps, batch)),
        time == last,
    )


def average(key, batch):
    """The mean of what has been seen so far."""
    xs = jr.normal(key, (6, batch, 2))
    return xs, jnp.cumsum(xs, 0)[..., :1] / jnp.arange(1.0, 7.0)[:, None, None]


class TwoLayers(eqx.Module):
    """Noise at each step, a random start, two layers of different size, a cost of activity."""

    first: mpj.RNN
    second: mpj.RNN
    readout: mpj.Readout
    noise: float

    def __init__(self, in_size, out_size, *, key, hidden_size=6, noise=0.1):
        k1, k2, k3 = jr.split(key, 3)
        dale = mpj.LeakyCell(in_size, hidden_size, tau=4.0, signs=(1, 1, 1, 1, -1, -1), key=k1)
        self.first = mpj.RNN(dale)
        self.second = mpj.RNN(mpj.LeakyCell(hidden_size, 4, tau=4.0, key=k2))
        self.readout = mpj.Readout(4, out_size, feedback="random", key=k3)
        self.noise = noise

    def __call__(self, xs, *, key):
        k1, k2 = jr.split(key)
        start = self.noise * jr.normal(k1, (xs.shape[1], 6), xs.dtype)
        noisy = xs + self.noise * jr.normal(k2, xs.shape, xs.dtype)
        _, zs = self.first(noisy, start)
        zs = self.second(zs)
        return self.readout(zs), 1e-3 * jnp.mean(zs**2)


def echo(key, batch, steps=20):
    """A stream: what was heard two steps ago."""
    xs = jr.normal(key, (steps, batch, 2))
    return xs, jnp.roll(xs[..., :1], 2, axis=0).at[:2].set(0)


setattr(echo, "stream", True)


class Online(eqx.Module):
    """Two layers that go on from where they were."""

    first: mpj.RNN
    second: mpj.RNN
    readout: mpj.Readout

    def __init__(self, in_size, out_size, *, key):
        k1, k2, k3 = jr.split(key, 3)
        self.first = mpj.RNN(mpj.LeakyCell(in_size, 5, tau=2.0, activation=jnp.tanh, key=k1))
        self.second = mpj.RNN(mpj.LeakyCell(5, 3, tau=2.0, activation=jnp.tanh, key=k2))
        self.readout = mpj.Readout(3, out_size, key=k3)

    def init(self, batch_shape=(), *, key=None):
        keys = (None, None) if key is None else jr.split(key)
        return [layer.init(batch_shape, key=k) for layer, k in zip(self.layers, keys)]

    @property
    def layers(self):
        return self.first, self.second

    def online(self, xs, carry, *, context=None):
        first, zs = self.first(xs, carry[0], context=context)
        second, zs = self.second(zs, carry[1], context=context)
        return [first, second], self.readout(zs)


class Forgetting(Online):
    """Its second layer begins anew in every segment."""

    def init(self, batch_shape=(), *, key=None):
        return Online.init(self, batch_shape, key=key)[:1]

    def online(self, xs, carry, *, context=None):
        carry, zs = self.first(xs, carry[0], context=context)
        return [carry], self.readout(self.second(zs))


class Stuck(Online):
    """It forgets to give the second layer's carry back."""

    def online(self, xs, carry, *, context=None):
        after, outputs = Online.online(self, xs, carry, context=context)
        return after[:1], outputs


class Late(Online):
    """Outputs of the last step alone."""

    def online(self, xs, carry, *, context=None):
        carry, outputs = Online.online(self, xs, carry, context=context)
        return carry, outputs[-1:]


def masked_echo(key, batch, steps=20):
    """A stream with steps that do not count."""
    xs, ys = echo(key, batch, steps)
    return xs, (ys, jnp.ones(ys.shape[:2]))


setattr(masked_echo, "stream", True)


class Plain(eqx.Module):
    """One layer and its outputs of every step."""

    rnn: mpj.RNN
    readout: mpj.Readout

    def __init__(self, in_size, out_size, *, key):
        k1, k2 = jr.split(key)
        self.rnn = mpj.RNN(mpj.LeakyCell(in_size, 5, tau=3.0, key=k1))
        self.readout = mpj.Readout(5, out_size, key=k2)

    def __call__(self, xs):
        return self.readout(self.rnn(xs))


def linear(in_size, out_size, *, key):
    """No recurrent layer."""
    return eqx.nn.Linear(in_size, out_size, key=key)


def wrong_shape(in_size, out_size, *, key):
    """Outputs that are one too many."""
    return Plain(in_size, out_size + 1, key=key)


def flat(key, batch):
    """No time."""
    return jnp.zeros((batch, 3)), jnp.zeros(batch, jnp.int32)


NUMBER = 3
