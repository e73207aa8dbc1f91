from ._base import (
    AbstractLocalSynapses as AbstractLocalSynapses,
    AbstractSynapses as AbstractSynapses,
)
from ._bias import Bias as Bias
from ._blocks import Blocks as Blocks
from ._dense import as_map as as_map, as_synapses as as_synapses, Dense as Dense
from ._masked import Masked as Masked
