"""What a credit rule's gradient is worth: its angle, its reach, and the minima that it finds."""

from ._activity import (
    firing_rates as firing_rates,
    FiringRates as FiringRates,
    plot_raster as plot_raster,
)
from ._alignment import (
    Alignment as Alignment,
    alignment as alignment,
    alignment_matrix as alignment_matrix,
    AlignmentMatrix as AlignmentMatrix,
)
from ._compartments import Compartments as Compartments, compartments as compartments
from ._credit import credit_profile as credit_profile, CreditProfile as CreditProfile
from ._credit_limit import credit_limit as credit_limit, CreditLimit as CreditLimit
from ._credit_limit_plot import plot_credit_limit as plot_credit_limit
from ._dimension import (
    participation_ratio as participation_ratio,
    ParticipationRatio as ParticipationRatio,
    plot_participation_ratio as plot_participation_ratio,
)
from ._ei_balance import ei_balance as ei_balance, EIBalance as EIBalance
from ._eigenvalues import (
    plot_eigenvalues as plot_eigenvalues,
    recurrent_eigenvalues as recurrent_eigenvalues,
)
from ._filter_equations import (
    filter_equations as filter_equations,
    FilterEquations as FilterEquations,
)
from ._filters import (
    filter_taps as filter_taps,
    plot_filter_taps as plot_filter_taps,
    running_mu as running_mu,
    spectral_radius as spectral_radius,
)
from ._fit_filters import FilterFit as FilterFit, fit_filters as fit_filters
from ._fixed_points import (
    fixed_points as fixed_points,
    FixedPoints as FixedPoints,
    plot_fixed_points as plot_fixed_points,
)
from ._gap import (
    generalisation_gap as generalisation_gap,
    GeneralisationGap as GeneralisationGap,
    input_noise as input_noise,
)
from ._hessian import hessian_top as hessian_top, HessianTop as HessianTop
from ._online import online_alignment as online_alignment, OnlineAlignment as OnlineAlignment
from ._rates import curvature_bound as curvature_bound, matched_rates as matched_rates
from ._refit import refit as refit
from ._spread import gradient_spread as gradient_spread, GradientSpread as GradientSpread
from ._three_timescales import (
    three_timescales as three_timescales,
    ThreeTimescales as ThreeTimescales,
)
from ._weight_change import (
    plot_weight_change as plot_weight_change,
    weight_change as weight_change,
    WeightChange as WeightChange,
)
