"""The Triton kernel of leverage, run by Triton's interpreter, against the route through torch.

    TRITON_INTERPRET=1 python -m pytest tests/algebra/test_leverage_triton.py

The interpreter takes a second for a matrix of 16 rows and ten for one of 64: few and small cases.
Whether the kernel also compiles for GPUs is tested without one; it has not run on any.
"""

import os
import subprocess
import sys

import pytest
import torch
from test_leverage import by_svd, draw  # the oracle, which neither route is

from qvid_utils.algebra import fast_leverage, spectrum
from qvid_utils.algebra.leverage import leverage
from qvid_utils.algebra.selection import top_k
from qvid_utils.methods import RULES
from qvid_utils.paths import ROOT
from qvid_utils.workbook.cli import main
from qvid_utils.workbook.tables.schema import read

WITHOUT = "the extra `triton`, or TRITON_INTERPRET=1, is not there: make test-extras"


@pytest.fixture
def kernel(monkeypatch):
    """The module, with the switch on, and a list of the shapes that the kernel solved."""
    module = pytest.importorskip("qvid_utils.algebra.leverage_triton", reason=WITHOUT)
    if not module.usable(torch.device("cpu")):
        pytest.skip(WITHOUT)
    solved, solve = [], module.leverage_of

    def counted(X, rank, null):
        solved.append(tuple(X.shape))
        return solve(X, rank, null)

    monkeypatch.setattr(module, "leverage_of", counted)
    monkeypatch.setenv(fast_leverage.KERNEL, "triton")
    module.solved = solved
    return module


