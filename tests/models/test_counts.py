"""As many visual tokens as the processor writes: by the family's blocks, and as encoded."""

import pytest
import torch
from test_models import picture
from twins import built, image_processor_of

from qvid_utils.families import FAMILIES
from qvid_utils.families.attached import Attached
from qvid_utils.families.calls import watch_sizes

SIZES = (
    (24, 24), (20, 30), (30, 20), (48, 48), (90, 20), (17, 71), (100, 37), (64, 64), (33, 34),
    (120, 150),
)  # fmt: skip


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_the_blocks_count_what_the_processor_writes_for_ten_sizes(model_type):
    processor, model, family = (
        image_processor_of(model_type),
        built(model_type),
        FAMILIES[model_type],
    )
    known = torch.tensor(family.visual_tokens(model.config))
    for size in SIZES:
        shown = [picture(0, size), picture(1, size[::-1])]
        for pictures in (shown[:1], shown):
            text = f"{processor.image_token} what " * len(pictures)
            inputs = processor(images=[pictures], text=[text], return_tensors="pt")
            written = int(torch.isin(inputs["input_ids"], known).sum())
            assert sum(b.tokens for b in family.blocks(model.config, inputs)) == written > 0
            with Attached() as hung:
                seen = watch_sizes(hung, model)
                model(**inputs)
            assert sum(seen["encoded"].values()) == written
