"""Model types that pruning does not carry, each with the reason."""

REFUSED: dict[str, str] = {}
