"""Small random models of each family, their tokenizers and templates, and what the tests ask."""

import functools
import inspect
from dataclasses import dataclass
from itertools import count

import pytest
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForImageTextToText,
    GenerationMixin,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
    LlavaOnevisionImageProcessorPil,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.utils import is_torchvision_available

from qvid_utils import load
from qvid_utils.families import FAMILIES, family_of, remember
from qvid_utils.models.processors import image_only

# Older transformers repeat pictures one by one for beams, so that the beams of a prompt with two of
# them see others than they should; newer ones encode a prompt's pictures once for all beams.
BEAMS_SHARE = "mm_encoder_outputs" in inspect.getsource(inspect.getmodule(GenerationMixin))
# Methods whose oracles stand in files of their own: test_tower_site, test_text_tower, test_pooling.
ELSEWHERE = ("tome", "downsampling", "pooling", "trim", "cdpruner")
QWEN3 = ("qwen3_vl", "qwen3_vl_moe")
IDEFICS = ("idefics3", "smolvlm")
NEXT = ("llava_next", "llava_next_video")
QWEN = ("qwen2_vl", "qwen2_5_vl", *QWEN3)
WITH_VIDEO = ("video_llava", "llava_onevision", "llava_next_video", *QWEN)

HAVE_CLASS = tuple(name for name, family in FAMILIES.items() if family.has_cls)

PLACES = ("<image>", "<video>", "<|vision_start|>", "<|vision_end|>")
QWEN_PLACES = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
PLACES_OF = {  # placeholders of a picture and a video, marks around a picture; else PLACES
    **dict.fromkeys(QWEN, QWEN_PLACES),
    "internvl": ("<IMG_CONTEXT>", "<video>", "<img>", "</img>"),
    **dict.fromkeys(IDEFICS, ("<image>", "<video>", "<fake_token_around_image>", "<global-img>")),
    "mistral3": ("[IMG]", "<video>", "[IMG_BREAK]", "[IMG_END]"),
}
MARKED = ("internvl", *QWEN)  # the marks stand around each picture
WORDS = (
    "<|im_start|> <|im_end|> USER: ASSISTANT: system user assistant You are a helpful "
    "what color is the star ? where are all of these dots and lines . , which letter stands left "
    "answer question using a single word or phrase you see be brief red blue yes no one two "
    "< > 0 1 2 5 seconds <end_of_utterance> User Assistant : "
    "<row_1_col_1> <row_1_col_2> <row_2_col_1> <row_2_col_2> "
    "[INST] [/INST] [SYSTEM_PROMPT] [/SYSTEM_PROMPT]"
).split()

# The form of each family's own template: what stands where, and in which order.
_USER = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'][0]['text'] + ' ' }}"
    "{% else %}{{ m['role'].upper() + ': ' }}"
    "{% for p in m['content'] if p['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for p in m['content'] if p['type'] == 'video' %}{{ '<video>\n' }}{% endfor %}"
    "{% for p in m['content'] if p['type'] == 'text' %}{{ p['text'] + ' ' }}{% endfor %}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
_ONEVISION = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + ' ' }}"
    "{% for p in m['content'] if p['type'] == 'image' %}{{ '<image>' }}{% endfor %}"
    "{% for p in m['content'] if p['type'] == 'video' %}{{ '<video>' }}{% endfor %}"
    "{% for p in m['content'] if p['type'] == 'text' %}{{ '\n' + p['text'] }}{% endfor %}"
    "{{ '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_QWEN = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' }}{% for p in m['content'] %}"
    "{% if p['type'] == 'image' %}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{% elif p['type'] == 'video' %}{{ '<|vision_start|><|video_pad|><|vision_end|>' }}"
    "{% else %}{{ p['text'] }}{% endif %}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEMPLATES = {
    "llava": _USER,
    "video_llava": _USER,
    "llava_onevision": _ONEVISION,
    **dict.fromkeys(QWEN, _QWEN),
    **dict.fromkeys(NEXT, _USER),
}
TAIL = " answer the question using a single word ."