def hard(kind, heads=2, n_q=12, n_v=70):
    if kind == "decay":  # twelve decades
        U, V = torch.linalg.qr(draw(heads, n_q, n_q)).Q, torch.linalg.qr(draw(heads, n_v, n_q)).Q
        return U @ torch.diag(10.0 ** -torch.linspace(0, 12, n_q, dtype=torch.float64)) @ V.mT
    if kind == "flat":
        return torch.linalg.qr(draw(heads, n_v, n_q)).Q.mT
    M = draw(heads, n_q, n_v)
    if kind == "rows":
        M[:, 4:8] = M[:, :4]
        M[:, 10:] = 0
    if kind == "columns":
        M[..., n_v // 2 :] = M[..., : n_v - n_v // 2]
    return M.float()


def test_by_hand(kernel):
    # σ² = 8 along (1, 1, 0)/√2, and 1 along (0, 0, 1)
    paper = torch.tensor([[2.0, 2.0, 0.0], [0.0, 0.0, 1.0]])
    for rank, score in ((1, [0.5, 0.5, 0.0]), (2, [0.5, 0.5, 1.0]), (0.889, [0.5, 0.5, 1.0])):
        assert leverage(paper, rank).tolist() == pytest.approx(score, abs=1e-15)
    assert leverage(paper, 0.8888).tolist() == pytest.approx([0.5, 0.5, 0.0], abs=1e-15)
    assert len(kernel.solved) == 4


@pytest.mark.parametrize("rank", [5, 12, 0.8])
@pytest.mark.parametrize("kind", ["plain", "decay", "rows", "columns", "flat"])
def test_hard_cases_are_those_of_torch_and_keep_the_tokens_of_a_float64_svd(
    kernel, kind, rank, monkeypatch
):
    if kind == "flat" and rank != 12:
        rank = 12  # a flat spectrum has no leading modes: there only all of them are defined
    M = hard(kind)
    found = leverage(M, rank)
    assert kernel.solved == [(2, 12, 70)]
    monkeypatch.delenv(fast_leverage.KERNEL)
    tolerance = 1e-6 if kind == "decay" else 1e-12
    torch.testing.assert_close(found, leverage(M, rank), rtol=0, atol=tolerance)
    # each mode that votes sums to 1, the faintest too
    assert (found.sum(-1) - found.sum(-1).round()).abs().max() < 1e-12
    if rank != 0.8:
        truth = by_svd(M, rank).mean(0)
        assert (found.mean(0) - truth).abs().max() < tolerance
        kept = top_k(truth.float(), 9).index.tolist()
        assert top_k(found.mean(0).float(), 9).index.tolist() == kept


@pytest.mark.parametrize("n_q, n_v", [(1, 40), (16, 33), (17, 64), (33, 50)])
def test_every_size_of_the_padded_problem(kernel, n_q, n_v):
    M = draw(1, n_q, n_v, seed=n_q).float()
    found = leverage(M, 6)
    assert kernel.solved == [(1, n_q, n_v)]
    torch.testing.assert_close(found, by_svd(M, 6), rtol=0, atol=1e-12)
    assert float(found.sum()) == pytest.approx(min(6, n_q), abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_dtype_and_layout_is_computed_in_float64(kernel, dtype):
    M = draw(1, 2, 20, 9).to(dtype).mT  # not contiguous, two axes before the matrix
    found = leverage(M, 3)
    assert found.dtype == torch.float64 and kernel.solved == [(2, 9, 20)]
    torch.testing.assert_close(found, by_svd(M, 3), rtol=0, atol=1e-12)


def test_zero_matrices_and_scales(kernel):
    M = draw(3, 4, 9).float() * torch.tensor([1e-12, 0.0, 1e12])[:, None, None]
    found = leverage(M, 2)
    torch.testing.assert_close(found, by_svd(M, 2), rtol=0, atol=1e-12)
    assert found[1].tolist() == [0.0] * 9


def test_equal_tokens_tie_exactly(kernel):
    M = draw(2, 6, 40).float()
    M[..., 20:] = M[..., :20]
    score = leverage(M, 3).mean(0).float()
    assert torch.equal(score[:20], score[20:])


def test_a_rule_goes_through_it(kernel):
    M = draw(3, 5, 30).float()
    found = RULES["qvid"](M, rank=2)
    assert kernel.solved == [(3, 5, 30)]
    torch.testing.assert_close(found.double(), by_svd(M, 2).mean(0), rtol=0, atol=1e-7)


def test_its_time_is_told_as_its_own(kernel, tmp_path, monkeypatch, capsys):
    few = ["--heads", "1", "--queries", "3", "--visual", "9", "--rounds", "1", "--rank", "2"]
    assert main(["measure", "scores", *few, "--out", str(tmp_path / "kernel.csv")]) == 0
    assert set(kernel.solved) == {(1, 3, 9)}
    monkeypatch.delenv(fast_leverage.KERNEL)
    assert main(["measure", "scores", *few, "--out", str(tmp_path / "torch.csv")]) == 0
    told = [read(tmp_path / f"{name}.csv")["source"].iloc[0] for name in ("kernel", "torch")]
    assert ["Triton kernel" in source for source in told] == [True, False]


def test_what_the_kernel_cannot_do_goes_through_torch(kernel, monkeypatch):
    many, narrow = draw(1, 65, 70), draw(1, 9, 4)
    assert torch.equal(leverage(many, 3), _by_torch(many, 3, monkeypatch))
    assert torch.equal(leverage(narrow, 3), _by_torch(narrow, 3, monkeypatch))
    assert kernel.solved == []
    with pytest.raises(ValueError, match="65 rows: the kernel takes 64 at most"):
        kernel.leverage_of(many, 3, 1e-13)


def test_an_unsolved_problem_is_seen_and_goes_through_torch(kernel, monkeypatch):
    M = draw(2, 12, 40)
    M[1] = torch.eye(12, 40)  # this one is solved before it begins
    monkeypatch.setattr(kernel, "SWEEPS", 1)
    scores, residuals = kernel.leverage_of(M, 3, spectrum.NULL)
    assert 1e-15 < residuals[0] < 1 and residuals[1] == 0
    assert (scores[0] - by_svd(M, 3)[0]).abs().max() > 1e-6
    assert torch.equal(leverage(M, 3), _by_torch(M, 3, monkeypatch))


def _by_torch(M, rank, monkeypatch):
    with monkeypatch.context() as without:
        without.delenv(fast_leverage.KERNEL)
        return leverage(M, rank)


# --- the switch, which needs no Triton -----------------------------------------------------------


def test_the_default_is_torch_and_another_name_is_refused(monkeypatch):
    monkeypatch.setattr(
        "qvid_utils.algebra.leverage.by_triton", lambda *_: pytest.fail("not asked for")
    )
    for name in (None, "", "torch"):
        monkeypatch.delenv(fast_leverage.KERNEL, raising=False)
        if name is not None:
            monkeypatch.setenv(fast_leverage.KERNEL, name)
        leverage(torch.eye(2, 3), 1)
    monkeypatch.setenv(fast_leverage.KERNEL, "cuda")
    with pytest.raises(ValueError, match="QVID_KERNEL=cuda: give torch .the default. or triton"):
        leverage(torch.eye(2, 3), 1)


def _alone(code: str) -> subprocess.CompletedProcess:
    """A Python of its own, without the interpreter's switch, which Triton reads once."""
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True)


ASKED = """
import os, sys, torch
os.environ["QVID_KERNEL"] = "triton"
from qvid_utils.algebra.leverage import leverage
{before}
try: leverage(torch.eye(2, 3), 1)
except {error} as error: print(error)
"""


def test_without_triton_the_extra_is_named():
    without = "sys.modules['triton'] = None"
    told = _alone(ASKED.format(before=without, error="ImportError"))
    sentence = "QVID_KERNEL=triton needs the extra triton: pip install 'qvid-workbook[triton]', "
    sentence += "or unset QVID_KERNEL"
    assert told.stdout.strip() == sentence
    code = "from qvid_utils.workbook.cli import main; sys.exit(main(['measure', 'scores']))"
    told = _alone(f"import os, sys; {without}; os.environ['QVID_KERNEL'] = 'triton'; {code}")
    assert (told.returncode, told.stderr.strip()) == (2, f"measure: {sentence}")


def test_without_a_gpu_one_sentence_says_so():
    pytest.importorskip("triton", reason=WITHOUT)
    told = _alone(ASKED.format(before="", error="ValueError"))
    sentence = "QVID_KERNEL=triton: the interaction matrix is on cpu and the kernel needs a GPU; "
    assert told.stdout.strip() == sentence + "move the model there or unset QVID_KERNEL"


COMPILE = """
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from qvid_utils.algebra import leverage_triton as kernel

code = kernel._leverage
settings = dict(rank=0.9, is_share=True, null=1e-13, converged=1e-15, sweeps=20)
settings |= kernel._shape({n_query})
warps = settings.pop("num_warps")
types = dict(M="*fp32", scores="*fp64", residuals="*fp64", n_query="i32", n_visual="i32")
types |= dict.fromkeys(settings, "constexpr")
known = {{(code.arg_names.index(name),): value for name, value in settings.items()}}
target = GPUTarget("cuda", {capability}, 32)
made = compile(ASTSource(code, types, known), target=target, options=dict(num_warps=warps))
share = "0d3FECCCCCCCCCA99E"  # 0.9 - 1e-12 in float64, which a float32 could not hold
print(len(made.asm["cubin"]) > 0, share in made.asm["ptx"], made.metadata.shared < 100 * 1024)
"""


@pytest.mark.parametrize("n_query, capability", [(8, 80), (40, 80), (40, 90)])
def test_the_kernel_compiles_for_gpus(n_query, capability):
    pytest.importorskip("triton", reason=WITHOUT)
    told = _alone(COMPILE.format(n_query=n_query, capability=capability))
    assert told.stdout.split() == ["True"] * 3, told.stderr[-2000:]


@pytest.mark.full
@pytest.mark.parametrize("kind", ["plain", "decay", "rows", "columns"])
@pytest.mark.parametrize("n_q", [20, 40, 64])
def test_on_a_gpu(kind, n_q, monkeypatch):
    pytest.importorskip("triton", reason=WITHOUT)
    if not torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("no GPU, or TRITON_INTERPRET=1")
    M = hard(kind, heads=32, n_q=n_q, n_v=576)
    monkeypatch.setenv(fast_leverage.KERNEL, "triton")
    assert fast_leverage.by_triton(M.cuda(), 16) is not None
    found, truth = leverage(M.cuda(), 16).cpu().mean(0), by_svd(M, 16).mean(0)
    assert (found - truth).abs().max() < 1e-6
    assert torch.equal(top_k(found.float(), 64).index, top_k(truth.float(), 64).index)
