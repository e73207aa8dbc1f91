from ._dni import DNI as DNI
from ._local_dni import LocalDNI as LocalDNI
