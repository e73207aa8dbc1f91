"""Inside of `jax.shard_map`, on one device: types alone; `sharded.py` has the values on eight."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
import pytest
from helpers import BATCH, data, net, offline_loss, segment_loss
from jax.sharding import PartitionSpec as P

import modprop_jax as mpj


def mapped(run, model, *seen):
    """Shapes of `run(model, *seen)`, the batch split."""
    arrays, static = eqx.partition(model, eqx.is_array)
    mesh = jax.make_mesh((1,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))

    def inside(arrays, *seen):
        return jax.lax.pmean(run(eqx.combine(arrays, static), *seen), "batch")

    split = P(None, "batch")
    specs = {"in_specs": (P(), *(split for _ in seen)), "out_specs": P()}
    return jax.eval_shape(jax.shard_map(inside, mesh=mesh, **specs), arrays, *seen)


@pytest.mark.parametrize("name, cell_name", [("bptt", "function"), ("modprop_auto", "leaky")])
def test_gradients_have_the_types_of_the_weights(name, cell_name):
    model, seen = net(name, cell_name), data()

    def run(model, xs, ys):
        value, gradients = mpj.value_and_grad(offline_loss)(model, xs, ys)
        online = mpj.online_value_and_grad(segment_loss, segment=4)
        (total, _), streamed = online(model, model.rnn.init(xs.shape[1]), xs, ys)
        for tree in (gradients, streamed):
            types = [jax.typeof(leaf).manual_axis_type.varying for leaf in jax.tree.leaves(tree)]
            assert not any(types)
        return value + total

    assert mapped(run, model, *seen).shape == ()


def test_what_jax_would_sum_over_devices_is_refused():
    """The next value of a trace is a cotangent, which is no gradient."""
    cell = mpj.RateCell(3, 6, key=jr.key(0))
    dni = mpj.RNN(cell, rule=mpj.DNI(learn=optax.sgd(0.1)))
    gle = {"tau_m": 4.0, "tau_r": 2.0, "dt": 0.5, "activations": jnp.tanh, "key": jr.key(0)}
    refused = {
        "DNI learns from all examples of a batch": dni,
        "this carry is the same on all devices": mpj.RNN(
            mpj.GLECell([3, 4, 2], **gle), rule=mpj.GLE()
        ),
    }
    for message, rnn in refused.items():

        def run(rnn, xs):
            return jnp.sum(rnn(xs, rnn.init(BATCH, key=jr.key(1)))[1])

        with pytest.raises(ValueError, match=message):
            mapped(run, rnn, data()[0])
