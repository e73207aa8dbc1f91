"""The rules once more, independently: NumPy loops, and JAX's own derivative of surrogate models.

Nothing here uses the package's rules, traces or reverse pass. Weights are [post, pre], masked
already; arrays are (T, batch, features).
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import modprop_jax as mpj


# --- NumPy loops: leaky neurons v_t = eta v_{t-1} + (1-eta)(W phi(v_{t-1}) + W_in x_t + b) ---


class Leaky(NamedTuple):
    """What the loops need of a LeakyCell, and the state that it ran through."""

    W: np.ndarray
    W_in: np.ndarray
    b: np.ndarray
    eta: float
    v: np.ndarray
    z: np.ndarray
    # phi'(v)
    h: np.ndarray
    xs: np.ndarray

    @property
    def before(self) -> np.ndarray:
        """z_{t-1}."""
        return np.concatenate([np.zeros_like(self.z[:1]), self.z[:-1]])


def run_leaky(W, W_in, b, eta, xs, phi=np.tanh, slope=lambda v: 1 - np.tanh(v) ** 2) -> Leaky:
    T, batch, _ = xs.shape
    n = len(W)
    v, z = np.zeros((T, batch, n)), np.zeros((T, batch, n))
    now, sent = np.zeros((batch, n)), np.zeros((batch, n))
    for t in range(T):
        now = eta * now + (1 - eta) * (sent @ W.T + xs[t] @ W_in.T + b)
        sent = phi(now)
        v[t], z[t] = now, sent
    return Leaky(W, W_in, b, eta, v, z, slope(v), xs)


def block_means(W: np.ndarray, types: Any, which: str) -> np.ndarray:
    """Every pair's mean over the pair of types, one pair at a time.

    `which`: "all" entries (ModProp, diffuse MDGL) or the "existing" synapses (published MDGL).
    """
    types, means = np.asarray(types), np.zeros_like(W)
    for i in range(len(W)):
        for j in range(len(W)):
            block = W[np.ix_(types == types[i], types == types[j])].ravel()
            if which == "existing":
                block = block[block != 0]
            means[i, j] = block.mean() if block.size else 0.0
    return means


def leaky_transport(rule: str, W: np.ndarray, types: Any, mu: Any, autapses: bool) -> np.ndarray:
    """The matrix by which credit crosses between neurons: W, its means, mu times them, or 0."""
    if rule == "eprop":
        return np.zeros_like(W)
    if rule in ("bptt", "mdgl"):
        return W
    if rule == "mdgl_types":
        return block_means(W, types, "existing") * (W != 0)
    if rule == "mdgl_diffuse":
        return block_means(W, types, "all")
    mu = np.broadcast_to(mu, (len(W),))
    if rule == "modprop":
        return W * mu[None, :]
    assert rule == "modprop_types"
    transport = block_means(W * mu[None, :], types, "all")
    return transport if autapses else transport * (1 - np.eye(len(W)))


def leaky_reverse(rule: str, run: Leaky, ell, types=None, mu: Any = 0.0, autapses=False) -> dict:
    """The table of credit on v, from the last step to the first; ell = dE/dz, (T, batch, n)."""
    A = leaky_transport(rule, run.W, types, mu, autapses)
    later = np.zeros_like(ell[0])
    later_direct = np.zeros_like(ell[0])
    lam = np.zeros_like(ell)
    for t in reversed(range(len(ell))):
        direct = run.h[t] * ell[t]
        if rule == "bptt":
            crossed = run.h[t] * (later @ A)
        elif rule.startswith("mdgl"):
            crossed = run.h[t] * (later_direct @ A)
        else:
            crossed = later @ A
        lam[t] = direct + run.eta * later + (1 - run.eta) * crossed
        later, later_direct = lam[t], direct
    gain, exists = 1 - run.eta, 1 - (not autapses) * np.eye(len(A))
    return {
        "weight_rec": exists * gain * np.einsum("tbj,tbi->ji", lam, run.before),
        "weight_in": gain * np.einsum("tbj,tbi->ji", lam, run.xs),
        "bias": gain * lam.sum((0, 1)),
    }


def leaky_causal(rule: str, run: Leaky, ell, types=None, mu: Any = 0.0, autapses=False) -> dict:
    """The textbook form: traces go forward in time and meet each step's learning signal.

    S[b, k, j, i] is the influence of the synapse i -> j on neuron k, by the rule.
    """
    A, eta, gain = leaky_transport(rule, run.W, types, mu, autapses), run.eta, 1 - run.eta
    n, own = len(run.W), np.eye(len(run.W))

    def gradient(presynaptic):
        total = np.zeros((n, presynaptic.shape[-1]))
        batch = presynaptic.shape[1]
        if rule.startswith("mdgl"):
            # eligibility vector (post, pre), and what its neuron sent one step ago
            eps = np.zeros((batch, n, presynaptic.shape[-1]))
            for t, pre in enumerate(presynaptic):
                signal = run.h[t] * ell[t]
                hop = gain * (signal @ A) * (run.h[t - 1] if t else 0.0)
                total += np.einsum("bj,bji->ji", hop, eps)
                eps = eta * eps + gain * pre[:, None, :]
                total += np.einsum("bj,bji->ji", signal, eps)
            return total
        S = np.zeros((batch, n, n, presynaptic.shape[-1]))
        for t, pre in enumerate(presynaptic):
            sent = S * run.h[t - 1][:, :, None, None] if rule == "bptt" and t else S
            S = eta * S + gain * np.einsum("kl,blji->bkji", A, sent)
            S = S + gain * np.einsum("kj,bi->bkji", own, pre)
            total += np.einsum("bk,bkji->ji", run.h[t] * ell[t], S)
        return total

    return {
        "weight_rec": gradient(run.before) * (1 - (not autapses) * np.eye(n)),
        "weight_in": gradient(run.xs),
        "bias": gradient(np.ones((*ell.shape[:2], 1)))[:, 0],
    }


def modprop_channels(run: Leaky, ell, types, mu: Any, autapses=False) -> dict:
    """Type-specific ModProp by its presynaptic channels e[i, a] and M[i, a, c], loop by loop."""
    types = np.asarray(types)
    C, n, gain = types.max() + 1, len(types), 1 - run.eta
    mu = np.broadcast_to(mu, (n,))
    count = [(types == a).sum() for a in range(C)]
    kappa = np.zeros((C, C))
    for c in range(C):
        for a in range(C):
            kappa[c, a] = gain * (run.W * mu[None])[np.ix_(types == c, types == a)].mean()
    D = np.array([run.eta - (0.0 if autapses else kappa[a, a]) for a in range(C)])

    def gradient(presynaptic):
        total = np.zeros((n, presynaptic.shape[-1]))
        for b in range(presynaptic.shape[1]):
            e = np.zeros((presynaptic.shape[-1], C))
            M = np.zeros((presynaptic.shape[-1], C, C))
            for t in range(len(presynaptic)):
                M_next = np.zeros_like(M)
                for a in range(C):
                    for c in range(C):
                        M_next[:, a, c] = D[c] * M[:, a, c] + kappa[c, a] * e[:, a]
                        for g in range(C):
                            M_next[:, a, c] += kappa[c, g] * count[g] * M[:, a, g]
                e = D[None, :] * e + gain * presynaptic[t, b][:, None]
                M, signal = M_next, run.h[t, b] * ell[t, b]
                summed = np.array([signal[types == c].sum() for c in range(C)])
                for j in range(n):
                    total[j] += signal[j] * e[:, types[j]] + M[:, types[j], :] @ summed
        return total

    return {
        "weight_rec": gradient(run.before) * (1 - (not autapses) * np.eye(n)),
        "weight_in": gradient(run.xs),
        "bias": gradient(np.ones((*ell.shape[:2], 1)))[:, 0],
    }


# --- NumPy loop: rate neurons a_t = (1-alpha) a_{t-1} + alpha tanh(W a_{t-1} + W_in x_t + b) ---


def rflo(W, W_in, b, alpha, xs, signal) -> tuple[np.ndarray, dict]:
    """e-prop on rate neurons: P_t = (1-alpha) P_{t-1} + alpha phi'(drive) x pre; grad = sum L P.

    `signal(t, a)` is dE/da at step t. Returns the rates and the gradients.
    """
    T, batch, m = xs.shape
    n = len(W)
    a, rates = np.zeros((batch, n)), np.zeros((T, batch, n))
    P = np.zeros((batch, n, n + m + 1))
    total = np.zeros((n, n + m + 1))
    for t in range(T):
        pre = np.concatenate([a, xs[t], np.ones((batch, 1))], axis=1)
        drive = a @ W.T + xs[t] @ W_in.T + b
        a = (1 - alpha) * a + alpha * np.tanh(drive)
        slope = 1 - np.tanh(drive) ** 2
        P = (1 - alpha) * P + alpha * slope[:, :, None] * pre[:, None, :]
        rates[t] = a
        total += np.einsum("bj,bji->ji", signal(t, a), P)
    return rates, {
        "weight_rec": total[:, :n],
        "weight_in": total[:, n : n + m],
        "bias": total[:, -1],
    }


# --- Surrogate models: true value, and the rule as JAX's own derivative, on any neuron cell ---


def _stop(tree):
    return jax.tree.map(lambda a: lax.stop_gradient(a) if eqx.is_array(a) else a, tree)


def _phantom(x):
    """Zero, with the derivative of x."""
    return x - lax.stop_gradient(x)


def _row(vector, like):
    """One value a neuron, for every example of `like`."""
    return jnp.broadcast_to(jnp.asarray(vector), like.shape)


def _add_to_membrane(state, delta):
    if isinstance(state, tuple):
        return (state[0] + delta, *state[1:])
    return state + delta


def _membrane(state):
    return state[0] if isinstance(state, tuple) else state


class Paths(NamedTuple):
    """The paths between neurons that a rule keeps, as NumPy matrices made of the weights."""

    hop: Any = None
    one_hot: Any = None
    kappa: Any = None
    own: Any = None
    recur: Any = None


def paths(rule: str, cell: Any, *, types=None, mu: Any = 0.0, leak=0.0, gain=0.0) -> Paths:
    """`leak` and `gain` (a number, or one a neuron) are the cell's nominal ones, for ModProp."""
    W = np.array(cell.weight_rec)
    if not cell.autapses:
        W = W * (1 - np.eye(len(W)))
    if cell.mask is not None:
        W = W * np.asarray(cell.mask)
    if rule.startswith("mdgl"):
        return Paths(hop=leaky_transport(rule, W, types, 0.0, cell.autapses))
    if not rule.startswith("modprop"):
        return Paths()
    n = len(W)
    index = np.arange(n) if types is None else np.asarray(types)
    U = np.eye(index.max() + 1)[index]
    members = U.sum(0)
    weighted = np.broadcast_to(gain, (n,))[:, None] * W * np.broadcast_to(mu, (n,))[None, :]
    kappa = (U.T @ weighted @ U) / np.outer(members, members)
    own = np.zeros(len(members)) if cell.autapses else np.diag(kappa)
    nominal = (np.broadcast_to(leak, (n,)) @ U) / members
    recur = np.diag(nominal - own) + kappa * members[None, :]
    return Paths(one_hot=U, kappa=kappa, own=U @ own, recur=recur)


