from ._rule import GLE as GLE
