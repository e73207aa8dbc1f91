from ._base import AbstractCell as AbstractCell, NeuronCell as NeuronCell
from ._filtered import Filtered as Filtered
from ._function import FunctionCell as FunctionCell
from ._init import balanced_dale as balanced_dale
from ._leaky import LeakyCell as LeakyCell
from ._lif import ALIFCell as ALIFCell, LIFCell as LIFCell, triangular as triangular
from ._rate import RateCell as RateCell
