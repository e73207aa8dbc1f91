"""One size in a process of its own: the work as JSON on stdin, a row a line on stdout."""

import json
import sys

from ._measure import measure, Settings
from ._problem import Size


size, rules, modes, settings, done = json.load(sys.stdin)
for row in measure(Size(*size), rules, modes, Settings(**settings), done):
    print(json.dumps(row), flush=True)
