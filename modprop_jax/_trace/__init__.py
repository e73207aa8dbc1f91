from ._base import (
    AbstractCarrier as AbstractCarrier,
    AbstractTrace as AbstractTrace,
    batch_shape as batch_shape,
)
from ._dense import Dense as Dense
from ._per_synapse import PerSynapse as PerSynapse
from ._per_unit import PerUnit as PerUnit
from ._presynaptic import Presynaptic as Presynaptic
from ._window import Window as Window
