"""The pages of the credit rules, made from their cards and docstrings.

`pages()` is what the site is built with. `python docs/hooks/rules.py` draws the pictures again and
measures the tables of docs/usage/how-to-choose-a-rule.md; `--tables` measures alone.
"""

import inspect
import pathlib
import re
import sys

import modprop_jax as mpj
from modprop_jax._grad import _EXACT
from modprop_jax._rule import AbstractEstimatingRule


sys.path.append(str(pathlib.Path(__file__).parent))
from rule_cells import serving, WORDS  # noqa: E402
from rule_results import results  # noqa: E402
from rule_snippets import command, snippet  # noqa: E402


HERE = pathlib.Path(__file__).parent
DOCS = HERE.parent
PICTURES = DOCS / "figures" / "rules"


def pages() -> dict[str, str]:
    """Path in docs -> Markdown: a page for each rule, their index, and the taxonomy."""
    found = {f"rules/{name.lower()}.md": page(name) for name in mpj.cards()}
    return found | {"rules/index.md": index(), "theory/taxonomy.md": taxonomy()}


def page(name: str) -> str:
    """The page of one rule."""
    rule, card, words = getattr(mpj, name), mpj.cards()[name], WORDS[name]
    called, *others = (card.called or name).split(", ")
    summary, formula = docstring(rule)
    known = f"Also called: {', '.join(others)}.\n\n" if others else ""
    title = called if called == name else f"{called}: `{name}`"
    return f"""# {title}

{summary}

{known}Use it for: {card.use}. All arguments and details: [`modprop_jax.{name}`][].

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

Symbols: n neurons, m inputs, C cell types, K exponentials of a filter, h the horizon, k labels, r
neurons that a weight reaches; [the taxonomy](../theory/taxonomy.md) has all rules side by side.

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
    return words + ("; checkpointed too" if rule in _EXACT else "")


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
            "| rule | called | use it for | gradient |",
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
