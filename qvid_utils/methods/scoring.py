"""What a scoring rule is: one short pure function, from evidence to one score per visual token.

The signature is the contract. Positional parameters are evidence, named by a word of
`evidence.WORDS`; keyword-only parameters are hyper-parameters with a default. A rule sees one
prompt, takes any device and dtype, and returns (N_v,) scores in float32 or better, higher = kept.

Scores that come out of a decomposition are computed in float64 and rounded to float32 at the end:
tokens that are equal on paper then tie exactly, and a tie goes to the earlier token.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .evidence import WORDS, needing

# Names that `Method` and `pruned` take for themselves: a hyper-parameter could never be reached.
RESERVED = frozenset(
    "model method keep layer query positions reading processor rope name rule schedule select "
    "params source departures label short encode extra official_counts clip venue link key curve "
    "apart printed".split()
)


@dataclass(frozen=True, eq=False)
class Rule:
    """A scoring rule: a pure function with what it reads, its defaults and where it comes from.

    sees: the words of evidence, in the order of the function's arguments; params: its keyword-only
    defaults; cost: the name of its operations in the table of costs, "" where they are not counted.
    Calling the rule calls the function.
    """

    name: str
    function: Callable[..., Tensor]
    sees: tuple[str, ...]
    params: dict[str, Any]
    source: str
    cost: str = ""

    def __call__(self, *evidence, **params) -> Tensor:
        scores = self.function(*evidence, **params)
        if not isinstance(scores, Tensor) or scores.is_complex():
            what = {"NoneType": "nothing", "ndarray": "a numpy array", "Tensor": "complex numbers"}
            kind = type(scores).__name__
            raise TypeError(
                f"rule {self.name!r} returned {what.get(kind, f'a {kind}')}: return a torch tensor "
                "with one real number for each visual token"
            )
        return scores

    @property
    def query_aware(self) -> bool:
        """Whether the score depends on text: does the rule see a word made from text tokens?"""
        return not needing("query", "text").isdisjoint(self.sees)


RULES: dict[str, Rule] = {}
TAKEN: set[str] = set()  # names of methods that are no rule's: a rule of one could not be asked for


def rule(
    function: Any = None, /, *, source: str = "", cost: str = ""
) -> Callable[[Callable[..., Tensor]], Rule]:
    """Decorator: make a function a `Rule` and list it in `RULES` under its own name.

    source: paper and equation, or what the rule is for; cost: as in `Rule`. Raises ValueError at
    import if the source is empty, an argument is no word of the vocabulary, a hyper-parameter has
    no default or a name that is taken, a method or a rule of another module has that name already;
    TypeError where the source is no text, and for what is no plain function with a name.
    """
    if function is not None:
        raise TypeError(
            "@rule needs its source: write @rule(source='paper and equation') above the function"
        )

    def register(function: Callable[..., Tensor]) -> Rule:
        if not isinstance(source, str):
            raise TypeError(f"source={source!r}: say in words where the rule comes from")
        if not source.strip():
            raise ValueError("rule(source=...): say which paper and equation the rule comes from")
        _check_function(function)
        name = function.__name__
        sees, params = _read_signature(name, function)
        if name in TAKEN:
            raise ValueError(f"rule {name!r}: a method has that name already, choose another")
        known = RULES.get(name)
        # Running a notebook cell again replaces its own rule; taking over another's is a mistake.
        if known is not None and known.function.__module__ != function.__module__:
            raise ValueError(
                f"rule {name!r} exists already in {known.function.__module__}: choose another name"
            )
        made = Rule(name, function, sees, params, source, cost)
        object.__setattr__(made, "__doc__", function.__doc__)
        RULES[name] = made
        return made

    return register


def _check_function(function: Any) -> None:
    if not inspect.isfunction(function):
        raise TypeError(f"rule: {function!r} is no function; write the rule with def")
    if function.__name__ == "<lambda>":
        raise TypeError("rule: a lambda has no name to be asked for by; write the rule with def")
    if (
        inspect.iscoroutinefunction(function)
        or inspect.isasyncgenfunction(function)
        or inspect.isgeneratorfunction(function)
    ):
        raise TypeError(
            f"rule {function.__name__!r} is async or yields: write a plain function that returns "
            "the scores"
        )


def _read_signature(name: str, function: Callable) -> tuple[tuple[str, ...], dict[str, Any]]:
    sees, params = [], {}
    for argument in inspect.signature(function).parameters.values():
        if argument.kind in (argument.VAR_POSITIONAL, argument.VAR_KEYWORD):
            raise ValueError(f"rule {name!r}: {argument} hides what the rule reads; name each word")
        if argument.kind is argument.KEYWORD_ONLY:
            if argument.default is argument.empty:
                raise ValueError(f"rule {name!r}: hyper-parameter {argument.name} needs a default")
            if argument.name in RESERVED:
                raise ValueError(
                    f"rule {name!r}: a hyper-parameter cannot be called {argument.name}, "
                    "methods use that name themselves"
                )
            params[argument.name] = argument.default
        elif argument.name in WORDS and argument.default is argument.empty:
            sees.append(argument.name)
        else:
            raise ValueError(
                f"rule {name!r}: {argument.name} is no word of evidence; allowed without a default "
                f"are {', '.join(WORDS)}; put hyper-parameters after a *"
            )
    if not sees:
        raise ValueError(f"rule {name!r} reads nothing: name at least one of {', '.join(WORDS)}")
    return tuple(sees), params
