"""The oracle: the whole model on everything, with the tokens that a trace says are gone hidden."""

import torch

from qvid_utils.families import family_of


def places(model, inputs):
    """(B, S) bool: the visual tokens."""
    ids = torch.tensor(family_of(model).visual_tokens(model.config))
    return torch.isin(inputs["input_ids"], ids)


def masked(model, inputs, cuts, ids=None):
    """(logits, who is left): the losers of each cut are hidden from its layer on.

    inputs: the prompts; cuts: a trace's; ids: the prompts and what was generated after them.
    """
    visual, prompt = places(model, inputs), inputs["input_ids"].shape[1]
    ids = inputs["input_ids"] if ids is None else ids
    grown = ids.shape[1] - prompt
    real = torch.nn.functional.pad(inputs["attention_mask"].bool(), (0, grown), value=True)
    layers = model.base_model.language_model.layers
    alive = [real.clone() for _ in layers]
    for cut in cuts:
        columns = visual[cut.row].nonzero()[:, 0]
        losers = torch.ones(len(columns), dtype=torch.bool)
        losers[cut.kept] = False
        for here in alive[cut.layer :]:
            here[cut.row, columns[losers]] = False
    causal = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
    own = torch.eye(ids.shape[1], dtype=torch.bool)  # nobody is left without anything to look at

    def hide(mask):
        def hook(module, args, kwargs):
            seen = (causal & mask[:, None]) | own
            if model.config._attn_implementation == "eager":
                seen = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
            return args, {**kwargs, "attention_mask": seen[:, None]}

        return hook

    hooks = [
        layer.register_forward_pre_hook(hide(mask), with_kwargs=True)
        for layer, mask in zip(layers, alive, strict=True)
    ]
    more = {name: t for name, t in inputs.items() if name not in ("input_ids", "attention_mask")}
    if "mm_token_type_ids" in more:  # counts positions itself, along three axes
        more["mm_token_type_ids"] = torch.nn.functional.pad(more["mm_token_type_ids"], (0, grown))
    else:
        more["position_ids"] = (real.long().cumsum(1) - 1).clamp(min=0)
    try:
        logits = model(input_ids=ids, attention_mask=real, **more).logits
    finally:
        for hook in hooks:
            hook.remove()
    return logits, alive[-1]
