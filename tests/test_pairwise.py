"""The cells that run by default show every pair that the whole matrix shows."""

from itertools import product

from pairwise import chosen, demands

CELLS = [
    {"family": family, "name": name, "kernel": kernel, "case": case}
    for family, name, kernel, case in product(
        ("llava", "qwen2_vl", "video_llava"),
        ("qvid", "fastv", "v2drop", "sparsevlm", "column_norm"),
        ("sdpa", "eager"),
        ("single", "padded", "ragged"),
    )
]


def test_every_pair_and_every_method_is_shown():
    kept = chosen(CELLS)
    shown = set().union(*(demands(CELLS[i]) for i in kept))
    assert shown == set().union(*map(demands, CELLS))
    assert {CELLS[i]["name"] for i in kept} == {cell["name"] for cell in CELLS}
    pairs = {(CELLS[i]["family"], CELLS[i]["case"]) for i in kept}
    assert len(pairs) == 9
    assert len(kept) <= len(CELLS) / 4


def test_a_single_parameter_loses_nothing():
    assert chosen([{"family": name} for name in ("llava", "qwen2_vl")]) <= {0, 1}
    assert chosen([{"family": "llava", "kernel": k} for k in ("sdpa", "eager")]) == {0, 1}
