"""Other packages' gradients of networks that are measured here, where they are installed."""

import importlib.metadata
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from . import _peer_braintrace, _peer_snntorch, _peer_spyx
from ._problem import Problem, Program


class Peer(NamedTuple):
    """A gradient of another package's.

    - `package`: what it imports; `install`: the command that brings it.
    - `network`: whose gradient it is; of `takes(segment)` steps at a time, None: of all at once.
    - `build(problem, segment)`: as `Program.build`.
    - `same_as`, `matmuls`: as of a `Program`; `about`: how it is driven, for readers of the table.
    """

    package: str
    network: str
    takes: Callable[[int | None], bool]
    build: Callable[[Problem, int | None], Any]
    same_as: tuple[str, str]
    matmuls: int
    about: str
    install: str = 'pip install -e ".[peers]"'

    @property
    def installed(self) -> bool:
        """Whether it can be imported."""
        return importlib.util.find_spec(self.package) is not None

    @property
    def version(self) -> str:
        """Its name and version."""
        return f"{self.package} {importlib.metadata.version(self.package)}"


def _braintrace(algorithm: str, takes: Callable[[int | None], bool]) -> Peer:
    def build(problem, segment):
        return _peer_braintrace.build(algorithm, problem, segment)

    about = "driven by its own etrace_grad. Inside a window D_RTRL is exact instead"
    return Peer("braintrace", "leaky", takes, build, ("eprop", "offline"), 2, about)


PEERS: dict[str, Peer] = {
    "braintrace_d_rtrl": _braintrace("D_RTRL", lambda segment: segment is not None),
    "braintrace_pp_prop": _braintrace("pp_prop", lambda segment: segment == 1),
    "spyx": Peer(
        "spyx",
        "lif_reset",
        lambda segment: segment is None,
        _peer_spyx.build,
        ("plain", "offline"),
        3,
        "its RLIF neurons, spyx.nn.run and flax's nnx.value_and_grad",
    ),
    "snntorch": Peer(
        "snntorch",
        "lif",
        lambda segment: segment is None,
        _peer_snntorch.build,
        ("plain", "offline"),
        3,
        "its RLeaky neurons in a loop over time, PyTorch's backward, in a process of its own, on "
        "one core or all of them, whichever is faster",
        "pip install torch --index-url https://download.pytorch.org/whl/cpu && "
        "pip install snntorch",
    ),
}


def programs(
    rules: Sequence[str], network: str, mode: str, segment: int | None = None
) -> list[Program]:
    """Of the peers named, those that are installed and do it.

    **Raises:** `ValueError` for a peer of another network.
    """
    found = []
    for name in rules:
        if name not in PEERS:
            continue
        peer = PEERS[name]
        if peer.network != network:
            raise ValueError(f"{name} was written for --networks {peer.network}, not {network}.")
        if peer.installed and peer.takes(segment):
            build = _bound(peer, segment)
            found.append(Program(name, mode, peer.matmuls, build, peer.same_as, segment))
    return found


def _bound(peer: Peer, segment: int | None) -> Callable[[Problem], Any]:
    return lambda problem: peer.build(problem, segment)
