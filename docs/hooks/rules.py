"""The pages of the credit rules, made from their cards and docstrings.

`pages()` is what the site is built with. `python docs/hooks/rules.py` draws the pictures again and
measures the tables of docs/usage/how-to-choose-a-rule.md; `--tables` measures alone.
"""

import inspect
import pathlib
import re
import sys
import tomllib

import modprop_jax as mpj
from modprop_jax._rule import AbstractEstimatingRule


sys.path.append(str(pathlib.Path(__file__).parent))
from rule_cells import CELLS, made, serving  # noqa: E402


HERE = pathlib.Path(__file__).parent
DOCS = HERE.parent
PICTURES = DOCS / "figures" / "rules"
WORDS = tomllib.loads((HERE / "rule_words.toml").read_text("utf-8"))
# folder in docs/results, what it is, and the row that others stand beside
TABLES = {
    "xor-published": ("Delayed XOR at its published size", "bptt"),
    "evidence-published": ("Evidence accumulation at its published size", "bptt"),
    "align-digits": ("Digits read row by row, plain SGD", "bptt"),
    "digits": ("Digits at equilibrium, Dale's law", "bptt"),
    "online-add": ("Add, online", "rtrl"),
    "online-add-slow": ("Add, online, slow symbols", "rtrl"),
    "online-mimic": ("Mimic, online", "rtrl"),
    "online-mimic-slow": ("Mimic, online, slow", "rtrl"),
    "online-align": ("Gradients of single steps on add", "rtrl"),
}


def pages() -> dict[str, str]:
    """Path in docs -> Markdown: a page for each rule, their index, and the taxonomy."""
    found = {f"rules/{name.lower()}.md": page(name) for name in mpj.cards()}
    return found | {"rules/index.md": index(), "theory/taxonomy.md": taxonomy()}


def page(name: str) -> str:
    """The page of one rule."""
    rule, card, words = getattr(mpj, name), mpj.cards()[name], WORDS[name]
    called, *others = (card.called or name).split(", ")
    summary, formula = docstring(rule)
    known = f"In the literature also: {', '.join(others)}.\n\n" if others else ""
    return f"""# {called}: `{name}`

{summary}

{known}Take it for: {card.use}. All arguments and details: [`modprop_jax.{name}`][].

![Credit of {called} beside that of backpropagation through time]\
(../figures/rules/{name.lower()}.svg)

*{words["caption"]}* A dot is the credit on a neuron's drive at a step, by which the rule would
change a synapse that was active then; its area is the amount. It is computed by the rule itself
(`docs/hooks/credit_maps.py`).

## Formula

{formula}

## What it takes

| | |
|---|---|
| credit that it delivers | {card.credit} |
| a synapse must know | {card.synapse} |
| gradient | {card.bias}: {card.when} |
| in place of influence or credit | {card.structure} |
| floats of trace, of each example | {memory(card)} |
| operations of a step | `{card.time}` |
| cells | {", ".join(f"[`{c}`][modprop_jax.{c}]" for c in serving(name))} |
| offline, streamed | {schedule(rule)} |
| experiments call it | {", ".join(f"`{n.name}`" for n in card.names)} |

Symbols: n neurons, m inputs, C cell types, h the horizon, k labels, r neurons that a weight
reaches; [the taxonomy](../theory/taxonomy.md) has all rules side by side.

## How to write it

```python
{snippet(name)}
```

From the command line: `{command(name)}`.

{words.get("more", "")}
## What it did

{results(name)}

## Paper

{card.source}. `mpj.cite(mpj.{name})` and `modprop-jax cite {card.names[0].name}` print:

??? cite

    ```bibtex
{_indented(mpj.cite(rule, package=False))}
    ```
"""


def docstring(rule: type) -> tuple[str, str]:
    """Its first line; and all else but errors and sources, each formula a block of its own."""
    text = (inspect.getdoc(rule) or "").replace("\\]\n\\[", "\\]\n\n\\[")
    summary, *rest = text.split("\n\n")
    ends = [part.startswith(("Errors: ", "Source: ", "Sources: ")) for part in rest]
    return summary, "\n\n".join(rest[: ends.index(True)])


def memory(card: mpj.Card) -> str:
    """Floats of trace in words, as in the taxonomy."""
    leaky = "" if card.leaky is None else f"; `{card.leaky}` on a `LeakyCell` of one τ"
    shared = "" if card.shared == "0" else f"; a batch shares `{card.shared}`"
    return f"`{card.memory}`{leaky}{shared}"


def schedule(rule: type) -> str:
    """How it runs; by its family, and whether `checkpointed_value_and_grad` takes it."""
    if rule is mpj.BPTT:
        words = "offline; in segments it is truncated BPTT"
    elif issubclass(rule, AbstractEstimatingRule):
        words = "on a stream, by `online_value_and_grad`: the trace goes on with the error"
    elif issubclass(rule, mpj.AbstractInfluenceRule):
        words = "forward in time alone, on a stream or offline"
    else:
        words = "either, with the same gradient of one recurrent layer"
    exact = mpj.BPTT, mpj.RTRL, mpj.DiagonalRTRL, mpj.EICredit
    return words + ("; checkpointed too" if rule in exact else "")


