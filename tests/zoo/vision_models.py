"""Image models of `transformers`."""

from __future__ import annotations

import transformers as hf

from tests.zoo.case import Zoo
from tests.zoo.sizes import IMAGE, VIT

MODELS = Zoo()


MODELS.add("vit", lambda: hf.ViTForImageClassification(hf.ViTConfig(**VIT)), IMAGE)
MODELS.add("deit", lambda: hf.DeiTForImageClassificationWithTeacher(hf.DeiTConfig(**VIT)), IMAGE)
MODELS.add(
    "beit",
    lambda: hf.BeitForImageClassification(hf.BeitConfig(**VIT, use_relative_position_bias=True)),
    IMAGE,
    inexact="an attention mask that hides nothing is left out, but not when it is traced",
)
MODELS.add("dinov2", lambda: hf.Dinov2Model(hf.Dinov2Config(**VIT)), IMAGE)
MODELS.add(
    "swin",
    lambda: hf.SwinForImageClassification(
        hf.SwinConfig(
            image_size=32,
            patch_size=4,
            embed_dim=16,
            depths=[2, 2],
            num_heads=[2, 4],
            window_size=4,
        )
    ),
    IMAGE,
)
MODELS.add(
    "convnext",
    lambda: hf.ConvNextForImageClassification(
        hf.ConvNextConfig(depths=[2, 2], hidden_sizes=[16, 32], num_stages=2)
    ),
    IMAGE,
)
MODELS.add(
    "convnext_v2",
    lambda: hf.ConvNextV2ForImageClassification(
        hf.ConvNextV2Config(depths=[2, 2], hidden_sizes=[16, 32], num_stages=2)
    ),
    IMAGE,
)
MODELS.add(
    "resnet",
    lambda: hf.ResNetForImageClassification(
        hf.ResNetConfig(
            embedding_size=16, hidden_sizes=[16, 32], depths=[2, 2], layer_type="bottleneck"
        )
    ),
    IMAGE,
)
MODELS.add(
    "regnet",
    lambda: hf.RegNetForImageClassification(
        hf.RegNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[2, 2], groups_width=8)
    ),
    IMAGE,
)
MODELS.add(
    "mobilenet_v1",
    lambda: hf.MobileNetV1ForImageClassification(
        hf.MobileNetV1Config(image_size=32, depth_multiplier=0.25)
    ),
    IMAGE,
)
MODELS.add(
    "mobilenet_v2",
    lambda: hf.MobileNetV2ForImageClassification(
        hf.MobileNetV2Config(image_size=32, depth_multiplier=0.25)
    ),
    IMAGE,
)
MODELS.add(
    "efficientnet",
    lambda: hf.EfficientNetForImageClassification(
        hf.EfficientNetConfig(
            image_size=32, width_coefficient=0.25, depth_coefficient=0.3, hidden_dim=320
        )
    ),
    IMAGE,
)
MODELS.add(
    "segformer",
    lambda: hf.SegformerForSemanticSegmentation(
        hf.SegformerConfig(
            depths=[1, 1],
            num_encoder_blocks=2,
            hidden_sizes=[16, 32],
            num_attention_heads=[1, 2],
            sr_ratios=[4, 2],
            patch_sizes=[7, 3],
            strides=[4, 2],
            mlp_ratios=[2, 2],
            decoder_hidden_size=16,
        )
    ),
    IMAGE,
)
MODELS.add(
    "mobilevit",
    lambda: hf.MobileViTForImageClassification(
        hf.MobileViTConfig(
            image_size=64,
            hidden_sizes=[16, 24, 32],
            neck_hidden_sizes=[8, 8, 16, 16, 24, 32, 48],
            num_attention_heads=2,
        )
    ),
    {"pixel_values": "f32[b,3,64,64]"},
)
MODELS.add(
    "detr",
    lambda: hf.DetrForObjectDetection(
        hf.DetrConfig(
            use_timm_backbone=False,
            backbone_config=hf.ResNetConfig(
                embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], out_features=["stage2"]
            ),
            d_model=32,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=48,
            decoder_ffn_dim=48,
            num_queries=7,
            use_pretrained_backbone=False,
            backbone=None,
        )
    ),
    {"pixel_values": "f32[b,3,64,64]"},
)
MODELS.add(
    "levit",
    lambda: hf.LevitForImageClassification(
        hf.LevitConfig(
            image_size=64,
            hidden_sizes=[16, 24, 32],
            num_attention_heads=[2, 2, 2],
            depths=[1, 1, 1],
            key_dim=[8, 8, 8],
        )
    ),
    {"pixel_values": "f32[b,3,64,64]"},
)
MODELS.add(
    "poolformer",
    lambda: hf.PoolFormerForImageClassification(
        hf.PoolFormerConfig(depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 16, 24])
    ),
    {"pixel_values": "f32[b,3,64,64]"},
)
MODELS.add(
    "dpt",
    lambda: hf.DPTForDepthEstimation(
        hf.DPTConfig(
            **{**VIT, "num_hidden_layers": 4},
            backbone_out_indices=[0, 1, 2, 3],
            neck_hidden_sizes=[8, 8, 16, 16],
            fusion_hidden_size=16,
        )
    ),
    IMAGE,
)
