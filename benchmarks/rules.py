"""Every rule in every mode, and its peers: `modprop-jax bench` in three processes.

python benchmarks/rules.py [options of modprop-jax bench, such as --full]
"""

import sys

from modprop_jax.experiments import main


if __name__ == "__main__":
    committed = ["--processes", "3", "--out", "results/bench-cpu"]
    sys.exit(main(["bench", *committed, *sys.argv[1:]]))
