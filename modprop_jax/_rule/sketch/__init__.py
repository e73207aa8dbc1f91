from ._rule import SKRTRL as SKRTRL
