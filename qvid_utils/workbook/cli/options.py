"""Options that several commands share, each with one meaning and one help text."""

import argparse
import sys
from collections.abc import Sequence

DTYPES = ("float32", "bfloat16", "float16")


def whole(least: int):
    """A whole number of `least` or more, for `type=`."""

    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r}: give a whole number") from None
        if value < least:
            raise argparse.ArgumentTypeError(f"{value}: give {least} or more")
        return value

    return number


def numbers(text: str) -> list[int]:
    """Whole numbers of 1 or more with commas between them, for `type=`."""
    return [whole(1)(part) for part in text.split(",")]


def add_machine(parser: argparse.ArgumentParser, batch: int | None = None) -> None:
    """--device, --dtype, --attention and, with a default, --batch-size."""
    add = parser.add_argument_group("on which machine").add_argument
    add("--device", help="cpu, cuda, cuda:1 ... (default: a GPU where there is one)")
    add("--dtype", choices=DTYPES, help="default: the checkpoint's on a GPU, float32 on a CPU")
    add("--attention", default="sdpa", help="sdpa, eager or flash_attention_2 (default: sdpa)")
    if batch:
        add("--batch-size", type=whole(1), default=batch, metavar="N", help=f"default: {batch}")


def add_questions(parser: argparse.ArgumentParser) -> None:
    """--limit and --seed."""
    parser.add_argument(
        "--limit", type=whole(1), metavar="N", help="questions per suite (default: all)"
    )
    parser.add_argument(
        "--seed", type=whole(0), default=0, help="draws the questions under --limit (default: 0)"
    )


def report(prog: str, error: Exception | str, notes: Sequence[str] = ()) -> None:
    """One sentence on the standard error."""
    print("\n".join([f"{prog}: {error}", *notes]), file=sys.stderr)
