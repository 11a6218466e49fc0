"""Name tables of latent diffusion: the networks of ``diffusers``, and CLIP's text.

Names are those of ``UNet2DConditionModel`` and ``AutoencoderKL`` (diffusers 0.42) and
``CLIPTextModel`` (transformers). Two spellings of some are in use: dense layers around
transformers as matrices or as convolutions of one pixel, the autoencoder's attention
with the names of a convolution's days, and CLIP with or without ``text_model.``.
"""

from medjax.weights.names import (
    Rule,
    Table,
    conv,
    dense,
    layer_norm,
    pointwise,
)


def unet(*, linear: bool) -> Table:
    """``UNet2DConditionModel``, for :class:`medjax.nn.diffusion.unet.UNet`.

    Args:
        linear: Whether the layers around transformers are kept as matrices
            (``use_linear_projection``), or as convolutions of one pixel.
    """
    down, up = "down_blocks.{i}", "up_blocks.{i}"
    return Table(
        rules=(
            *conv("conv_in", "conv_in"),
            *dense("time_embedding.linear_1", "time_1"),
            *dense("time_embedding.linear_2", "time_2"),
            *_residual(f"{down}.resnets.{{j}}", "down_{i}_residual_{j}"),
            *_transformer(
                f"{down}.attentions.{{j}}", "down_{i}_transformer_{j}", linear
            ),
            *conv(f"{down}.downsamplers.0.conv", "down_{i}_halve"),
            *_residual("mid_block.resnets.{j}", "middle_residual_{j}"),
            *_transformer("mid_block.attentions.{j}", "middle_transformer_{j}", linear),
            *_residual(f"{up}.resnets.{{j}}", "up_{i}_residual_{j}"),
            *_transformer(f"{up}.attentions.{{j}}", "up_{i}_transformer_{j}", linear),
            *conv(f"{up}.upsamplers.0.conv", "up_{i}_double/conv"),
            *layer_norm("conv_norm_out", "norm"),
            *conv("conv_out", "conv_out"),
        ),
        name="UNet2DConditionModel",
    )


def _residual(torch: str, flax: str) -> tuple[Rule, ...]:
    return (
        *layer_norm(f"{torch}.norm1", f"{flax}/norm1"),
        *conv(f"{torch}.conv1", f"{flax}/conv1"),
        *dense(f"{torch}.time_emb_proj", f"{flax}/time"),
        *layer_norm(f"{torch}.norm2", f"{flax}/norm2"),
        *conv(f"{torch}.conv2", f"{flax}/conv2"),
        *pointwise(f"{torch}.conv_shortcut", f"{flax}/shortcut"),
    )


def _transformer(torch: str, flax: str, linear: bool) -> tuple[Rule, ...]:
    around = dense if linear else pointwise
    theirs, ours = f"{torch}.transformer_blocks.{{k}}", f"{flax}/block_{{k}}"
    rules = [
        *layer_norm(f"{torch}.norm", f"{flax}/norm"),
        *around(f"{torch}.proj_in", f"{flax}/enter"),
        *around(f"{torch}.proj_out", f"{flax}/leave"),
        *dense(f"{theirs}.ff.net.0.proj", f"{ours}/up"),
        *dense(f"{theirs}.ff.net.2", f"{ours}/down"),
    ]
    for i in (1, 2, 3):
        rules += layer_norm(f"{theirs}.norm{i}", f"{ours}/norm{i}")
    for attention, name in (("attn1", "self"), ("attn2", "cross")):
        rules += _attention(f"{theirs}.{attention}", f"{ours}/{name}")
    return tuple(rules)


def _attention(torch: str, flax: str) -> tuple[Rule, ...]:
    return (
        *dense(f"{torch}.to_q", f"{flax}/query"),
        *dense(f"{torch}.to_k", f"{flax}/key"),
        *dense(f"{torch}.to_v", f"{flax}/value"),
        *dense(f"{torch}.to_out.0", f"{flax}/output"),
    )


def _half(name: str) -> tuple[Rule, ...]:
    """The encoder or the decoder."""
    attention, ours = f"{name}.mid_block.attentions.0", f"{name}/middle_attention"
    down, up = f"{name}.down_blocks.{{i}}", f"{name}.up_blocks.{{i}}"
    return (
        *conv(f"{name}.conv_in", f"{name}/conv_in"),
        *_residual(
            f"{name}.down_blocks.{{i}}.resnets.{{j}}",
            f"{name}/down_{{i}}_residual_{{j}}",
        ),
        *conv(f"{down}.downsamplers.0.conv", f"{name}/down_{{i}}_halve"),
        *_residual(f"{name}.mid_block.resnets.{{j}}", f"{name}/middle_residual_{{j}}"),
        *layer_norm(f"{attention}.group_norm", f"{ours}/norm"),
        *_attention(attention, f"{ours}/attention"),
        *_residual(f"{up}.resnets.{{j}}", f"{name}/up_{{i}}_residual_{{j}}"),
        *conv(f"{up}.upsamplers.0.conv", f"{name}/up_{{i}}_double/conv"),
        *layer_norm(f"{name}.conv_norm_out", f"{name}/norm"),
        *conv(f"{name}.conv_out", f"{name}/conv_out"),
    )


AUTOENCODER = Table(
    rules=(
        *_half("encoder"),
        *_half("decoder"),
        *pointwise("quant_conv", "quant"),
        *pointwise("post_quant_conv", "post_quant"),
    ),
    renamed=tuple(
        (rf"(attentions\.0)\.{old}\.", rf"\1.{new}.")
        for old, new in (
            ("query", "to_q"),
            ("key", "to_k"),
            ("value", "to_v"),
            ("proj_attn", "to_out.0"),
        )
    ),
    name="AutoencoderKL",
)
"""``AutoencoderKL``, for :class:`medjax.nn.diffusion.autoencoder.Autoencoder`."""

_LAYER = "text_model.encoder.layers.{i}"
CLIP_TEXT = Table(
    rules=(
        Rule("text_model.embeddings.token_embedding.weight", "params/tokens/embedding"),
        Rule("text_model.embeddings.position_embedding.weight", "params/positions"),
        *layer_norm(f"{_LAYER}.layer_norm1", "layer_{i}/norm1"),
        *dense(f"{_LAYER}.self_attn.q_proj", "layer_{i}/attention/query"),
        *dense(f"{_LAYER}.self_attn.k_proj", "layer_{i}/attention/key"),
        *dense(f"{_LAYER}.self_attn.v_proj", "layer_{i}/attention/value"),
        *dense(f"{_LAYER}.self_attn.out_proj", "layer_{i}/attention/output"),
        *layer_norm(f"{_LAYER}.layer_norm2", "layer_{i}/norm2"),
        *dense(f"{_LAYER}.mlp.fc1", "layer_{i}/mlp/up"),
        *dense(f"{_LAYER}.mlp.fc2", "layer_{i}/mlp/down"),
        *layer_norm("text_model.final_layer_norm", "norm"),
    ),
    renamed=((r"^(?=embeddings\.|encoder\.|final_layer_norm\.)", "text_model."),),
    silent=(r"text_model\.embeddings\.position_ids",),
    optional=(r"text_projection\..*", r"logit_scale", r"visual_projection\..*"),
    name="CLIPTextModel",
)
"""``CLIPTextModel``, for :class:`medjax.nn.diffusion.clip_text.ClipText`."""
