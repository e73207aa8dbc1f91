from typing import ClassVar

import equinox as eqx
from jaxtyping import PyTree

from ... import _arguments as arguments
from ..._arguments import Numbers
from ..._cell import AbstractCell, NeuronCell
from ..._cell._claims import check_apart
from ..._credit import Back, Credit, Point
from ..._precision import widened
from ..._program._base import AbstractProgram
from ..._program._transport import Transport
from ..._synapses import AbstractSynapses, Blocks
from ..._trace import AbstractTrace, ByMembrane, PerSynapse, Presynaptic
from ..._tree import add, pullback, stop
from .._base import require_neurons, require_types
from .._card import Card, Named
from .._transport import AbstractTransportRule, transported
from .._types import as_types, mean_over_all, mean_over_synapses, Types
from ._causal import CausalHop


class MDGL(AbstractTransportRule):
    r"""Multidigraph learning: e-prop, and one synaptic hop of direct credit.

    \[ \lambda_t = c_t + c_{t+1} \hat N_{t+1} + \lambda^{own}_{t+1} D_{t+1}, \qquad
       \hat N_t = \frac{\partial s_t}{\partial drive_t}\,\hat W\,
                  \frac{\partial message_{t-1}}{\partial s_{t-1}} \]

    \(\hat W\) is `W_rec` (`types=None`: cell-specific), or the mean over the existing synapses
    of each pair of cell types, at existing synapses (`types`, the published rule), or the mean over
    all entries, with every neuron broadcasting to all others (`diffuse`). Means are recomputed from
    the current weights at every call; no gradient passes through them.

    `online=True` is the published causal variant, on a `Filtered` cell: the error L of the next
    step, unfiltered, meets two filtered factors in place of one filtered product,

    \[ \nabla_{W_{pq}} = \sum_t \Big( L_{p,t} + \sum_j \hat W_{jp}\, L_{j,t+1}\,
        F_k(s_{in}\psi_j)_{t+1} \Big)\, F_k(e_{pq})_t \]

    with \(F_k\) the emission's filter and \(s_{in}\psi_j\) the derivative of what j emits by its
    drive. All credit is then local: it streams with one trace a synapse and variable, where the
    other variants keep n more under a filter. It is a further approximation, not their causal form.

    Exact: what is local to a neuron, and the first hop if cell-specific. Approximate: longer paths
    and, with types, the weights of the hop. After its hop credit stays local, so it streams with
    e-prop's trace. Time: one more matmul a step than e-prop; memory as e-prop. Locality: a synapse
    also knows the type-specific modulator that its neuron's targets secrete.

    Source: Liu, Smith, Mihalas, Shea-Brown & Sümbül, PNAS 118 (2021).
    """

    card: ClassVar[Card] = Card(
        facing="both",
        structure="δ_si B_ij; direct credit also goes one hop",
        bias="biased",
        when="exact where W_rec = 0",
        memory="n*(n+m+1)",
        leaky="n+m+1",
        time="n*(n+m+1)",
        synapse="as for e-prop, and the modulator that its neuron's targets secrete, by type",
        source="Liu et al. 2021",
        called="MDGL, multidigraph learning",
        credit="through its own neuron, and one synaptic hop of direct credit",
        use="a first hop of credit beyond e-prop, for one more matmul a step",
        papers=("liu2021mdgl",),
        place=50,
        names=(
            Named(
                "mdgl",
                "MDGL: one synaptic hop of credit, by cell type; online=1: the causal variant",
                {"online": int},
                lambda rule, types, online=0: rule(types, online=online == 1),
                place=30,
            ),
            Named("mdgl_cell", "MDGL with the weight of every pair of cells", place=40),
            Named(
                "mdgl_diffuse",
                "MDGL by cell type, every neuron reached whether connected or not",
                build=lambda rule, types: rule(types, diffuse=True),
                place=50,
            ),
        ),
    )

    types: Types = eqx.field(static=True)
    diffuse: bool = eqx.field(static=True)
    online: bool = eqx.field(static=True)

    def __init__(
        self, types: Numbers | None = None, *, diffuse: bool = False, online: bool = False
    ):
        """**Arguments:**

        - `types`: cell type 0 ... C-1 of each neuron, or None.
        - `diffuse`: the modulator reaches every neuron, connected or not; needs `types`.
        - `online`: the causal variant; needs a `Filtered` cell.
        """
        self.types = as_types(types)
        self.diffuse = arguments.boolean("diffuse", diffuse)
        if diffuse and types is None:
            raise ValueError(
                "MDGL(diffuse=True) averages over cell types, but types=None came: pass types."
            )
        self.online = arguments.boolean("online", online)

    @property
    def cell_types(self) -> Types:
        """The cell types."""
        return self.types

    def check(self, cell: AbstractCell) -> None:
        """Needs a neuron cell, and one type a neuron; online, a filtered emission."""
        inner = require_neurons(self, cell)
        require_types(self, self.types, inner.hidden_size)
        if not self.online:
            return
        if not cell.parts()[1].remembers:
            raise ValueError(
                "MDGL(online=True) needs the readout's leak and the error before it is filtered, "
                f"but the cell is a bare {type(cell).__name__}: wrap it as Filtered(cell, leak)."
            )
        check_apart("MDGL(online=True)", inner, "emit")

    def on(
        self, cell: AbstractCell, in_size: int | None = None, *, streams: bool = True
    ) -> Transport:
        """The hop; online, its causal form."""
        rule = CausalHop(self) if self.online else self
        return transported(rule, self, cell, streams=streams)

    def prepare(self, cell: NeuronCell) -> AbstractSynapses:
        """Ŵ: the weights; or their means by type, at the synapses that are formed or everywhere."""
        synapses = stop(cell.recurrent.resolved())
        if self.types is None:
            return synapses
        synapses = widened(synapses)
        if self.diffuse:
            return Blocks(mean_over_all(synapses, self.types), self.types)
        means = Blocks(mean_over_synapses(synapses, self.types), self.types)
        return synapses.formed(means)

    def trace(self, on: AbstractProgram) -> AbstractTrace:
        """e-prop's trace; a filtered emission's past reaches other neurons by the hop."""
        if Presynaptic.serves(on):
            return Presynaptic()
        if type(self).back is MDGL.back and not on.emission.remembers and ByMembrane.serves(on):
            return ByMembrane()
        return PerSynapse(filter_is_local=False)

    def back(self, on: AbstractProgram, point: Point, credit: Credit, direct: PyTree) -> Back:
        """Local for all credit; one hop for the direct part."""
        cell, total = on.cell, add(credit.state, direct)
        (own,) = pullback(lambda s: cell.integrate(s, point.drive), point.before)(total)
        (drive,) = pullback(lambda d: cell.integrate(point.before, d), point.drive)(direct)
        message = on.weights.back(drive)
        (sent,) = pullback(cell.message, point.before)(message)
        return Back(total, Credit(add(own, sent)), message)
