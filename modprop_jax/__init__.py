"""Approximate gradients for recurrent networks: every credit rule is a derivative of one scan."""

from importlib.metadata import version as _version

from . import (
    baselines as baselines,
    optim as optim,
    surrogate as surrogate,
    tasks as tasks,
)
from ._cell import (
    AbstractCell as AbstractCell,
    ALIFCell as ALIFCell,
    balanced_dale as balanced_dale,
    EquilibriumCell as EquilibriumCell,
    Filtered as Filtered,
    FunctionCell as FunctionCell,
    GLECell as GLECell,
    GRUCell as GRUCell,
    LeakyCell as LeakyCell,
    LIFCell as LIFCell,
    LRUCell as LRUCell,
    LSTMCell as LSTMCell,
    NeuronCell as NeuronCell,
    RateCell as RateCell,
    RTUCell as RTUCell,
    SeparableCell as SeparableCell,
    spike as spike,
    spiking_preset as spiking_preset,
    triangular as triangular,
)
from ._cite import cite as cite
from ._constrained import Between as Between, Positive as Positive
from ._examples import reset as reset, take_examples as take_examples
from ._force import ForceReadout as ForceReadout
from ._grad import (
    checkpointed_value_and_grad as checkpointed_value_and_grad,
    online_value_and_grad as online_value_and_grad,
    value_and_grad as value_and_grad,
    with_rule as with_rule,
)
from ._perturbed import perturbed_value_and_grad as perturbed_value_and_grad
from ._rate_cost import rate_cost as rate_cost
from ._readout import Readout as Readout
from ._rnn import RNN as RNN
from ._rule import (
    AbstractEstimatingRule as AbstractEstimatingRule,
    AbstractInfluenceRule as AbstractInfluenceRule,
    AbstractRule as AbstractRule,
    AbstractSurrogateRule as AbstractSurrogateRule,
    AbstractTransportRule as AbstractTransportRule,
    AdaptiveRank as AdaptiveRank,
    BPTT as BPTT,
    Card as Card,
    Carry as Carry,
    DiagonalRTRL as DiagonalRTRL,
    DNI as DNI,
    EICredit as EICredit,
    EProp as EProp,
    EqProp as EqProp,
    ForwardGradient as ForwardGradient,
    FutureBPTT as FutureBPTT,
    GLE as GLE,
    KeRNL as KeRNL,
    KFRTRL as KFRTRL,
    LocalDNI as LocalDNI,
    MDGL as MDGL,
    ModProp as ModProp,
    NodePerturbation as NodePerturbation,
    QuasiStatic as QuasiStatic,
    ReadoutOnly as ReadoutOnly,
    RFLO as RFLO,
    RKFRTRL as RKFRTRL,
    RTRL as RTRL,
    SKRTRL as SKRTRL,
    SnAp as SnAp,
    ThreeFactor as ThreeFactor,
    TypeFilter as TypeFilter,
    UORO as UORO,
)
from ._scan import scan as scan
from ._stream import (
    as_done as as_done,
    learn_stream as learn_stream,
    StreamCarry as StreamCarry,
)
from ._synapses import (
    AbstractLocalSynapses as AbstractLocalSynapses,
    AbstractSynapses as AbstractSynapses,
    Blocks as Blocks,
    Dense as Dense,
    Layer as Layer,
    lognormal_degrees as lognormal_degrees,
    LowRank as LowRank,
    Masked as Masked,
    over_neurons as over_neurons,
    Sparse as Sparse,
    SparseRows as SparseRows,
)
from ._taxonomy import cards as cards, taxonomy as taxonomy
from .diagnostics import (
    Alignment as Alignment,
    alignment as alignment,
    alignment_matrix as alignment_matrix,
    AlignmentMatrix as AlignmentMatrix,
    Compartments as Compartments,
    compartments as compartments,
    credit_limit as credit_limit,
    credit_profile as credit_profile,
    CreditLimit as CreditLimit,
    CreditProfile as CreditProfile,
    curvature_bound as curvature_bound,
    ei_balance as ei_balance,
    EIBalance as EIBalance,
    filter_equations as filter_equations,
    filter_taps as filter_taps,
    FilterEquations as FilterEquations,
    FilterFit as FilterFit,
    firing_rates as firing_rates,
    FiringRates as FiringRates,
    fit_filters as fit_filters,
    fixed_points as fixed_points,
    FixedPoints as FixedPoints,
    generalisation_gap as generalisation_gap,
    GeneralisationGap as GeneralisationGap,
    gradient_spread as gradient_spread,
    GradientSpread as GradientSpread,
    hessian_top as hessian_top,
    HessianTop as HessianTop,
    input_noise as input_noise,
    matched_rates as matched_rates,
    online_alignment as online_alignment,
    OnlineAlignment as OnlineAlignment,
    participation_ratio as participation_ratio,
    ParticipationRatio as ParticipationRatio,
    plot_credit_limit as plot_credit_limit,
    plot_eigenvalues as plot_eigenvalues,
    plot_filter_taps as plot_filter_taps,
    plot_fixed_points as plot_fixed_points,
    plot_participation_ratio as plot_participation_ratio,
    plot_raster as plot_raster,
    plot_weight_change as plot_weight_change,
    recurrent_eigenvalues as recurrent_eigenvalues,
    refit as refit,
    running_mu as running_mu,
    spectral_radius as spectral_radius,
    three_timescales as three_timescales,
    ThreeTimescales as ThreeTimescales,
    weight_change as weight_change,
    WeightChange as WeightChange,
)


__version__ = _version("modprop_jax")
