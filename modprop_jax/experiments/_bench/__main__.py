"""One size in a process of its own: the work as JSON on stdin, a row a line on stdout."""

import json
import sys

from .._devices import use_cores
from ._measure import measure, Settings
from ._problem import Size


size, rules, modes, settings, done, devices = json.load(sys.stdin)
if max(devices) > 1:
    use_cores(max(devices))
for row in measure(Size(*size), rules, modes, Settings(**settings), done, devices):
    print(json.dumps(row), flush=True)