def command(name: str) -> str:
    """A comparison that has the rule."""
    named, cell = mpj.cards()[name].names[0], WORDS[name]["cell"]
    task = "add --preset brief" if named.online else "sequential_digits"
    task = {"GLECell": "mnist1d --cell gle", "EquilibriumCell": "digits"}.get(cell, task)
    other = "eprop" if named.name == "bptt" else "bptt"
    beside = "rtrl" if named.online else other
    where = " --cell lru" if cell == "LRUCell" else ""
    return f"modprop-jax compare {task}{where} --rules {named.name} {beside}"


def snippet(name: str) -> str:
    """A program that takes a gradient by the rule: offline, and on a stream."""
    rule, cell = WORDS[name]["rule"], CELLS[WORDS[name]["cell"]]
    keyed, estimates = made(name).needs_key, isinstance(made(name), AbstractEstimatingRule)
    lines = ["import jax", "import jax.numpy as jnp"]
    lines += ["import optax"] * ("optax" in rule)
    lines += ["", "import modprop_jax as mpj", "", "key = jax.random.key(0)"]
    lines += ["types = [0] * 6 + [1] * 2  # of each neuron"] * ("types" in rule)
    lines += [f"cell = {cell}", f"rnn = mpj.RNN(cell, rule={rule})"]
    lines += ["xs = jnp.ones((20, 4, 3))  # steps, batch, inputs"]
    if not (keyed or estimates):
        lines += ["", "", OFFLINE]
    key = ", key=key" if keyed else ""
    return "\n".join([*lines, "", "", STREAMED.replace("KEY", key)])


OFFLINE = """def loss(rnn, xs):
    return jnp.mean(rnn(xs) ** 2)


value, grads = mpj.value_and_grad(loss)(rnn, xs)"""
STREAMED = """def segment_loss(rnn, carry, xs, ys):
    carry, zs = rnn(xs, carry)
    return jnp.mean((zs - ys) ** 2), carry


carry, ys = rnn.init((4,)KEY), jnp.zeros((20, 1, 1))
online = mpj.online_value_and_grad(segment_loss, segment=5)
(value, carry), grads = online(rnn, carry, xs, ys)"""


def results(name: str) -> str:
    """What kept runs say of it: rows of their tables, and sentences."""
    labels = [named.name for named in mpj.cards()[name].names]
    parts = [f"- {line}" for line in WORDS[name]["results"]]
    parts = ["\n".join(parts)] if parts else []
    for folder, (title, beside) in TABLES.items():
        parts += rows(folder, title, labels, beside)
    return "\n\n".join(parts) or "No kept run has it."


def rows(folder: str, title: str, labels: list[str], beside: str) -> list[str]:
    """The rows of these rules in a table of docs/results, beside one other; none: nothing."""
    text = (DOCS / "results" / folder / "table.md").read_text("utf-8")
    table = re.search(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert table is not None
    head, line, *body = table[0].splitlines()
    own = [row for row in body if _label(row) in labels]
    if not own:
        return []
    others = [row for row in body if _label(row) == beside and row not in own]
    shown = _without_empty([head, line, *own, *others])
    return [f"[{title}](../results/{folder}/table.md):\n\n" + "\n".join(shown)]


def _label(row: str) -> str:
    return row.split("|")[1].strip().partition(":")[0]


def _without_empty(lines: list[str]) -> list[str]:
    columns = zip(*(line.strip("|").split("|") for line in lines))
    kept = [c for c in columns if not all(entry.strip() == "– → –" for entry in c[2:])]
    return ["|" + "|".join(row) + "|" for row in zip(*kept)]


def index() -> str:
    """All rules: what each is called, and what to take it for."""
    lines = [
        f"| [`{name}`]({name.lower()}.md) | {card.called} | {card.use} | {card.bias} |"
        for name, card in mpj.cards().items()
    ]
    return "\n".join(
        [
            "# Credit rules",
            "",
            "A rule is an argument: `mpj.scan(cell, carry, xs, rule=...)` or `mpj.RNN(cell, "
            "rule=...)`. `RFLO` and `ThreeFactor` are other names of `EProp`.",
            "[How to choose](../usage/how-to-choose-a-rule.md), "
            "[all of them by what they approximate](../theory/taxonomy.md).",
            "",
            "| rule | called | take it for | gradient |",
            "|---|---|---|---|",
            *lines,
            "",
        ]
    )


def taxonomy() -> str:
    """The table of the command line, each rule linked to its page."""
    return re.sub(
        r"^\| `(\w+)`",
        lambda row: f"| [`{row[1]}`](../rules/{row[1].lower()}.md)",
        mpj.taxonomy() + "\n",
        flags=re.MULTILINE,
    )


def _indented(text: str) -> str:
    return "\n".join(f"    {line}".rstrip() for line in text.splitlines())


def draw(names: list[str]) -> None:
    """Draw the pictures of these rules."""
    from credit_maps import PANELS
    from credit_pictures import picture, rounded

    PICTURES.mkdir(parents=True, exist_ok=True)
    for name in names:
        svg = picture(name, rounded(PANELS[name]()))
        (PICTURES / f"{name.lower()}.svg").write_text(svg, "utf-8")


if __name__ == "__main__":
    from rule_tables import write_tables

    if "--tables" not in sys.argv:
        draw(list(mpj.cards()))
    write_tables()
