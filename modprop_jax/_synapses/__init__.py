from ._base import (
    AbstractLocalSynapses as AbstractLocalSynapses,
    AbstractSynapses as AbstractSynapses,
)
from ._bias import Bias as Bias
from ._blocks import Blocks as Blocks
from ._degrees import lognormal_degrees as lognormal_degrees
from ._dense import as_map as as_map, as_synapses as as_synapses, Dense as Dense
from ._gates import as_gates as as_gates, Gates as Gates, Maps as Maps
from ._layer import Layer as Layer
from ._low_rank import LowRank as LowRank
from ._masked import Masked as Masked
from ._rows import over_neurons as over_neurons, SparseRows as SparseRows
from ._sparse import Sparse as Sparse
from ._trial import is_single as is_single
