"""The oracle of methods that merge: the language model on embeddings put together by hand."""

import torch
from twins import language

from qvid_utils.families import family_of


def shorter(model, inputs, visual):
    """Logits of each row, (S_i, words): its text around `visual[row]` (K, d), nothing else.

    The row's visual tokens stand in one piece; positions count up from 0, nothing is padded.
    """
    ids = torch.tensor(family_of(model).visual_tokens(model.config))
    found = []
    for row, real, features in zip(
        inputs["input_ids"], inputs["attention_mask"].bool(), visual, strict=True
    ):
        words = row[real]
        text = model.get_input_embeddings()(words)
        places = torch.isin(words, ids).nonzero()[:, 0].tolist()
        if places:
            assert places == list(range(places[0], places[-1] + 1)), "text between the pictures"
            text = torch.cat([text[: places[0]], features, text[places[-1] + 1 :]])
        out = language(model)(inputs_embeds=text[None]).last_hidden_state
        found.append(model.lm_head(out)[0])
    return found


def furthest(logits, expected):
    """The largest difference of left-padded logits from those of each row alone."""
    gaps = [(a[-len(b) :] - b).abs().max() for a, b in zip(logits, expected, strict=True)]
    return float(max(gaps))
