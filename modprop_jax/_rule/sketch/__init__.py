from ._adaptive import AdaptiveRank as AdaptiveRank
from ._rule import SKRTRL as SKRTRL
