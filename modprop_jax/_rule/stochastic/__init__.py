from ._forward_gradient import ForwardGradient as ForwardGradient
from ._kf_rtrl import KFRTRL as KFRTRL
from ._node_perturbation import NodePerturbation as NodePerturbation
from ._rkf_rtrl import RKFRTRL as RKFRTRL
from ._uoro import UORO as UORO
