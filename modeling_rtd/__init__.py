"""Zero-shot composed image retrieval with transformers: everything needed to use a model."""

from transformers import AutoConfig, AutoModel, AutoProcessor
from transformers.pipelines import PIPELINE_REGISTRY

from modeling_rtd.configuration_rtd import (
    OPEN_CLIP_CONFIG,
    PLACEHOLDER,
    RTDConfig,
    RTDMetaClip2TextConfig,
    RTDProjectionConfig,
    RTDSiglipTextConfig,
    RTDTextConfig,
    name_family,
    read_backbone_config,
    refuse_outside,
)
from modeling_rtd.conversion_open_clip_rtd import convert_open_clip
from modeling_rtd.conversion_rtd import CHECKPOINT_FORMATS, convert_checkpoint, read_checkpoint
from modeling_rtd.errors_rtd import check_path, settle_place, suggest, word_pickle
from modeling_rtd.files_rtd import (
    hold_lock_file,
    is_utf8,
    name_damage,
    parse_json,
    read_array,
    read_json,
    replace_file,
    replace_folder,
    write_json,
)
from modeling_rtd.gallery_encoding_rtd import encode_batches, encode_images
from modeling_rtd.gallery_folder_rtd import settle_ids
from modeling_rtd.gallery_rtd import Gallery
from modeling_rtd.images_rtd import IMAGE_FORMATS, MAX_PIXELS, is_url, open_image
from modeling_rtd.modeling_adapters_rtd import ADAPTER_FACTS, find_inexact, has_adapters
from modeling_rtd.modeling_backbones_rtd import load_text_model
from modeling_rtd.modeling_rtd import SENTENCE_TRANSFORMERS_FILES, RTDModel, RTDOutput
from modeling_rtd.modeling_text_rtd import (
    RTDSiglipTextModel,
    RTDTextModel,
    RTDTextOutput,
    RTDTextTower,
    hash_tensors,
)
from modeling_rtd.pipeline_rtd import CUSTOM_PIPELINES, TASK, ComposedImageRetrievalPipeline, TaskWithoutDefault
from modeling_rtd.processing_rtd import RTDProcessor
from modeling_rtd.projection_auto_rtd import PROJECTIONS, build_projection, load_projection, register_projection
from modeling_rtd.projection_context_i2w_rtd import ContextI2WProjection
from modeling_rtd.projection_fti4cir_rtd import FTI4CIRProjection
from modeling_rtd.projection_lincir_rtd import LinCIRProjection
from modeling_rtd.projection_pic2word_rtd import Pic2WordProjection
from modeling_rtd.projection_rtd import Paper, RTDProjection
from modeling_rtd.projection_searle_rtd import SEARLEProjection
from modeling_rtd.query_rtd import (
    NEGATIVE_WEIGHT,
    QUERY_ENTRIES,
    Query,
    encode_composed,
    exclude_text,
    join_references,
    list_excluded,
    measure_edits,
    name_image,
    read_query,
    weigh_condition,
)


__all__ = [
    "ADAPTER_FACTS",
    "CHECKPOINT_FORMATS",
    "CUSTOM_PIPELINES",
    "IMAGE_FORMATS",
    "MAX_PIXELS",
    "NEGATIVE_WEIGHT",
    "OPEN_CLIP_CONFIG",
    "PLACEHOLDER",
    "PROJECTIONS",
    "QUERY_ENTRIES",
    "SENTENCE_TRANSFORMERS_FILES",
    "ComposedImageRetrievalPipeline",
    "ContextI2WProjection",
    "FTI4CIRProjection",
    "Gallery",
    "LinCIRProjection",
    "Paper",
    "Pic2WordProjection",
    "Query",
    "RTDConfig",
    "RTDMetaClip2TextConfig",
    "RTDModel",
    "RTDOutput",
    "RTDProcessor",
    "RTDProjection",
    "RTDProjectionConfig",
    "RTDSiglipTextConfig",
    "RTDSiglipTextModel",
    "RTDTextConfig",
    "RTDTextModel",
    "RTDTextOutput",
    "RTDTextTower",
    "SEARLEProjection",
    "build_projection",
    "check_path",
    "convert_checkpoint",
    "convert_open_clip",
    "encode_batches",
    "encode_composed",
    "encode_images",
    "exclude_text",
    "find_inexact",
    "has_adapters",
    "hash_tensors",
    "hold_lock_file",
    "is_url",
    "is_utf8",
    "join_references",
    "list_excluded",
    "load_projection",
    "load_text_model",
    "measure_edits",
    "name_damage",
    "name_family",
    "name_image",
    "open_image",
    "parse_json",
    "read_array",
    "read_backbone_config",
    "read_checkpoint",
    "read_json",
    "read_query",
    "refuse_outside",
    "register_projection",
    "replace_file",
    "replace_folder",
    "settle_ids",
    "settle_place",
    "suggest",
    "weigh_condition",
    "word_pickle",
    "write_json",
]

AutoConfig.register(RTDConfig.model_type, RTDConfig, exist_ok=True)
AutoModel.register(RTDConfig, RTDModel, exist_ok=True)
AutoProcessor.register(RTDConfig, RTDProcessor, exist_ok=True)
PIPELINE_REGISTRY.register_pipeline(TASK, ComposedImageRetrievalPipeline, pt_model=AutoModel)
# transformers asks the entry for a default where no model is named, and would end in a KeyError.
PIPELINE_REGISTRY.supported_tasks[TASK] = TaskWithoutDefault(PIPELINE_REGISTRY.supported_tasks[TASK])
# Saving copies this package's files beside the weights, so that the Hub serves them to those who lack it.
RTDConfig.register_for_auto_class()
RTDModel.register_for_auto_class("AutoModel")
RTDProcessor.register_for_auto_class("AutoProcessor")
