"""Sentences that ask for a form of answer and say nothing about the picture; query="content" leaves
them out."""

# (sentence, where it is appended)
ANSWER_FORMAT = (
    (
        "Answer the question using a single word or phrase.",
        "lmms-eval: GQA, POPE, MME, TextVQA, VQAv2; LLaVA-1.5's evaluation scripts",
    ),
    (
        "When the provided information is insufficient, respond with 'Unanswerable'.\n"
        "Answer the question using a single word or phrase.",
        "lmms-eval: VizWiz",
    ),
    (
        "Answer with the option's letter from the given choices directly.",
        "lmms-eval: ScienceQA, MMBench; LLaVA-1.5's evaluation scripts",
    ),
    (
        "Answer with the option letter from the given choices directly.",
        "lmms-eval: MMMU-Pro standard",
    ),
    ("Answer the question with a single word.", "lmms-eval: ChartQA"),
    ("Only give the best option.", "lmms-eval: MVBench"),
    ("Answer the question with A, B, C, or D.", "lmms-eval: Video-MME"),
    ("Please answer yes or no.", "MME: the end of each question of the data set itself"),
    ("Answer the question using a single word.", "the embedded world"),
    ("answer the question using a single word .", "the embedded world, as its tokens are spaced"),
)