def surrogate_emissions(rule: str, kept: Paths, cell: Any, state: Any, xs: Any) -> Any:
    """Emissions whose derivative under `jax.grad` is the rule's, from the rule's equations."""
    if isinstance(cell, mpj.Filtered):
        zs = surrogate_emissions(rule, kept, cell.cell, state[0], xs)
        k = np.asarray(cell.leak)
        s = 1 - k if cell.scale else np.ones_like(k)

        def leaky(memory, z):
            memory = _row(k, z) * memory + _row(s, z) * z
            return memory, memory

        return lax.scan(leaky, state[1], zs)[1]

    def exact(state, x):
        state = cell.step(state, x)
        return state, cell.emit(state)

    def local(state, x):
        drive = cell.drive(lax.stop_gradient(cell.message(state)), x)
        state = cell.integrate(state, drive)
        return state, cell.emit(state)

    def one_hop(state, x):
        # a second copy of each step, in which only one synaptic hop is alive
        frozen, message = _stop(cell), cell.message(state)
        drive = cell.drive(lax.stop_gradient(message), x)
        reached = lax.stop_gradient(drive) + _phantom(message) @ kept.hop.T
        copy = frozen.integrate(_stop(state), reached)
        state = cell.integrate(state, drive)
        return state, cell.emit(state) + _phantom(frozen.emit(copy))

    def filtered(carry, x):
        # b is what the membranes of each type receive from others: 0, with a derivative
        state, b = carry
        drive = cell.drive(lax.stop_gradient(cell.message(state)), x)
        sent = _phantom(_membrane(state))
        b = b @ kept.recur.T + sent @ kept.one_hot @ kept.kappa.T
        state = _add_to_membrane(cell.integrate(state, drive), -_row(kept.own, sent) * sent)
        return (state, b), cell.emit(_add_to_membrane(state, b @ kept.one_hot.T))

    if rule.startswith("modprop"):
        silent = jnp.zeros((*xs.shape[1:-1], len(kept.kappa)))
        return lax.scan(filtered, (state, silent), xs)[1]
    if rule.startswith("mdgl"):
        return lax.scan(one_hop, state, xs)[1]
    return lax.scan(local if rule == "eprop" else exact, state, xs)[1]
