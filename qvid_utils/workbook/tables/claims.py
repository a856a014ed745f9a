"""What a notebook's text relies on, one line for each claim."""

import pandas as pd


class Claims:
    """Claims with what was found, in the order in which they were made.

    claims = Claims()
    claims("QViD leads at every budget", (gap["low"] > 0).all(), gap["low"].min())
    claims.table()
    """

    def __init__(self) -> None:
        self.rows: list[tuple[str, bool, str]] = []

    def __call__(self, claim: str, holds: object, number: object = "") -> None:
        """holds: a truth value; number: what it rests on, a float with one decimal."""
        shown = f"{number:.1f}" if isinstance(number, float) else str(number)
        self.rows.append((claim, bool(holds), shown))

    def table(self) -> pd.DataFrame:
        """claim, holds, number. AssertionError, naming them, where some do not hold."""
        wrong = [f"{claim} ({number})" for claim, holds, number in self.rows if not holds]
        if wrong:
            raise AssertionError("does not hold: " + "; ".join(wrong))
        frame = pd.DataFrame(self.rows, columns=["claim", "holds", "number"])
        return frame.replace({"holds": {True: "yes"}}).set_index("claim")
