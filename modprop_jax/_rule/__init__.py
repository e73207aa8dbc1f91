from ._base import AbstractRule as AbstractRule, Carry as Carry
from ._bptt import BPTT as BPTT, RTRL as RTRL
from ._by_credit import AbstractCreditRule as AbstractCreditRule
from ._card import Card as Card
from ._diagonal_rtrl import DiagonalRTRL as DiagonalRTRL
from ._dni import DNI as DNI
from ._ei_credit import EICredit as EICredit
from ._eprop import EProp as EProp, RFLO as RFLO, ThreeFactor as ThreeFactor
from ._forward import AbstractForwardRule as AbstractForwardRule
from ._future_bptt import FutureBPTT as FutureBPTT
from ._gle import GLE as GLE
from ._kernl import KeRNL as KeRNL
from ._kf_rtrl import KFRTRL as KFRTRL
from ._local_dni import LocalDNI as LocalDNI
from ._mdgl import MDGL as MDGL
from ._modprop import ModProp as ModProp
from ._quasi_static import QuasiStatic as QuasiStatic
from ._readout_only import ReadoutOnly as ReadoutOnly
from ._rkf_rtrl import RKFRTRL as RKFRTRL
from ._snap import SnAp as SnAp
from ._taxonomy import cards as cards, taxonomy as taxonomy
from ._uoro import UORO as UORO
