from ._rule import TypeFilter as TypeFilter
