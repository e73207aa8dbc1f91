"""Options that several commands share, as the command line shows them."""

from pathlib import Path
from typing import Annotated, Literal

import tyro

from .._readout import Feedback
from ._rules import DEFAULT_RULES, ONLINE_RULES


TaskName = Annotated[
    str | None,
    tyro.conf.Positional,
    tyro.conf.arg(metavar="TASK", help_behavior_hint=""),
]
RuleName = Annotated[
    str | None,
    tyro.conf.Positional,
    tyro.conf.arg(metavar="RULE", help_behavior_hint=""),
]
NetworkName = Annotated[
    str | None,
    tyro.conf.arg(metavar="FILE.py:NAME", help_behavior_hint="(default: the preset's)"),
]
Rates = Annotated[
    str | None, tyro.conf.arg(metavar="LOW..HIGH", help_behavior_hint="(default: no tuning)")
]
Tuned = Annotated[
    tuple[str, ...] | None,
    tyro.conf.arg(
        metavar="RULE:OPTION=VALUE,... [...]", help_behavior_hint="(default: learning rates alone)"
    ),
]
CitedCell = Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")]
RuleNames = Annotated[
    tuple[str, ...] | None,
    tyro.conf.arg(
        metavar="NAME [NAME ...]",
        help_behavior_hint=(
            f"(default: {' '.join(DEFAULT_RULES)}; on streams {' '.join(ONLINE_RULES)}; those that "
            "serve the cell, for gle and equilibrium)"
        ),
    ),
]
Folder = Annotated[Path | None, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="")]
StyleName = Annotated[str | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")]
Coordinator = Annotated[str | None, tyro.conf.arg(metavar="HOST:PORT", help_behavior_hint="")]
Count = Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")]
Cores = Annotated[
    int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: all of this process)")
]
_PRESETS = "(default: the preset's)"
PresetInt = Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint=_PRESETS)]
PresetSeeds = Annotated[
    int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: 5, or the preset's)")
]
PresetFloat = Annotated[float | None, tyro.conf.arg(metavar="FLOAT", help_behavior_hint=_PRESETS)]
CellName = Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint=_PRESETS)]
FeedbackName = Annotated[Feedback | None, tyro.conf.arg(help_behavior_hint=_PRESETS)]
Mu = Annotated[
    float | Literal["auto"] | None, tyro.conf.arg(metavar="FLOAT|auto", help_behavior_hint=_PRESETS)
]
