"""The tables of `modprop-jax bench` that are kept, each in five processes.

python benchmarks/rules.py [cpu | networks | devices] [options of modprop-jax bench, such as --full]

`cpu`: every rule in every mode on leaky neurons. `networks`: other cells, each under its rules and
beside another package's gradient of it. `devices`: the batch over one device and over two.
"""

import sys

from modprop_jax.experiments import main


TABLES = {
    "cpu": "",
    "networks": "--networks lif lif_reset alif gru lru gle --sizes 128x1000",
    "devices": "--networks leaky alif --sizes 128x1000 --devices 1 2 --rules bptt eprop "
    "--modes offline segment=50",
}


if __name__ == "__main__":
    given = sys.argv[1:]
    name = given.pop(0) if given and given[0] in TABLES else "cpu"
    kept = ["--processes", "5", "--out", f"results/bench-{name}"]
    sys.exit(main(["bench", *TABLES[name].split(), *kept, *given]))
