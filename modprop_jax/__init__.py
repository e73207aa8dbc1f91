from ._cell import LeakyCell as LeakyCell, RateCell as RateCell, FunctionCell as FunctionCell, NeuronCell as NeuronCell, Filtered as Filtered, balanced_dale
from ._rule import *
from ._scan import scan as scan, Carry as Carry
