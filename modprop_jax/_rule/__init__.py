from ._base import AbstractRule as AbstractRule, Carry as Carry
from ._bptt import BPTT as BPTT, RTRL as RTRL
from ._card import Card as Card, LAST as LAST, Named as Named
from ._diagonal_rtrl import DiagonalRTRL as DiagonalRTRL
from ._ei_credit import EICredit as EICredit
from ._eprop import EProp as EProp, RFLO as RFLO, ThreeFactor as ThreeFactor
from ._eqprop import EqProp as EqProp
from ._estimating import AbstractEstimatingRule as AbstractEstimatingRule
from ._future_bptt import FutureBPTT as FutureBPTT
from ._influence import AbstractInfluenceRule as AbstractInfluenceRule
from ._quasi_static import QuasiStatic as QuasiStatic
from ._readout_only import ReadoutOnly as ReadoutOnly
from ._transport import (
    AbstractSurrogateRule as AbstractSurrogateRule,
    AbstractTransportRule as AbstractTransportRule,
)
from .gle import GLE as GLE
from .kernl import KeRNL as KeRNL
from .mdgl import MDGL as MDGL
from .modprop import ModProp as ModProp
from .sketch import AdaptiveRank as AdaptiveRank, SKRTRL as SKRTRL
from .snap import SnAp as SnAp
from .stochastic import (
    ForwardGradient as ForwardGradient,
    KFRTRL as KFRTRL,
    NodePerturbation as NodePerturbation,
    RKFRTRL as RKFRTRL,
    UORO as UORO,
)
from .synthetic import DNI as DNI, LocalDNI as LocalDNI
from .type_filter import TypeFilter as TypeFilter
