"""Encoder-side methods as data: they score what the vision tower shows, and cut at the door of the
language model. Rows of `methods.METHODS`; the fields are those of `Method`."""

from typing import Any

from ..algebra.cuts import at
from ..algebra.selection import top_k_by_picture
from ..algebra.tome import Downsampling, ToMe
from . import rules_encoder
from .keep_encoder import Chunks, Coverage, Rate, Thinned, greedy_dpp, max_min
from .keep_merging import PruMerge, PruMergeInPlace, VisionZip, VisionZipInPlace, WithMean
from .keep_pooling import pooled

__all__ = ["ENTRIES"]

_DOOR = {
    "schedule": at(0, source="before the language model"),
    "positions": "contiguous_on_one_axis",
}
_EACH = (
    "Several pictures, tiles or frames share the budget in proportion to their tokens; a token "
    "that shows no place (line break, class token of a frame) goes before all others."
)
_ADAPTED = (
    "Our adaptation to towers without a class token: mean attention received, over heads and "
    "queries, pooled as the model pools its features. " + _EACH
)
_SAME = "On LLaVA-1.5 HiRED, FasterVLM and VisionZip's dominant part rank by this one row. "

_AT_THE_DOOR = (
    dict(
        name="svd_prune",
        rule=rules_encoder.svd_prune,
        source="SVD-Prune (arXiv 2604.11530), section 3.2; no public code",
        note="The paper leaves open: the layer (here the one that the model projects), centring "
        "(off), energy (σ²), τ (0.9), positions (renumbered), and every model but LLaVA-1.5: all "
        "pictures and frames of a prompt are one matrix, a token that joins patches holds them in "
        "a row. k stays below N. A token that shows no place scores 0.",
        label="SVD-Prune",
    ),
    dict(
        name="svd_prune_per_frame",
        rule=rules_encoder.svd_prune,
        select=top_k_by_picture,
        params={"per_frame": True},
        source="SVD-Prune (arXiv 2604.11530), section 3.2, for each frame",
        note="Not in the paper: each picture, tile or frame is a matrix of its own. " + _EACH,
        label="SVD-Prune per frame",
    ),
    dict(
        name="fastervlm",
        rule=rules_encoder.class_attention,
        select=top_k_by_picture,
        source="FasterVLM (Zhang et al., 2024), official code",
        note=_SAME + "In float32, where the code scores in half precision. " + _EACH,
        label="FasterVLM",
    ),
    dict(
        name="hired",
        rule=rules_encoder.class_attention,
        select=Rate(),
        source="HiRED (Arif et al., 2025), official code for LLaVA-1.5",
        note=_SAME + "Exactly K; official_counts=True gives its 191, 127, 63 for 192, 128, 64 of "
        "576. Its sharing out among tiles of LLaVA-NeXT is not here, a model we do not carry. "
        + _EACH,
        label="HiRED",
    ),
    dict(
        name="visionzip",
        rule=rules_encoder.class_attention,
        select=VisionZip(),
        source="VisionZip (Yang et al., 2025), official code",
        note="The class token counts inside K; contextual = round(K·10/64) carries its 54+10, "
        "108+20, 162+30 to any K (the code keeps at least one). Mean over heads in float32. "
        + _EACH,
        label="VisionZip",
    ),
    dict(
        name="prumerge",
        rule=rules_encoder.last_class_attention,
        select=PruMerge(),
        source="LLaVA-PruMerge (Shang et al., 2024), official code",
        note="The paper has no fixed budget: here K-1 tokens and the merged rest (K, "
        "official_counts=True: K+1); adaptive=True is its outlier rule, for each picture and not "
        "pooled over the batch, with at least one token. float32. " + _EACH,
        label="PruMerge",
    ),
    dict(
        name="prumerge_plus",
        rule=rules_encoder.last_class_attention,
        select=PruMerge(plus=True),
        source="LLaVA-PruMerge (Shang et al., 2024), official code, PruMerge+",
        note="As prumerge. With a fixed budget half of the K-1 are the best, half lie evenly, as "
        "in the code's fixed branch, which has them twice where they meet: here the next free "
        "token. adaptive=True is the published rule, with a stride of at least one (the code stops "
        "where more than a third are outliers).",
        label="PruMerge+",
    ),
    dict(
        name="vispruner",
        rule=rules_encoder.class_attention,
        select=Thinned(),
        source="VisPruner (Zhang et al., 2025), official code, half important",
        note="Where the code fails (an odd rest, fewer than eight to drop) a round drops what is "
        "left to drop. float32. " + _EACH,
        label="VisPruner",
    ),
    dict(
        name="divprune",
        rule=rules_encoder.divprune,
        select=max_min,
        source="DivPrune (Alvar et al., 2025), official code",
        note="A picked token is out of the choice (the code can pick a duplicate again). Exactly "
        "K. Over all visual tokens of the prompt, line breaks too, as in its LLaVA-NeXT code.",
        label="DivPrune",
    ),
    dict(
        name="scope",
        rule=rules_encoder.class_attention,
        select=Coverage(),
        source="SCOPE (Deng et al., 2025), official code, α = 1",
        note="Mean over heads for their sum, which picks the same. float32. " + _EACH,
        label="SCOPE",
    ),
    dict(
        name="holov",
        rule=rules_encoder.class_attention,
        select=Chunks(),
        source="HoloV (Zou et al., 2025), official code, 16 chunks, α = 0.09",
        note="What a full chunk cannot take goes to others (official_counts=True: zero vectors, "
        "as in the code). A chunk of one token is weighted like the rest (the code forgets a "
        "factor of 1000 there). " + _EACH,
        label="HoloV",
    ),
    dict(
        name="fastervlm_received",
        rule=rules_encoder.received_attention,
        select=top_k_by_picture,
        source="FasterVLM with the mean received attention that VisPruner's author advises",
        note=_ADAPTED + " HiRED's would be the same.",
        label="FasterVLM (received)",
    ),
    dict(
        name="visionzip_received",
        rule=rules_encoder.received_attention,
        select=VisionZipInPlace(),
        source="VisionZip adapted as in EffiVLM-Bench: behind the projector, in place",
        note="No class token among the K; attention of the layer that gives the patches (the "
        "bench: block 30 of Qwen2-VL's 32); keys are averaged over the patches of a token. "
        + _ADAPTED,
        label="VisionZip (received)",
    ),
    dict(
        name="prumerge_received",
        rule=rules_encoder.received_attention,
        select=PruMergeInPlace(),
        source="PruMerge adapted as in EffiVLM-Bench: behind the projector, in place",
        note="The best K, where the bench takes outliers by the interquartile range and fills up "
        "with a stride. Scores and keys of the layer that gives the patches, heads separated; no "
        "token for the rest. " + _ADAPTED,
        label="PruMerge (received)",
    ),
    dict(
        name="prumerge_plus_received",
        rule=rules_encoder.received_attention,
        select=PruMergeInPlace(plus=True),
        source="PruMerge+ adapted as in EffiVLM-Bench: behind the projector, in place",
        note="As prumerge_received, but half of the tokens are the best and half lie evenly.",
        label="PruMerge+ (received)",
    ),
    dict(
        name="vispruner_received",
        rule=rules_encoder.received_attention,
        select=Thinned(),
        source="VisPruner with the mean received attention that its author advises",
        note=_ADAPTED,
        label="VisPruner (received)",
    ),
    dict(
        name="scope_received",
        rule=rules_encoder.received_attention,
        select=Coverage(),
        source="SCOPE with mean received attention",
        note=_ADAPTED,
        label="SCOPE (received)",
    ),
    dict(
        name="holov_received",
        rule=rules_encoder.received_attention,
        select=Chunks(in_place=True),
        source="HoloV with mean received attention",
        note="Tokens stay in the order of the picture. " + _ADAPTED,
        label="HoloV (received)",
    ),
)

