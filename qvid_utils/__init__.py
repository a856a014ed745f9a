"""Training-free visual-token pruning, formula by formula.

Glossary: the letters of the papers and the names that stand for them everywhere in this package.

    H            number of attention heads of the language model
    N_v          number of visual tokens of one prompt
    N_q          number of query tokens: the user's words that the picture is read for
    d, d_h       width of the stream; width of one head
    L            number of decoder layers; `layer` = ℓ numbers them from 0
    M            `interaction` (H, N_q, N_v): pre-RoPE queries of the question times keys
    σ_k          `spectrum`: singular values of M, largest first
    r            `rank` (n_svd in the paper): modes that vote, or an energy share in (0, 1)
    K            `keep`: number of visual tokens kept. Always a count kept, never a ratio removed
    s_j          score of visual token j; higher is kept
    cut          a layer and the number of visual tokens that go on from its input
    mean_tokens  mean over the L layers of the visual tokens at each layer's input

Importing this package imports neither torch nor transformers: names are looked up when used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what an editor reads; at run time a name is looked up when it is used
    from .methods import METHODS, RULES, method, rule
    from .models.ask import ask
    from .models.load import load
    from .prune import observed, pruned

__version__ = "0.1.0"

_WHERE = {
    "METHODS": "methods",
    "RULES": "methods",
    "ask": "models.ask",
    "load": "models.load",
    "method": "methods",
    "observed": "prune",
    "pruned": "prune",
    "rule": "methods",
}

__all__ = ["METHODS", "RULES", "ask", "load", "method", "observed", "pruned", "rule"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE} - {"TYPE_CHECKING", "Any", "import_module"})
