"""Sizes chosen from n, batch and memory: they change no gradient, and hold what they say."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import (
    assert_close,
    BATCH,
    data,
    gradient,
    jit,
    N,
    net,
    offline,
    segment_loss,
    T,
    weights,
)

import modprop_jax as mpj
from modprop_jax._budget import auto_checkpoint, auto_segment
from modprop_jax._program._chunk import auto_chunk


@pytest.mark.parametrize(
    "memory, steps", [pytest.param(1, 1, marks=pytest.mark.slow), (1500, 3), (None, T)]
)
def test_an_automatic_segment_fits_the_memory_and_changes_nothing(memory, steps):
    model, (xs, ys) = net("modprop_types", "leaky"), data()
    carry = model.rnn.init(BATCH)
    # by hand: four arrays of (2, 6), an input of (2, 3) and a target of (2, 2), 8 bytes each
    a_step = 8 * BATCH[0] * (4 * N + 3 + 2)
    assert auto_segment(carry, (xs, ys), T, memory) == steps
    assert memory is None or steps == max(memory // a_step, 1)
    online = mpj.online_value_and_grad(segment_loss, segment="auto", memory=memory)
    (loss, _), found = jit(online)(model, carry, xs, ys)
    expected_loss, expected = offline("modprop_types", "leaky")
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-12)
    assert_close(found, expected)


def test_traces_do_not_count_as_states():
    states = mpj.RTRL().init(net("rtrl", "leaky").rnn.cell, jnp.zeros((*BATCH, N)))
    bare = jnp.zeros((*BATCH, N))
    assert auto_segment(states, data(), T, 1500) == auto_segment(bare, data(), T, 1500) == 3


def test_exact_gradients_checkpoint_at_the_square_root_of_time():
    assert [auto_checkpoint(steps) for steps in (1, 9, 10, 10_000)] == [1, 3, 4, 100]
    model, (xs, ys) = net("bptt", "leaky"), data()
    exact = mpj.checkpointed_value_and_grad(segment_loss)
    _, found = jit(exact)(model, model.rnn.cell.init(BATCH), xs, ys)
    assert_close(weights(found), weights(gradient(model, xs, ys)[1]))


def test_a_chunk_is_at_most_half_a_megabyte_within_its_bounds():
    for batch in (1, 32, 1024):
        for n in (8, 128, 1024):
            chunk = auto_chunk(batch, n)
            assert 8 <= chunk <= 32
            assert chunk == 8 or chunk * batch * n <= 2**17
            assert chunk == 32 or (chunk + 1) * batch * n > 2**17


@pytest.mark.usefixtures("without_type_checks")
def test_memory_is_for_automatic_segments():
    wrong = ((32, 1000, '"auto"'), ("auto", 0, "memory must be"), ("all", None, '"auto"'))
    for segment, memory, message in wrong:
        with pytest.raises(ValueError, match=message):
            mpj.online_value_and_grad(segment_loss, segment=segment, memory=memory)  # pyright: ignore


@pytest.mark.parametrize("layers", ["bptt", "two"])
def test_where_the_segment_decides_what_is_cut_it_has_to_be_said(layers):
    rnn = mpj.RNN(net("eprop", "leaky").rnn.cell, rule=mpj.EProp())
    second = mpj.RNN(mpj.LeakyCell(N, N, tau=3.0, key=jr.key(0)), rule=mpj.EProp())
    model = net("bptt", "leaky") if layers == "bptt" else (rnn, second)
    online = mpj.online_value_and_grad(segment_loss, segment="auto")
    with pytest.raises(ValueError, match="does not depend on the segment, but the model has"):
        online(model, None, *data())