_TOWER_AND_BASELINES = (
    dict(
        name="tome",
        rule=rules_encoder.slots,
        schedule=at(0, source="inside the vision tower"),
        encode=ToMe(),
        positions="contiguous",
        source="ToMe (Bolya et al., 2023), sections 3.1 and 3.2; the schedule r is ours",
        note="Merges in the layers that the model reads (of LLaVA-1.5 all but the last), "
        "evenly, the remainder in the first: no source of a ToMe row for LLaVA has a list. As "
        "in the official code the tokens leave the tower unmerged ones first, then those at "
        "odd places, not in the order of the picture. Several pictures share keep evenly.",
        label="ToMe",
    ),
    dict(
        name="trim",
        rule=rules_encoder.trim,
        schedule=at(0, source="before the projector"),
        select=WithMean(),
        positions="contiguous",
        source="TRIM (Song et al., 2024), official code without its interquartile rule",
        note="The mean token counts inside keep (official_counts=True: beyond it). All "
        "pictures of a prompt are scored as one; CLIP runs in float32.",
        label="TRIM",
    ),
    dict(
        name="cdpruner",
        rule=rules_encoder.relevance,
        schedule=at(0, source="at the door of the language model"),
        select=greedy_dpp,
        query="content",
        positions="contiguous",
        source="CDPruner (Zhang et al., 2025), official code",
        note="Relevance is stretched per prompt, not per batch. The question loses every sentence "
        "that asks for the form of the answer (the code: one). Each segment of a long "
        "question has its own begin and end mark, which the official code gives to the whole "
        "only. Where the kernel's rank is used up the rest goes by relevance.",
        label="CDPruner",
    ),
    dict(
        name="pooling",
        rule=rules_encoder.alike,
        schedule=at(0, source="at the door of the language model"),
        select=pooled,
        source="floor: average pooling of the projected features to exactly keep cells",
        note="Cells are rows × cols by area, a border token in both by its part; where no such "
        "split of keep is near the picture's aspect, equal lengths of the reading order. Where "
        "positions stay, each cell stands at that of its middle token.",
        label="Average pooling",
    ),
    dict(
        name="downsampling",
        rule=rules_encoder.slots,
        schedule=at(0, source="inside the vision tower"),
        encode=Downsampling(),
        positions="contiguous",
        source="floor: a smaller picture, position embeddings interpolated",
        note="To exactly keep patches: the grid nearest to a square, so 48 are 6 × 8 and the "
        "picture is squeezed a little; counts without a grid up to 1:2 are refused. Resized "
        "after the processor (bicubic, antialiased).",
        label="Image downsampling",
    ),
)

ENTRIES: tuple[dict[str, Any], ...] = tuple(
    _DOOR | entry for entry in (*_AT_THE_DOOR, *_TOWER_AND_BASELINES)
)
