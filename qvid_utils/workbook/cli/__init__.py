"""One command: `python -m qvid_utils {run, figures, measure, benchmarks, dry-run, check}`.

Each sub-command is a file of this folder: `add_options(parser)` says what it takes, `work(chosen)`
does it and returns the exit status. What a command needs is imported when it works, so that every
`--help` is quick.
"""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

PROGRAM = "python -m qvid_utils"
COMMANDS = {
    "run": "ask questions with and without pruning, store each answer, write the table",
    "figures": "run the notebooks: every figure and table",
    "measure": "time and memory: pruned beside unpruned, the score alone, a grid",
    "benchmarks": "the published benchmarks: list them, fetch them, tasks for lmms-eval",
    "dry-run": "what the papers' tables need on this machine, and how many GPU hours",
    "check": "a first look at a new machine: a few questions beside the paper",
}
#: Errors that a user can mend: told in one sentence, without a traceback.
MENDABLE = (ValueError, TypeError, ImportError, OSError)


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, without the usage above it."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: {message}\n")


def parser() -> argparse.ArgumentParser:
    """The parser of all sub-commands; it imports neither torch nor pandas."""
    new = Parser(PROGRAM, description="The QViD workbook's commands.")
    commands = new.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, about in COMMANDS.items():
        module = import_module(f".{name.replace('-', '_')}", __package__)
        raw = argparse.RawDescriptionHelpFormatter
        one = commands.add_parser(name, help=about, description=module.__doc__, formatter_class=raw)
        one.set_defaults(work=getattr(module, "work", None))
        module.add_options(one)
    return new


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns 0; 1 where a run stopped or failed a check; 2 for a wrong argument
    or something that is missing, in one sentence; 130 after an interrupt."""
    chosen = parser().parse_args(argv)
    try:
        return chosen.work(chosen)
    except KeyboardInterrupt:
        print(f"{chosen.command}: interrupted; what was stored stays", file=sys.stderr)
        return 130
    except Exception as error:
        if not _mendable(error):
            raise
        lines = [f"{chosen.command}: {error}", *getattr(error, "__notes__", [])]
        print("\n".join(lines), file=sys.stderr)
        return 2


def _mendable(error: Exception) -> bool:
    from ...families import Unavailable
    from ...models.load import LoadError

    return isinstance(error, (*MENDABLE, Unavailable, LoadError))
