"""All image-text-to-text model types of the installed transformers: carried, refused, unknown."""

import filecmp

import pytest
from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from qvid_utils.families import FAMILIES
from qvid_utils.families.refused import REASONS, REFUSED
from qvid_utils.paths import figures_dir
from qvid_utils.workbook.tables import families, schema

TYPES = sorted(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)
# Nobody has looked at these: a new version of transformers adds to them, and a family, or a line in
# families/refused.py, takes one away.
UNKNOWN = """
    aria blip-2 cohere_compass cosmos3_edge cosmos3_omni deepseek_ocr2 deepseek_vl
    deepseek_vl_hybrid diffusion_gemma ernie4_5_vl_moe fast_vlm fuyu glm46v glm4v glm4v_moe glm_ocr
    glmga got_ocr2 granite4_vision granite_docling hunyuan_vl hyperclovax_vision_v2 instructblip
    instructblipvideo janus kimi_k25 kosmos-2 kosmos-2.5 lighton_ocr minimax_m3_vl mistral4
    mistral_large4 molmo2 ovis2 paddleocr_vl perception_lm pp_chart2table qianfan_ocr
    qwen2_5_omni_thinker qwen3_omni_moe_thinker qwen4_exp step3p7 video_llama_3 vipllava
""".split()


def test_every_type_is_carried_refused_with_a_reason_or_named_as_unknown():
    found = families.sorted_types(TYPES)
    assert sum(map(len, found.values())) == len(TYPES) >= 80
    assert set(FAMILIES) <= set(found["carried"]) and not set(FAMILIES) & set(REFUSED)
    assert set(found["unknown"]) <= set(UNKNOWN)
    assert not set(UNKNOWN) & {*FAMILIES, *REFUSED}
    assert all(why[0].islower() and len(why) > 30 for why in REFUSED.values())


def shown_by(kind):
    """Which of the reasons show in a type's default configuration; None where it has none."""
    try:
        config = CONFIG_MAPPING[kind]()
        text = config.get_text_config()
    except Exception:  # some types need parts that are not named by default
        return None
    kinds = " ".join(getattr(text, "layer_types", None) or ())
    across = [getattr(c, "is_encoder_decoder", False) for c in (config, text)]
    across += [hasattr(text, "cross_attention_layers"), not hasattr(config, "image_token_id")]
    found = {
        "window": "sliding" in kinds or "chunked" in kinds or getattr(text, "sliding_window", None),
        "state": hasattr(text, "conv_L_cache")
        or any(word in kinds for word in ("linear", "conv", "hybrid")),
        "across": any(across),
    }
    return {name for name, shows in found.items() if shows}


@pytest.mark.parametrize("kind", sorted(set(REFUSED) & set(TYPES)))
def test_the_reason_shows_in_the_types_own_configuration(kind):
    (reason,) = (name for name, (_, kinds) in REASONS.items() if kind in kinds)
    seen = shown_by(kind)
    assert seen is None or reason in ("codes", "both directions") or reason in seen


def test_the_stored_table_is_current(tmp_path, monkeypatch):
    monkeypatch.setattr(schema, "figures_dir", lambda profile: tmp_path)
    families.store("tiny")
    for ending in ("md", "csv", "tex"):
        stored = figures_dir("tiny") / f"families.{ending}"
        assert filecmp.cmp(stored, tmp_path / f"families.{ending}", shallow=False), (
            "a family or a method has changed: run python -m qvid_utils figures --only 02"
        )
