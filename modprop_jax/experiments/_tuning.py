"""What tuning tries for each rule, and on which seeds."""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

from ._names import each_name, known
from ._rates import is_range, rates_of, spaced
from ._rules import given_with, option_value, RULES, settings_of


Value = float | str
Tuned = str | Sequence[str] | Mapping[str, Mapping[str, str | Sequence[Value]]]
"""`"modprop:mu=0.1,0.25,auto"`, several of these, or `{"modprop": {"mu": [0.1, 0.25, "auto"]}}`."""
RATE = "learning_rate"
# of the training under a rule, beside the rule's own
_TRAINING = {RATE: float, "l2": float}


@dataclasses.dataclass(frozen=True)
class Tuning:
    """The trials of every rule, on `seeds` networks that are reported nowhere."""

    rates: tuple[float, ...]
    """Learning rates of the rules that have none of their own here."""
    seeds: int
    first_seed: int
    options: Mapping[str, Mapping[str, Sequence[Value]]] = dataclasses.field(default_factory=dict)
    """By rule, as it is compared: values of its options, which are tried in all combinations."""

    @classmethod
    def make(
        cls,
        rules: Sequence[str],
        rates: str | Sequence[float] | None,
        options: Tuned | None,
        seeds: int,
        first_seed: int,
        reported: range,
    ) -> "Tuning":
        """Checked; `reported`: the seeds that are."""
        tried = _by_rule(rules, _parsed(options))
        found = () if rates is None else rates_of(rates)
        if isinstance(rates, str) and is_range(rates):
            tried = _as_many(rules, rates, tried)
        tuning = cls(found, seeds, first_seed, tried)
        if seeds < 1 or first_seed < 0:
            raise ValueError(
                f"tuning needs seeds of at least 1 from 0 on, but got {seeds} from {first_seed} on."
            )
        if set(range(first_seed, first_seed + seeds)) & set(reported):
            raise ValueError(
                f"tuning on seeds {first_seed} to {first_seed + seeds - 1} meets the reported "
                f"ones, {reported.start} to {reported.stop - 1}: give another first_seed."
            )
        return tuning

    def trials(self, rule: str) -> dict[str, dict[str, Value]]:
        """What is tried, by the name that a rule has with it; the rule as it is, if nothing is."""
        tried = dict(self.options.get(rule, {}))
        rates = tried.pop(RATE, self.rates)
        if rates and RATE not in settings_of(rule):
            tried[RATE] = rates
        found = {}
        for values in itertools.product(*tried.values()):
            chosen = dict(zip(tried, values))
            found[with_options(rule, chosen)] = chosen
        return found

    def labels(self, rule: str) -> list[str]:
        """The rule in each of its trials."""
        return list(self.trials(rule))


def with_options(rule: str, options: Mapping[str, Value]) -> str:
    """The rule's name with these options too."""
    named = ",".join(f"{name}={shown(value)}" for name, value in options.items())
    joint = "," if ":" in rule else ":"
    return f"{rule}{joint}{named}" if named else rule


def shown(value: Value) -> str:
    """As a rule's name has it."""
    return value if isinstance(value, str) else f"{value:g}"


def _parsed(options: Tuned | None) -> dict[str, dict[str, list[Value]]]:
    """By the name of a rule and that of its option."""
    if isinstance(options, Mapping):
        options = [
            f"{rule}:{name}={each if isinstance(each, str) else ','.join(map(str, each))}"
            for rule, tried in options.items()
            for name, each in tried.items()
        ]
    found: dict[str, dict[str, list[Value]]] = {}
    for text in each_name(options or ()):
        rule, _, rest = text.partition(":")
        kinds = {**RULES[known("rule", rule, RULES)].options, **_TRAINING}
        tried = found.setdefault(rule, {})
        for name, typed in _typed(text, rest).items():
            kind = kinds[known(f"{rule} option to tune", name, kinds)]
            if name in tried:
                raise ValueError(f"tune={text!r}: {name} is given twice.")
            tried[name] = [v for each in typed for v in _values(text, name, each, kind)]
            if len({*map(shown, tried[name])}) < len(tried[name]):
                raise ValueError(f"tune={text!r}: a value of {name} is given twice.")
    return found


def _typed(text: str, rest: str) -> dict[str, list[str]]:
    """The values of each option: what has no name is a further value of the option before it."""
    found: dict[str, list[str]] = {}
    for item in rest.split(","):
        name, equals, value = item.partition("=")
        if equals and name in found:
            raise ValueError(f"tune={text!r}: {name} is given twice.")
        if not equals and not found:
            raise ValueError(
                f"tune={text!r}: a rule, options and their values are due, such as "
                "modprop:mu=0.1,0.25,auto."
            )
        if equals:
            found[name] = [value]
        else:
            found[[*found][-1]].append(item)
    return found


def _values(text: str, name: str, typed: str, kind: type) -> Sequence[Value]:
    if not is_range(typed):
        return [option_value(text, name, typed, kind)]
    if kind is int:
        raise ValueError(f"tune={text!r}: {name} is a count: give each value, not a range.")
    try:
        return spaced(typed)
    except ValueError as error:
        raise ValueError(
            f"tune={text!r}: a range is such as 0.01..1 or 0.01..1/9, between numbers above 0, but "
            f"got {typed!r}."
        ) from error


def _by_rule(
    rules: Sequence[str], named: Mapping[str, Mapping[str, list[Value]]]
) -> dict[str, dict[str, Sequence[Value]]]:
    """For the rules of that name which say nothing of the option themselves."""
    found: dict[str, dict[str, Sequence[Value]]] = {}
    for name, options in named.items():
        for option, values in options.items():
            free = [
                rule
                for rule in rules
                if rule.partition(":")[0] == name
                and option not in {*given_with(rule), *settings_of(rule)}
            ]
            if not free:
                raise ValueError(
                    f"tune: {option} of {name} is to be tuned, but no rule is compared that leaves "
                    f"it open; compared are {', '.join(rules)}."
                )
            for rule in free:
                found.setdefault(rule, {})[option] = tuple(values)
    return found


def _as_many(
    rules: Sequence[str], rates: str, tried: Mapping[str, dict[str, Sequence[Value]]]
) -> dict[str, dict[str, Sequence[Value]]]:
    """With more rates of a range for rules that have fewer other options: as many trials."""
    others = {
        rule: math.prod(len(each) for name, each in tried.get(rule, {}).items() if name != RATE)
        for rule in rules
    }
    found = dict(tried)
    for rule, combinations in others.items():
        of_rule, times = found.get(rule, {}), Fraction(max(others.values()), combinations)
        if times > 1 and RATE not in {*of_rule, *settings_of(rule)}:
            found[rule] = of_rule | {RATE: rates_of(rates, times)}
    return found