@functools.cache
def tokenizer(model_type: str = "llava") -> PreTrainedTokenizerFast:
    """Word-level, with the placeholders as ids 4 and 5 and the family's kind of template."""
    places = PLACES_OF.get(model_type, PLACES)
    special = dict(zip(("image_token", "video_token"), places, strict=False))
    named = ("context_image_token", "video_token", "start_image_token", "end_image_token")
    special |= dict(zip(named, places, strict=True)) if model_type == "internvl" else {}
    marks = [*places[2:], *(w for w in WORDS if w[0] in "<[" and len(w) > 1)]
    special |= {f"extra_{i}": token for i, token in enumerate(marks)}
    vocabulary = ["<pad>", "<s>", "</s>", "<unk>", *places, *WORDS]
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(vocabulary)}, unk_token="<unk>"))
    pattern = Regex(r"<\|?[a-zA-Z0-9_/-]+\|?>|\[/?[A-Z_]+\]|USER:|ASSISTANT:|\w+|[^\w\s]")
    core.pre_tokenizer = pre_tokenizers.Split(pattern, behavior="removed", invert=True)
    made = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens=special,
        padding_side="left",
    )
    made.chat_template = TEMPLATES.get(model_type) or FAMILIES[model_type].template
    return made


def processor() -> LlavaProcessor:
    """A word-level tokenizer, a picture of 24 pixels in 16 patches, LLaVA's kind of template."""
    pictures = CLIPImageProcessorPil(
        size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24}
    )
    return LlavaProcessor(
        pictures,
        tokenizer(),
        patch_size=6,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATES["llava"],
    )


def language(model):
    """The language model, wherever the family has it."""
    return family_of(model).part(model, "language")


def twin(model_type: str = "llava", attention: str = "sdpa", seed: int = 0, **text):
    """A random model that heeds its pictures: weights are scaled to 1.2/sqrt(fan-in)."""
    config = FAMILIES[model_type].tiny(**text)
    model = AutoModelForImageTextToText.from_config(config, attn_implementation=attention).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            fan_in = weight.shape[-1] if "experts" in name else weight[0].numel()
            scale = 1.2 / fan_in**0.5 if weight.dim() > 1 else 0.1
            weight.copy_(torch.randn(weight.shape, generator=generator) * scale)
            if "norm" in name and name.endswith("weight"):
                weight.add_(1)
    model.requires_grad_(False)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    remember(model, PROCESSOR if model_type == "llava" else tokenizer(model_type))
    return model


# Made once per process and never changed: a test that changes a model takes a twin of its own.
built = functools.cache(twin)
embedded = functools.cache(load)


@functools.cache
def image_processor_of(model_type: str):
    """The processor of a family as its checkpoint has it, for pictures of any size; the three that
    come with a video processor are without it, which would need torchvision."""
    import transformers

    words = tokenizer(model_type)
    kind = transformers.PROCESSOR_MAPPING[type(FAMILIES[model_type].tiny())]
    template = {"chat_template": words.chat_template}
    if model_type == "llava":
        return processor()
    if model_type == "video_llava":
        pictures = transformers.VideoLlavaImageProcessor(
            size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24}
        )
        return image_only(kind)(pictures, words, patch_size=6, **template)
    if model_type == "llava_onevision":
        pictures = LlavaOnevisionImageProcessorPil(
            size={"height": 24, "width": 24},
            image_grid_pinpoints=FAMILIES[model_type].tiny().image_grid_pinpoints,
        )
        more = {"num_image_tokens": 16, "vision_feature_select_strategy": "full"}
        return image_only(kind)(pictures, words, **more, **template)
    if model_type in IDEFICS:
        from transformers.models import idefics3, smolvlm

        edges = {"size": {"longest_edge": 96}, "max_image_size": {"longest_edge": 48}}
        smolvlm.processing_smolvlm.num2words = str  # a package that only its videos need
        try:
            if model_type == "idefics3":
                made = idefics3.image_processing_pil_idefics3.Idefics3ImageProcessorPil(**edges)
                return kind(made, words, image_seq_len=16, **template)
            made = smolvlm.image_processing_pil_smolvlm.SmolVLMImageProcessorPil(**edges)
        except ImportError:
            pytest.skip(f"{model_type}: older transformers need torchvision for its pictures")
        return image_only(kind)(made, words, image_seq_len=16, **template)
    if model_type == "mistral3":
        if not is_torchvision_available():
            pytest.skip("Pixtral's processor needs torchvision")
        from transformers.models.pixtral import image_processing_pil_pixtral as pixtral

        made = pixtral.PixtralImageProcessorPil(
            size={"longest_edge": 48}, patch_size={"height": 12, "width": 12}
        )
        return kind(made, words, patch_size=6, spatial_merge_size=2, **template)
    if model_type in NEXT:
        from transformers.models.llava_next.image_processing_pil_llava_next import (
            LlavaNextImageProcessorPil,
        )

        pictures = LlavaNextImageProcessorPil(
            size={"shortest_edge": 24},
            crop_size={"height": 24, "width": 24},
            image_grid_pinpoints=FAMILIES[model_type].tiny().image_grid_pinpoints,
        )
        more = {"patch_size": 6, "vision_feature_select_strategy": "default"}
        more |= {"num_additional_image_tokens": 1, **template}
        kind = kind if model_type == "llava_next" else image_only(kind)
        return kind(image_processor=pictures, tokenizer=words, **more)
    if model_type == "internvl":
        from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import (
            GotOcr2ImageProcessorPil,
        )

        pictures = GotOcr2ImageProcessorPil(
            size={"height": 48, "width": 48}, crop_to_patches=True, max_patches=3
        )
        return image_only(kind)(pictures, words, image_seq_length=16, **template)
    pictures = Qwen2VLImageProcessorPil(
        patch_size=4, merge_size=2, temporal_patch_size=2, min_pixels=64, max_pixels=4096
    )
    return image_only(kind)(pictures, words, **template)


