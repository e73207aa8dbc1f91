from ._base import AbstractTrace as AbstractTrace
from ._dense import Dense as Dense
from ._per_synapse import PerSynapse as PerSynapse
from ._presynaptic import Presynaptic as Presynaptic
