from ._base import AbstractRule as AbstractRule, Carry as Carry
from ._bptt import BPTT as BPTT, RTRL as RTRL
from ._diagonal_rtrl import DiagonalRTRL as DiagonalRTRL
from ._eprop import EProp as EProp, RFLO as RFLO, ThreeFactor as ThreeFactor
from ._forward import AbstractForwardRule as AbstractForwardRule
from ._mdgl import MDGL as MDGL
from ._modprop import ModProp as ModProp
from ._snap import SnAp as SnAp