PROCESSOR = processor()


@dataclass(frozen=True)
class Prompt:
    words: str
    pictures: int = 1
    videos: int = 0
    system: str = ""

    def text(self, model_type: str) -> str:
        parts = [{"type": "image"}] * self.pictures + [{"type": "video"}] * self.videos
        parts += [{"type": "text", "text": self.words + TAIL}]
        chat = [{"role": "user", "content": parts}]
        if self.system:
            chat.insert(0, {"role": "system", "content": [{"type": "text", "text": self.system}]})
        return tokenizer(model_type).apply_chat_template(
            chat, add_generation_prompt=True, tokenize=False
        )


STAR = Prompt("what color is the star ?")
DOTS = Prompt("where are all of these dots and lines , which letter stands left ?")
BOTH = Prompt("which of the two is red ?", pictures=2)
TALK = Prompt("you see a star . is the star blue ?", pictures=0)
FILM = Prompt("where is the red star ?", pictures=0, videos=1)
FILMS = Prompt("which of these is blue , or red ?", pictures=0, videos=2)
MIXED = Prompt("is the red star one of the dots ?", pictures=1, videos=1)

CASES = {
    "single": (STAR,),
    "padded": (STAR, DOTS),
    "two pictures": (BOTH,),
    "ragged": (BOTH, STAR, DOTS),
    "text beside": (DOTS, TALK),
}
FILM_CASES = {
    "video": (FILM,),
    "videos beside text": (FILMS, TALK, FILM),
    "pictures and videos": (MIXED, STAR, FILM),
}


def cases(model_type: str) -> dict[str, tuple[Prompt, ...]]:
    return CASES | FILM_CASES if model_type in WITH_VIDEO else CASES


def tiles_of(number: int) -> int:
    """Of how many tiles the picture so and so of a prompt is, where a family cuts pictures up."""
    return 2 - number % 2


