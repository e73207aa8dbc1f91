from ._rule import MDGL as MDGL
