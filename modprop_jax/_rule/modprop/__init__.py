from ._rule import ModProp as ModProp
