from ._rule import KeRNL as KeRNL
