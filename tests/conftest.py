import os


# Tests compile far more than they compute; what they start in a shell does too.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import gc
import pathlib

import equinox.internal as eqxi
import jax
import jaxtyping
import pytest


# jaxprs are many small objects that live: looking for dead ones among them takes a twentieth
gc.set_threshold(100_000, 50, 50)
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


MAPS = pathlib.Path("/proc/self/maps")
RUN = pytest.StashKey[int]()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Of a test of pairs, rule and cell say, the fast suite meets each value, and the slow one the
    other pairs. Tests of one cell follow one another: they share what a worker has compiled."""
    seen = set()
    for item in items:
        spec = getattr(item, "callspec", None)
        counts = spec is not None and item.path.name.startswith("test_")
        params = spec.params if spec is not None and counts else {}
        values = {(item.location[0], item.originalname, *map(str, pair)) for pair in params.items()}
        if len(params) > 1 and values <= seen:
            item.add_marker("slow")
        elif not item.get_closest_marker("slow"):
            seen |= values

    def cell_name(item):
        return getattr(item, "callspec", None) and item.callspec.params.get("cell_name") or ""

    items.sort(key=cell_name)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item, nextitem):
    """Every compiled program maps pages of its own, and a Linux process has 65,530 mappings: past
    these XLA ends in a segmentation fault, with no word of it."""
    del nextitem
    item.session.stash[RUN] = item.session.stash.get(RUN, 0) + 1
    if (
        item.session.stash[RUN] % 8 == 0
        and MAPS.exists()
        and MAPS.read_bytes().count(b"\n") > 40_000
    ):
        jax.clear_caches()
        gc.collect()


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
