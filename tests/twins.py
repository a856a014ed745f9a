"""Small random models of each family, their processors, and the prompts that the tests ask."""

from dataclasses import dataclass

import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import AutoModelForImageTextToText, LlavaProcessor, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from qvid_utils.families import FAMILIES, remember

WORDS = (
    "<pad> <s> </s> <unk> <image> USER: ASSISTANT: "
    "what color is the star ? where are all of these dots and lines . , which letter stands left "
    "answer question using a single word or phrase you see be brief red blue yes no one two"
).split()
TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'][0]['text'] + ' ' }}"
    "{% else %}{{ m['role'].upper() + ': ' }}"
    "{% for p in m['content'] if p['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for p in m['content'] if p['type'] == 'text' %}{{ p['text'] + ' ' }}{% endfor %}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
TAIL = " answer the question using a single word ."


def processor() -> LlavaProcessor:
    """A word-level tokenizer, a picture of 24 pixels in 16 patches, LLaVA's kind of template."""
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    pattern = Regex(r"<[a-z/]+>|USER:|ASSISTANT:|\w+|[^\w\s]")
    core.pre_tokenizer = pre_tokenizers.Split(pattern, behavior="removed", invert=True)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
        padding_side="left",
    )
    pictures = CLIPImageProcessorPil(
        size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24}
    )
    return LlavaProcessor(
        pictures,
        tokenizer,
        patch_size=6,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )


def twin(model_type: str = "llava", attention: str = "sdpa", seed: int = 0, **text):
    """A random model that heeds its pictures: weights are scaled to 1.2/sqrt(fan-in)."""
    config = FAMILIES[model_type].tiny(**text)
    model = AutoModelForImageTextToText.from_config(config, attn_implementation=attention).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            scale = 1.2 / weight[0].numel() ** 0.5 if weight.dim() > 1 else 0.1
            weight.copy_(torch.randn(weight.shape, generator=generator) * scale)
            if "norm" in name and name.endswith("weight"):
                weight.add_(1)
    model.requires_grad_(False)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    remember(model, PROCESSOR)
    return model


PROCESSOR = processor()


@dataclass(frozen=True)
class Prompt:
    words: str
    pictures: int = 1
    system: str = ""

    @property
    def text(self) -> str:
        return (
            self.system + "USER: " + "<image>\n" * self.pictures + self.words + TAIL + " ASSISTANT:"
        )


STAR = Prompt("what color is the star ?")
DOTS = Prompt("where are all of these dots and lines , which letter stands left ?")
BOTH = Prompt("which of the two is red ?", pictures=2)
TALK = Prompt("you see a star . is the star blue ?", pictures=0)

CASES = {
    "single": (STAR,),
    "padded": (STAR, DOTS),
    "two pictures": (BOTH,),
    "ragged": (BOTH, STAR, DOTS),
    "text beside": (DOTS, TALK),
}


def ask(*prompts: Prompt, seed: int = 0) -> dict[str, torch.Tensor]:
    """Inputs of a batch, padded on the left; a prompt has the same pictures in any batch."""
    ids = PROCESSOR.tokenizer(
        [p.text.replace("<image>", "<image>" * 16) for p in prompts],
        padding=True,
        return_tensors="pt",
    )
    inputs = {"input_ids": ids["input_ids"], "attention_mask": ids["attention_mask"]}
    pictures = [
        torch.randn(
            3, 24, 24, generator=torch.Generator().manual_seed(seed + 10 * len(p.words) + i)
        )
        for p in prompts
        for i in range(p.pictures)
    ]
    if pictures:
        inputs["pixel_values"] = torch.stack(pictures)
    return inputs
