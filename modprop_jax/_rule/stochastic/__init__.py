from ._kf_rtrl import KFRTRL as KFRTRL
from ._rkf_rtrl import RKFRTRL as RKFRTRL
from ._uoro import UORO as UORO
