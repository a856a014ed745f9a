"""The oracles: the whole model on everything, with the tokens that a trace says are gone hidden;
and its layers one by one on the sequence that cuts leave, where tokens are merged or renumbered."""

from dataclasses import replace

import torch
from twins import language

from qvid_utils import pruned
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
    layers = language(model).layers
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


def entering(model, inputs):
    """(B, S, d) for each decoder layer: what enters it; features that are added after a layer are
    in it, which the library's own hidden states leave out."""
    seen, layers = [], language(model).layers
    hooks = [layer.register_forward_pre_hook(lambda m, a: seen.append(a[0])) for layer in layers]
    try:
        model(**inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def check_hidden(model, batch, cuts, logits, exact):
    """The logits of pruned prompts, padded ones too, are those of the losers being hidden."""
    expected, alive = masked(model, batch, cuts)
    for row, here in enumerate(alive):
        assert (logits[row, -int(here.sum()) :] - expected[row, here]).abs().max() <= exact


def check_decoded(model, batch, name, keep, exact, number=8):
    """So many words, decoded on the shortened cache, have the logits of recomputing everything."""
    more = {"max_new_tokens": number, "min_new_tokens": number, "do_sample": False}
    with pruned(model, name, keep) as trace:
        out = model.generate(**batch, **more, return_dict_in_generate=True, output_logits=True)
    expected, _ = masked(model, batch, trace.cuts, out.sequences)
    start = batch["input_ids"].shape[1] - 1
    assert (torch.stack(out.logits, 1) - expected[:, start : start + number]).abs().max() <= exact


def recording(method):
    """(the method, a list): its selection writes down what it gives, one entry for each cut."""
    found, select = [], method.select

    def select_and_tell(scores, keep, **evidence):
        found.append(select(scores, keep, **evidence))
        return found[-1]

    select_and_tell.__wrapped__ = select  # whose signature says which evidence is wanted
    return replace(method, select=select_and_tell), found


def relayed(model, inputs, cuts, kept, row, renumber, ids=None):
    """(S', vocabulary) logits of one row of the prompts, by the decoder's own layers in turn.

    At each cut the row's visual tokens become what `kept` says, and where `renumber` is set all
    tokens count from 0 again. cuts: a trace's; kept: what the selection gave at each (`recording`);
    ids: the prompts and what was generated after them.
    """
    family, text = family_of(model), language(model)
    real = inputs["attention_mask"].bool()
    ids = inputs["input_ids"] if ids is None else ids
    grown = ids.shape[1] - real.shape[1]
    real = torch.nn.functional.pad(real, (0, grown), value=True)
    seen = {}

    def spy(module, args, kwargs):
        seen["stream"], (seen["cos"], seen["sin"]) = args[0], kwargs["position_embeddings"]

    more = {name: t for name, t in inputs.items() if name not in ("input_ids", "attention_mask")}
    if "mm_token_type_ids" in more:
        more["mm_token_type_ids"] = torch.nn.functional.pad(more["mm_token_type_ids"], (0, grown))
    hooks = [text.layers[0].register_forward_pre_hook(spy, with_kwargs=True)]
    added = []

    def spread(module, args, kwargs):
        """What is added after the first layers, at its own tokens: (B, S, d) each."""
        for features in kwargs.get("deepstack_visual_embeds") or ():
            zeros = features.new_zeros(*ids.shape, features.shape[-1])
            zeros[kwargs["visual_pos_masks"]] = features
            added.append(zeros)

    hooks.append(text.register_forward_pre_hook(spread, with_kwargs=True))
    try:
        model(input_ids=ids, attention_mask=real, **more)
    finally:
        for hook in hooks:
            hook.remove()
    added = [one[row, real[row]] for one in added]
    stream, cos, sin = (t.expand(len(ids), -1, -1)[row, real[row]] for t in seen.values())
    visual = torch.nn.functional.pad(places(model, inputs), (0, grown))[row, real[row]]
    for i, layer in enumerate(text.layers):
        for cut, choice in zip(cuts, kept, strict=True):
            if (cut.row, cut.layer) != (row, i):
                continue
            slots = visual.nonzero()[:, 0][choice.index]
            content = choice.merged
            if getattr(choice, "patches", None) is not None:
                content = family.part(model, "projector")(choice.patches)
            if content is not None:
                stream = stream.index_put((slots,), content)
            stays = ~visual
            stays[slots] = True
            if choice.stands is not None:  # an order of its own: what is added follows
                own = visual.nonzero()[:, 0][choice.stands]
                added = [one.index_put((slots,), one[own]) for one in added]
            stream, cos, sin, visual, *added = (
                t[stays] for t in (stream, cos, sin, visual, *added)
            )
            if renumber:
                order = torch.arange(len(stream))[None]
                cos, sin = (t[0] for t in text.rotary_emb(stream, position_ids=order))
        causal = torch.ones(len(stream), len(stream), dtype=torch.bool).tril()[None, None]
        if model.config._attn_implementation == "eager":
            causal = torch.zeros(causal.shape).masked_fill(~causal, torch.finfo(torch.float32).min)
        rotary = (cos[None], sin[None])
        stream = layer(stream[None], attention_mask=causal, position_embeddings=rotary)[0]
        if i < len(added):
            stream = stream + added[i]
    return model.lm_head(text.norm(stream))
