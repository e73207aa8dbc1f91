from ._base import AbstractCell as AbstractCell
from ._computing import computing as computing
from ._equilibrium import EquilibriumCell as EquilibriumCell
from ._filtered import Filtered as Filtered
from ._function import FunctionCell as FunctionCell
from ._gle import GLECell as GLECell
from ._gru import GRUCell as GRUCell
from ._init import balanced_dale as balanced_dale
from ._leaky import LeakyCell as LeakyCell
from ._lif import ALIFCell as ALIFCell, LIFCell as LIFCell
from ._lru import LRUCell as LRUCell
from ._lstm import LSTMCell as LSTMCell
from ._neuron import NeuronCell as NeuronCell
from ._presets import spiking_preset as spiking_preset
from ._rate import RateCell as RateCell
from ._rtu import RTUCell as RTUCell
from ._separable import SeparableCell as SeparableCell
from ._surrogate import spike as spike, triangular as triangular
