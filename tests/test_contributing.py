"""The guide for contributors: its skeletons run as they stand there, and keep what it promises."""

import dataclasses
import functools
import re
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pages
import pytest
from helpers import assert_close, distance, jit

import modprop_jax as mpj
from modprop_jax.tasks import squared_error, TASKS


ROOT = pages.ROOT
M, N, T, SEGMENT = 3, 6, 6, 3
TYPES = (0, 2, 0, 1, 1, 0)
XS = np.random.default_rng(0).normal(size=(T, 2, M))
RULES = {
    "bptt": mpj.BPTT(),
    "eprop": mpj.EProp(),
    "mdgl": mpj.MDGL(TYPES),
    "modprop": mpj.ModProp(0.3, TYPES),
}


@functools.cache
def guide() -> dict[str, Any]:
    """What the code blocks of the guide define, run one after the other."""
    return pages.run(ROOT / "docs/devdocs/new-rule.md")


def error(zs):
    targets = jnp.asarray(np.random.default_rng(1).normal(size=(N,)))
    return jnp.sum(zs * jnp.broadcast_to(targets, zs.shape) + 0.1 * zs**3)


def segment_loss(rnn, carry, xs, _):
    carry, zs = rnn(xs, carry)
    return error(zs), carry


@jit
def offline(cell, rule):
    """The gradient of the whole sequence."""
    return mpj.value_and_grad(lambda rnn: error(rnn(XS)))(mpj.RNN(cell, rule=rule))[1].cell


@jit
def streamed(cell, rule):
    """The gradient in segments."""
    rnn = mpj.RNN(cell, rule=rule)
    online = mpj.online_value_and_grad(segment_loss, segment=SEGMENT)
    return online(rnn, rnn.init(XS.shape[1:-1]), XS, XS)[1].cell


def strong(cell: Any, scale: float = 2.0) -> Any:
    return eqx.tree_at(lambda c: c.weight_rec, cell, replace_fn=lambda w: scale * w)


# --- the skeletons ---


def test_the_rule_streams_and_is_no_other():
    rule, leaky = guide()["FadingEProp"], mpj.LeakyCell(M, N, tau=4.0, key=jr.key(0))
    at_once = offline(strong(leaky), rule())
    assert_close(streamed(strong(leaky), rule()), at_once, 1e-10)
    assert distance(at_once, offline(strong(leaky), mpj.BPTT())) > 0.05
    eprop = offline(strong(leaky), mpj.EProp())
    assert distance(at_once, eprop) > 0.05
    assert_close(offline(strong(leaky), rule(1)), eprop, 1e-10)
    with pytest.raises(ValueError, match="share must be in"):
        rule(2.0)


@pytest.mark.parametrize("name", ["eprop", "modprop"])
def test_the_neuron_streams(name):
    cell = strong(guide()["AdaptingCell"](M, N, key=jr.key(0)))
    at_once = offline(cell, RULES[name])
    assert_close(streamed(cell, RULES[name]), at_once, 1e-10)
    assert jnp.all(at_once.rho != 0)


def onto_ring(gradient: Any) -> np.ndarray:
    lag = (np.arange(N)[:, None] - np.arange(N)[None]) % N
    return np.array([np.asarray(gradient)[lag == k].sum() for k in range(N)])


@pytest.mark.parametrize("name", RULES)
def test_the_map_has_the_gradient_of_its_matrix(name):
    ring = guide()["cell"]
    dense = eqx.tree_at(lambda c: c.weight_rec, ring, ring.weight_rec.as_matrix())
    at_once, of_matrix = (offline(cell, RULES[name]) for cell in (ring, dense))
    np.testing.assert_allclose(
        at_once.weight_rec.weight, onto_ring(of_matrix.weight_rec), rtol=1e-10, atol=1e-12
    )
    np.testing.assert_allclose(at_once.weight_in, of_matrix.weight_in, rtol=1e-10, atol=1e-12)
    if name != "bptt":
        assert_close(streamed(ring, RULES[name]), at_once, 1e-10)


@pytest.mark.parametrize("name", ["eprop", "modprop"])
def test_the_map_with_a_parameter_a_synapse_streams_on_any_neuron(name):
    cell = guide()["neurons"]
    at_once = offline(cell, RULES[name])
    assert_close(streamed(cell, RULES[name]), at_once, 1e-10)
    shared = guide()["AdaptingCell"](M, N, recurrent=guide()["ring"], key=jr.key(1))
    with pytest.raises(ValueError, match="weight_rec is a Circulant"):
        mpj.RNN(shared, rule=RULES[name]).init((2,))


def test_the_task_and_its_record():
    task = guide()["ECHO"]
    task.check()
    xs, ys = task.batch(jr.key(0), 2, steps=8, delay=3)
    np.testing.assert_array_equal(ys[3:], xs[:-3])
    assert not np.any(ys[:3])
    loss, score = task.loss(ys, ys)
    assert loss == 0 and score == 1
    for name in ("delayed_xor", "flip_flop", "evidence_accumulation", "add"):
        TASKS[name].check()


@pytest.mark.parametrize(
    "change, match",
    [
        ({"readout": "last", "loss": lambda outputs, ys: (outputs, outputs)}, "two scalars"),
        ({"loss": lambda outputs, ys: squared_error(outputs, ys)[0]}, "two scalars"),
        ({"batch": lambda key, size: (jnp.ones((size, 5)), None)}, r".T, 2, features. is due"),
    ],
)
def test_what_does_not_fit_in_a_record(change, match):
    presets = {"small": guide()["ECHO"].presets["small"]}
    with pytest.raises(ValueError, match=match):
        dataclasses.replace(guide()["ECHO"], presets=presets, **change).check()


# --- the glossary ---


def glossary() -> list[tuple[str, list[str], list[str]]]:
    """(word, names in the code, files) of each row."""
    rows = re.findall(r"^\| (?!word)(.*) \|$", (ROOT / "docs/theory/glossary.md").read_text(), re.M)
    columns = [[c.strip() for c in re.split(r" ?\| ?", row)] for row in rows]
    assert all(len(row) == 5 for row in columns)
    quoted = re.compile(r"`([^`]+)`")
    return [(word, quoted.findall(code), quoted.findall(at)) for word, _, _, code, at in columns]


def test_every_name_of_the_glossary_stands_in_its_file():
    rows, faults = glossary(), []
    for word, names, files in rows:
        paths = [ROOT / "modprop_jax" / file for file in files]
        faults += [f"{word}: no file {path}" for path in paths if not path.is_file()]
        text = "".join(path.read_text() for path in paths if path.is_file())
        faults += [f"{word}: no {n} there" for n in names if not re.search(rf"\b{n}\b", text)]
        if not names or not files:
            faults.append(f"{word}: no name or no file")
    assert not faults, "\n".join(faults)
    words = [word for word, _, _ in rows]
    assert len(words) > 50 and len(set(words)) == len(words)
