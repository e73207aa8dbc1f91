from ._base import (
    AbstractCarrier as AbstractCarrier,
    AbstractTrace as AbstractTrace,
)
from ._by_membrane import ByMembrane as ByMembrane
from ._dense import Dense as Dense
from ._per_synapse import PerSynapse as PerSynapse
from ._per_unit import PerUnit as PerUnit
from ._presynaptic import Presynaptic as Presynaptic