def media(model_type: str, prompt: Prompt, seed: int = 0) -> dict[str, list[torch.Tensor]]:
    """A prompt's pictures and videos as the model takes them, the same in any batch."""

    def noise(*shape: int, number: int) -> torch.Tensor:
        start = seed + 10 * len(prompt.words) + number
        return torch.randn(*shape, generator=torch.Generator().manual_seed(start))

    found: dict[str, list[torch.Tensor]] = {}

    def add(**values: torch.Tensor) -> None:
        for name, value in values.items():
            found.setdefault(name, []).append(value)

    for i in range(prompt.pictures if model_type not in IDEFICS else 0):
        if model_type in QWEN:  # of two sizes: 8 x 8 and 4 x 12 patches
            grid = torch.tensor([1, 4, 12] if i % 2 else [1, 8, 8])
            add(pixel_values=noise(int(grid.prod()), 96, number=i), image_grid_thw=grid[None])
        elif model_type == "mistral3":  # 4 x 4 and 2 x 6 cells
            size = torch.tensor([[24, 72] if i % 2 else [48, 48]])
            add(pixel_values=noise(1, 3, 48, 72, number=i), image_sizes=size)
        elif model_type in NEXT:  # three tiles: the whole, and two in large
            pixels = noise(1, 3, 3, 24, 24, number=i)
            add(pixel_values=pixels, image_sizes=torch.tensor([[24, 40] if i % 2 else [40, 20]]))
        elif model_type == "internvl":
            add(pixel_values=noise(tiles_of(i), 3, 48, 48, number=i))
        elif model_type == "llava_onevision":
            size = torch.tensor([[24, 40] if i % 2 else [30, 20]])
            tiles = 3 if prompt.pictures == 1 else 1  # one picture alone is shown in large, too
            pixels = torch.zeros(1, 3, 3, 24, 24)
            pixels[:, :tiles] = noise(1, tiles, 3, 24, 24, number=i)
            add(pixel_values=pixels, image_sizes=size)
        else:
            name = "pixel_values" if model_type == "llava" else "pixel_values_images"
            add(**{name: noise(1, 3, 24, 24, number=i)})
    if model_type in IDEFICS:  # a row for each prompt, filled up with empty tiles
        tiles = [noise(tiles_of(i), 3, 48, 48, number=i) for i in range(prompt.pictures)]
        shown = torch.cat([*tiles, torch.zeros(4, 3, 48, 48)])[:4]
        add(pixel_values=shown[None])
    if model_type == "llava_onevision" and prompt.pictures:
        add(batch_num_images=torch.tensor([prompt.pictures]))
    for i in range(prompt.videos):
        if model_type in QWEN:
            grid = torch.tensor([[2, 8, 4]])
            add(pixel_values_videos=noise(64, 96, number=50 + i), video_grid_thw=grid)
        else:
            frames = 2 if model_type == "video_llava" else 3
            add(pixel_values_videos=noise(1, frames, 3, 24, 24, number=50 + i))
    return found


def ask(*prompts: Prompt, seed: int = 0, model_type: str = "llava") -> dict[str, torch.Tensor]:
    """Inputs of a batch, padded on the left; a prompt has the same pictures in any batch."""
    words, family = tokenizer(model_type), FAMILIES[model_type]
    seen = [media(model_type, prompt, seed) for prompt in prompts]
    names = {name: None for one in seen for name in one}
    pixels = {n: torch.cat([t for one in seen for t in one.get(n, [])]) for n in names}
    if not any(prompt.pictures + prompt.videos for prompt in prompts):
        pixels = {}
    sources = {
        token: iter(_first(blocks, prompts))
        for token, blocks in family.sources(_config(model_type), pixels).items()
        if (token == 4 and any(p.pictures for p in prompts))
        or (token == 5 and any(p.videos for p in prompts))
    }
    rows = []
    for prompt in prompts:
        text = words(prompt.text(model_type), add_special_tokens=False)["input_ids"]
        numbers = {token: count() for token in sources}
        rows.append([i for t in text for i in (_written(model_type, t, sources, numbers) or [t])])
    length = max(map(len, rows))
    ids = torch.tensor([[0] * (length - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    inputs = {"input_ids": ids, "attention_mask": mask, **pixels}
    if model_type in QWEN:
        inputs["mm_token_type_ids"] = (ids == 4).int() + 2 * (ids == 5).int()
    return inputs


def _written(model_type, token, sources, numbers):
    """What the processor puts in the place of one placeholder."""
    if token not in sources:
        return []
    picture, number = next(sources[token]), next(numbers[token])
    size = sum(block.tokens for block in picture)
    if model_type in ("internvl", *IDEFICS):
        tiles = [picture, *(next(sources[token]) for _ in range(tiles_of(number) - 1))]
        if model_type in IDEFICS:
            return [*[6, *[token] * size, 7] * len(tiles), 6]
        return [6, *[token] * size * len(tiles), 7]
    if model_type == "mistral3":  # a mark ends each row
        (block,) = picture
        return [*[*[token] * block.cols, 6] * (block.rows - 1), *[token] * block.cols, 7]
    if model_type not in QWEN3 or token == 4:
        return [token] * size
    (block,) = picture  # each frame under its time, between marks of its own
    words, size = tokenizer(model_type), block.rows * block.cols
    times = [words(f"<{i}.5 seconds>", add_special_tokens=False)["input_ids"] for i in (0, 2)]
    return [i for time in times[: block.frames] for i in (*time, 6, *[token] * size, 7)]


@functools.cache
def _config(model_type: str):
    return FAMILIES[model_type].tiny()


def _first(blocks, prompts):
    """As many as the prompts can need, of a list that may not end."""
    most = 3 * sum(p.pictures + p.videos for p in prompts)
    return [picture for picture, _ in zip(blocks, range(most), strict=False)]
