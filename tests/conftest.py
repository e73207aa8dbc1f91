import importlib.metadata
import os


# Tests compile far more than they compute; what they start in a shell does too. Without fusion
# emitters a program compiles in less than half the time. A later XLA that does not know the flag
# would end the process.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault("XLA_FLAGS", "")
if importlib.metadata.version("jaxlib").startswith("0.10."):
    if "fusion_emitters" not in os.environ["XLA_FLAGS"]:
        os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"

import gc
import pathlib

import equinox.internal as eqxi
import jax
import jaxtyping
import pytest


# jaxprs are many small objects that live: looking for dead ones among them takes a twentieth
gc.set_threshold(100_000, 50, 50)
jax.config.update("jax_enable_x64", True)
# a command that is run in this process finds JAX begun, and leaves the number of devices alone
jax.devices()
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


# Recordings that no package may ship, in development beside the repository.
BESIDE = pathlib.Path(__file__).parents[2] / "shared" / "data"
if BESIDE.is_dir():
    os.environ.setdefault("MODPROP_JAX_DATA", str(BESIDE))
RUN = pytest.StashKey[int]()


def pytest_addoption(parser):
    parser.addoption(
        "--all-pairs",
        action="store_true",
        help="every pair (rule and cell, ...), not a fifth of them, and what takes longest",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Of a test of pairs, the fast suite meets each value, and the slow one a fifth of the other
    pairs, and all those of goldens. All of them, and tests that are marked `long`, are run if they
    are asked for. Tests of one cell follow one another: they share what a worker has compiled."""
    everything = config.getoption("--all-pairs")
    seen, others, left = set(), 0, []
    for item in items:
        spec = getattr(item, "callspec", None)
        counts = spec is not None and item.path.name.startswith("test_")
        params = spec.params if spec is not None and counts else {}
        values = {(item.location[0], item.originalname, *map(str, pair)) for pair in params.items()}
        if item.get_closest_marker("long"):
            item.add_marker("slow")
            left += [] if everything else [item]
        elif len(params) > 1 and (item.get_closest_marker("slow") or values <= seen):
            item.add_marker("slow")
            others += 1
            if others % 5 and not everything and "golden" not in item.nodeid:
                left.append(item)
        elif not item.get_closest_marker("slow"):
            seen |= values

    def cell_name(item):
        return getattr(item, "callspec", None) and item.callspec.params.get("cell_name") or ""

    named = {arg.partition("[")[0] for arg in config.args if "[" in arg}
    left = [] if named else left  # a case that is asked for by its name is run
    config.hook.pytest_deselected(items=left)
    out = set(left)
    items[:] = sorted((item for item in items if item not in out), key=cell_name)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item, nextitem):
    """Every compiled program maps pages of its own, and a Linux process has 65,530 mappings: past
    these XLA ends in a segmentation fault, with no word of it."""
    del nextitem
    item.session.stash[RUN] = item.session.stash.get(RUN, 0) + 1
    if item.session.stash[RUN] % 8 == 0:
        # not before: a run with types at run time imports the package under its hook, and so meets
        # the types of studies too
        from modprop_jax.experiments._runs import forget_programs

        forget_programs(40_000)


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
