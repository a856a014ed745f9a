"""The table of published benchmarks: where each lies, what it asks in which words, how it scores.

Hub ids, configurations, splits, columns, prompts and answer lengths are those of lmms-eval 0.7.3
(the harness that the papers' prompts come from), read from its task files. No revision is pinned:
none was known when this was written, and none is made up; give `revision=` to pin one. `size` is
the number of questions: `SEEN` says where it was read, and for those that are not there it is from
our notes of the benchmarks' papers. None was counted on the files, and nothing but costs, the dry
run's "done" and standard errors of the papers' tables rests on it.

`post` is the sentence after the question, per model family; lmms-eval gives all families here the
same one everywhere ("default"). `rows` turns one row of a
file into a sample.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ....families import FAMILIES
from . import rows
from .rows import CHOICE

WORD = "\nAnswer the question using a single word or phrase."
LETTER = "\nAnswer with the option's letter from the given choices directly."
IMAGE_FAMILIES = tuple(FAMILIES)
VIDEO_FAMILIES = tuple(kind for kind, family in FAMILIES.items() if family.frames)

Row = Callable[[Mapping[str, Any], str], dict[str, Any]]


@dataclass(frozen=True)
class Benchmark:
    """One published benchmark: a row of this table.

    name: ours; stands_for: its column in the papers' tables, `tables` those it fills. hub, config,
    splits: where it lies. columns: what a file must have. row(file row, post) -> sample with
    question, answer and what the scorer reads; "id" and "picture" where the file has them, and
    `gold.COLUMNS` where only some answers can be right. metric: key of `SCORERS`. new_tokens: room
    for an answer. size: questions when whole. join: pictures in another configuration: (config, key
    here, key there). keep: rows that belong to it. judge: who reads the answers, where the
    published metric needs someone. note: what differs from the source.
    """

    name: str
    stands_for: str
    tables: tuple[str, ...]
    hub: str
    splits: tuple[str, ...]
    columns: tuple[str, ...]
    row: Row
    metric: str
    new_tokens: int
    size: int
    config: str = ""
    post: Mapping[str, str] = None  # type: ignore[assignment]
    image: str = "image"
    join: tuple[str, str, str] | None = None
    keep: Callable[[Mapping[str, Any]], bool] | None = None
    media: str = "image"
    parts: tuple[str, ...] = ()
    released: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    beside: tuple[str, ...] = ()
    judge: str = ""
    needs: str = ""
    note: str = ""

    @property
    def families(self) -> tuple[str, ...]:
        """The model families that can be asked."""
        return VIDEO_FAMILIES if self.media == "video" else IMAGE_FAMILIES

    def words_after(self, family: str) -> str:
        """The sentence after the question, as the harness gives it to a family."""
        post = self.post or {"default": ""}
        return post.get(family, post["default"])


#: Where the number of questions was read; cards are those of lmms-lab on the hub, where the
#: harness's data lay before.
SEEN = {
    **dict.fromkeys(("gqa", "mme", "scienceqa_img", "ai2d"), "lmms-eval's README, run times"),
    **dict.fromkeys(("textvqa", "textvqa_ocr"), "card: validation, 5000 examples"),
    **dict.fromkeys(("hallusionbench", "hallusionbench_yes_no"), "card: image, 951 rows"),
    "mmmu_val": "card: validation, 900 rows",
    "mmmu_pro_standard": "QViD, Table 11: 1,730 samples",
    "pope": "card, rounded: 9k rows",
    "chartqa": "card, rounded: 2.5k rows",
    "coco2014_cap_val": "card, rounded: val, 40.5k rows",
}

_MAIN = ("1", "2a", "3a", "3b", "4", "5", "6", "7")
_MMMU_COLUMNS = ("id", "question", "options", "answer", "image_1")
_POPE = ("adversarial", "popular", "random")
MME = tuple(
    "existence count position color posters celebrity scene landmark artwork OCR "
    "commonsense_reasoning numerical_calculation text_translation code_reasoning".split()
)
_HALLUSION: dict[str, Any] = {
    "stands_for": "HallusionBench", "tables": ("13", "14"),
    "hub": "lmms-lab-encoder/HallusionBench", "splits": ("image",), "size": 951,
    "columns": ("category", "subcategory", "set_id", "figure_id", "question_id", "question",
                "gt_answer", "gt_answer_details"),
    "row": rows.hallusion, "new_tokens": 128, "beside": ("non_image",),
    "released": {"HallusionBench.json": {}}, "names": {"filename": "image"},
}  # fmt: skip
_WITHOUT = (
    "the 178 questions without a picture are asked where they are there, as by the official code; "
    "lmms-eval leaves them out"
)
_TEXTVQA: dict[str, Any] = {
    "stands_for": "TextVQA", "hub": "lmms-lab-encoder/textvqa", "splits": ("validation",),
    "metric": "vqa", "new_tokens": 16, "size": 5000, "post": {"default": WORD},
}  # fmt: skip

_TABLE = (
    Benchmark(
        "gqa", "GQA", (*_MAIN, "15", "svd_1"), "lmms-lab-encoder/GQA", ("testdev",),
        ("id", "imageId", "question", "answer"), rows.gqa, "exact", 16, 12578,
        config="testdev_balanced_instructions", post={"default": WORD},
        join=("testdev_balanced_images", "imageId", "id"),
    ),
    Benchmark(
        "scienceqa_img", "SQA", _MAIN, "lmms-lab-encoder/ScienceQA", ("test",),
        ("question", "choices", "answer", "hint"), rows.scienceqa, "scienceqa", 16, 2017,
        config="ScienceQA-IMG", post={"default": LETTER},
    ),
    Benchmark(
        "textvqa", tables=(), columns=("question_id", "question", "answers"), row=rows.textvqa,
        note="without OCR tokens: LLaVA-1.5 has about 46 here, not the tables' 58.2", **_TEXTVQA,
    ),
    Benchmark(
        "textvqa_ocr", tables=(*_MAIN, "15", "svd_1"), row=rows.textvqa_ocr,
        columns=("question_id", "question", "answers", "ocr_tokens"),
        note="with the data set's OCR tokens in the prompt, as LLaVA's 58.2 has them", **_TEXTVQA,
    ),
    Benchmark(
        "pope", "POPE", (*_MAIN, "15"), "lmms-lab-encoder/POPE", ("test",),
        ("question_id", "question", "answer", "category"), rows.pope, "pope_published", 128, 9000,
        post={"default": WORD}, parts=_POPE,
        released={f"coco_pope_{part}.json": {"category": part} for part in _POPE},
        names={"text": "question", "label": "answer"},
    ),
    Benchmark(
        "mme", "MME", (*_MAIN, "15"), "lmms-lab-encoder/MME", ("test",),
        ("question_id", "question", "answer", "category"), rows.mme, "mme_published", 16, 2374,
        post={"default": WORD}, parts=MME,
    ),
    Benchmark(
        "mmbench_en_dev", "MMB", ("1", "2a", "5"), "lmms-lab-encoder/MMBench", ("dev",),
        ("index", "question", "hint", "answer", "A", "B"), rows.mmbench, "mmbench", 1024, 4329,
        config="en", post={"default": LETTER},
        judge="optional: without one, what MMBench's tool cannot match is read statically",
        note="absent options written 'nan' are dropped; the question's judge prompt is shortened",
    ),
    Benchmark(
        "ai2d", "AI2D", ("2a", "4", "5", "10"), "lmms-lab-encoder/ai2d", ("test",),
        ("question", "options", "answer"), rows.ai2d, "ai2d", 16, 3088, post={"default": LETTER},
    ),
    Benchmark(
        "chartqa", "ChartQA", ("10",), "lmms-lab-encoder/ChartQA", ("test",),
        ("type", "question", "answer"), rows.chartqa, "chartqa", 16, 2500,
        post={"default": "\nAnswer the question with a single word."}, parts=("human", "augmented"),
    ),
    Benchmark(
        "mmmu_val", "MMMU", ("10",), "lmms-lab-encoder/MMMU", ("validation",),
        (*_MMMU_COLUMNS, "question_type"), rows.mmmu, "mmmu", 128, 900, post={"default": CHOICE},
        image="", note="pictures stand before the text; an unreadable choice is worth 1/k",
    ),
    Benchmark(
        "ocrbench", "OCRBench", ("10",), "echo840/OCRBench", ("test",),
        ("dataset", "question", "question_type", "answer"), rows.ocrbench, "ocrbench", 128, 1000,
    ),
    Benchmark(
        "seedbench_image", "SEEDBench", ("10",), "lmms-lab-encoder/SEED-Bench", ("test",),
        ("question_id", "data_type", "question", "choice_a", "choice_b", "choice_c", "choice_d",
         "answer"), rows.seedbench, "seedbench", 16, 14233, post={"default": LETTER},
        keep=lambda doc: doc["data_type"] == "image",
    ),
    Benchmark(
        "mmmu_pro_standard", "MMMU-Pro", ("11",), "MMMU/MMMU_Pro", ("test",),
        _MMMU_COLUMNS, rows.mmmu_pro, "mmmu", 256, 1730, config="standard (10 options)", image="",
        post={"default": "Answer with the option letter from the given choices directly."},
        note="pictures stand before the text; an unreadable choice is worth 1/k",
    ),
    Benchmark(
        "hallusionbench", metric="hallusion", judge="needed: GPT-4 in the published numbers",
        note=f"the judge's prompt is shortened; {_WITHOUT}", **_HALLUSION,
    ),
    Benchmark(
        "hallusionbench_yes_no", metric="hallusion_words",
        note=f"read by the word yes, without a judge: not the published metric; {_WITHOUT}",
        **_HALLUSION,
    ),
    Benchmark(
        "coco2014_cap_val", "COCO", ("13", "14"), "lmms-lab-encoder/COCO-Caption", ("val",),
        ("question_id", "answer"), rows.caption, "cider", 64, 40504, needs="caption",
    ),
    Benchmark(
        "mvbench", "MVBench", ("2b", "12"), "OpenGVLab/MVBench",
        tuple(
            "action_antonym action_count action_localization action_prediction action_sequence "
            "character_order counterfactual_inference egocentric_navigation episodic_reasoning "
            "fine_grained_action fine_grained_pose moving_attribute moving_count moving_direction "
            "object_existence object_interaction object_shuffle scene_transition state_change "
            "unexpected_action".split()
        ),
        ("video", "question", "candidates", "answer"), rows.mvbench, "mvbench", 16, 4000,
        config="json", post={"default": "Only give the best option.\n"}, media="video",
        image="video",
        note="the mean over the tasks; an empty answer is wrong here, and left out by lmms-eval, "
        "which reads the hub's revision `video`; whole videos are cut to start and end",
    ),
    Benchmark(
        "videomme", "VideoMME", ("2b", "12"), "lmms-eval/Video-MME", ("test",),
        ("question_id", "videoID", "duration", "question", "options", "answer"), rows.videomme,
        "videomme", 16, 2700, config="videomme", media="video", image="videoID",
        post={"default": LETTER}, parts=("short", "medium", "long"), note="without subtitles",
    ),
)  # fmt: skip
BENCHMARKS: dict[str, Benchmark] = {entry.name: entry for entry in _TABLE}
