from ._rule import SnAp as SnAp
