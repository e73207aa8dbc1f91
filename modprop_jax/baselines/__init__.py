"""What a rule has to beat: forecasts of a stream by least squares, classifiers of sequences."""

from ._classifiers import (
    logistic_regression as logistic_regression,
    random_convolutions as random_convolutions,
)
from ._dtw import nearest_neighbour_dtw as nearest_neighbour_dtw
from ._echo_state import echo_state as echo_state, reservoir as reservoir
from ._linear import (
    ar_least_squares as ar_least_squares,
    lms as lms,
    persistence as persistence,
    recursive_least_squares as recursive_least_squares,
)
