"""Groups of tokens that are alike: density-peak clustering, and the mean of each group."""

import torch
from torch import Tensor

__all__ = ["density_peaks", "means"]


def density_peaks(points: Tensor, clusters: int) -> tuple[Tensor, Tensor]:
    """Centres are dense points far from any denser one; everyone joins the nearest centre.

    With the distance D_ij = ‖x_i - x_j‖ / √C, the density ρ_i = exp(-mean of D² to the `clusters`
    nearest points, i itself included) and δ_i = distance to the nearest denser point (the largest
    distance of all, if none is denser), the centres are the `clusters` largest ρ_i δ_i. Of equally
    dense points the earlier counts as denser, so the result is reproducible.
    points (n, C) → centres (clusters,) int64, best first, and member (n,): the number of each
    point's centre. Raises TypeError unless clusters is a whole number, ValueError unless it is in
    1..n.
    Source: density peaks of nearest neighbours, as in SparseVLM's official code without its noise.
    """
    n, width = points.shape
    if isinstance(clusters, bool) or not hasattr(clusters, "__index__"):
        raise TypeError(f"clusters={clusters!r}: give the number of clusters as an int")
    if not 1 <= clusters <= n:
        raise ValueError(f"clusters={clusters}: there are {n} points, form 1 to {n} clusters")
    wide = points.to(torch.promote_types(points.dtype, torch.float32))
    # by differences: through the Gram matrix, near points would lose their digits
    distance = torch.cdist(wide, wide, compute_mode="donot_use_mm_for_euclid_dist") / width**0.5
    nearest = distance.topk(clusters, dim=-1, largest=False).values
    density = (-nearest.square().mean(-1)).exp()
    order = density.sort(descending=True, stable=True).indices
    rank = torch.empty_like(order).scatter_(0, order, torch.arange(n, device=order.device))
    denser = rank[None] < rank[:, None]
    delta = distance.where(denser, distance.max()).amin(-1)
    centres = (density * delta).sort(descending=True, stable=True).indices[:clusters]
    member = distance[:, centres].argmin(-1)
    member[centres] = torch.arange(clusters, device=member.device)
    return centres, member


def means(points: Tensor, member: Tensor, clusters: int) -> Tensor:
    """(clusters, C): the plain mean of each cluster's points. points (n, C), member (n,)."""
    # a product and no index_add, whose order of summation is open on a GPU
    belongs = torch.nn.functional.one_hot(member, clusters).to(points.dtype)  # (n, clusters)
    return belongs.mT @ points / belongs.sum(0)[:, None]
