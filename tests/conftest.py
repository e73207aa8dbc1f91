import os


# Tests compile far more than they compute; what they start in a shell does too.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import equinox.internal as eqxi
import jax
import jaxtyping
import pytest


jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


def pytest_collection_modifyitems(items):
    """Tests of one cell follow one another: they share what a worker has compiled."""

    def cell_name(item):
        return getattr(item, "callspec", None) and item.callspec.params.get("cell_name") or ""

    items.sort(key=cell_name)


@pytest.fixture
def getkey():
    """A new key at every call, from a random seed that a failing test shows."""
    return eqxi.GetKey()


@pytest.fixture
def without_type_checks():
    """As users run: an argument of a wrong type meets the package's own error."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
