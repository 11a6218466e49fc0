"""Name tables of published reconstructions: fastMRI's U-Net and VarNet, PromptMR.

Their images have phase encoding along the width, ours along the height: ``turned``
kernels are transposed on the way. A table of one block (a U-Net, a cascade's network)
reads the block's own names, which :func:`medjax.weights.part` cuts out of a whole.

Names are those of ``facebookresearch/fastMRI`` (``fastmri/models``) and
``hellopipu/PromptMR`` (``models/promptmr.py``).
"""

from medjax.weights.names import Layout, Rule, Table

LEVELS = range(3)
"""Of a prompt U-Net; theirs are counted from one."""


def fastmri_unet(*, pools: int, turned: bool = True, under: str = "") -> Table:
    """``fastmri.models.Unet``, for :func:`medjax.nn.unet.fastmri` of as many poolings.

    Args:
        pools: Of the U-Net.
        under: Where it is a part of ours: its path, such as ``"unet/"``.
        turned: Whether their width is our height.
    """
    return Table(
        rules=_unet(pools, "", under, turned),
        renamed=((r"^unet\.", ""),),
        name="fastMRI U-Net",
    )


def fastmri_varnet(*, pools: int, sens_pools: int, turned: bool = True) -> Table:
    """``fastmri.models.VarNet``, for :class:`medjax.mri.varnet.VarNet`.

    Args:
        pools: Of the cascades' U-Nets.
        sens_pools: Of the map estimator's.
        turned: Whether their width is our height.
    """
    return Table(
        rules=(
            *_unet(
                sens_pools,
                "sens_net.norm_unet.unet.",
                "sens_net/norm_unet/unet/",
                turned,
            ),
            *_unet(
                pools,
                "cascades.{c}.model.unet.",
                "cascades/norm_unet/unet/",
                turned,
                stacked="c",
            ),
            Rule("cascades.{c}.dc_weight", "params/cascades/dc_weight", "same", "c"),
        ),
        renamed=((r"^varnet\.", ""),),
        silent=(r"loss\..*",),
        name="fastMRI VarNet",
    )


def prompt_unet(*, turned: bool = True) -> Table:
    """``PromptUnet`` of PromptMR, for :class:`medjax.mri.promptmr.PromptUNet`."""
    return Table(rules=_prompt_unet("", "", turned), name="PromptUnet")


def promptmr(*, turned: bool = True) -> Table:
    """``PromptMR``, for :class:`medjax.mri.promptmr.PromptMR`.

    There all blocks of a network share the slope of one PReLU but the first; here each
    has its own. Weights come over exactly; the way back is exact as long as those
    slopes are alike, since the last one read is every block's there.
    """
    return Table(
        rules=(
            *_prompt_unet("sens_net.norm_unet.unet.", "sens_net/unet/", turned),
            *_prompt_unet(
                "cascades.{c}.model.unet.",
                "cascades/network/unet/",
                turned,
                stacked="c",
            ),
            Rule("cascades.{c}.dc_weight", "params/cascades/dc_weight", "same", "c"),
        ),
        renamed=((r"^promptmr\.", ""),),
        silent=(r"loss\..*",),
        name="PromptMR",
    )


def _unet(
    pools: int, torch: str, flax: str, turned: bool, *, stacked: str = ""
) -> tuple[Rule, ...]:
    """A U-Net under prefixes; the last level of theirs is wrapped with the head."""
    conv: Layout = "conv_turned" if turned else "conv"
    up: Layout = "up_turned" if turned else "up"
    blocks = {f"down_sample_layers.{i}": f"down_{i}" for i in range(pools)}
    blocks["conv"] = f"down_{pools}"
    for i in range(pools):
        inner = ".0" if i == pools - 1 else ""
        blocks[f"up_conv.{i}{inner}"] = f"up_{i}/block"
    rules = [
        Rule(
            f"{torch}{theirs}.layers.{4 * k}.weight",
            f"params/{flax}{ours}/conv_{k}/kernel",
            conv,
            stacked,
        )
        for theirs, ours in blocks.items()
        for k in (0, 1)
    ]
    rules += [
        Rule(
            f"{torch}up_transpose_conv.{i}.layers.0.weight",
            f"params/{flax}up_{i}/up/kernel",
            up,
            stacked,
        )
        for i in range(pools)
    ]
    head = f"{torch}up_conv.{pools - 1}.1"
    rules += [
        Rule(f"{head}.weight", f"params/{flax}head/kernel", conv, stacked),
        Rule(f"{head}.bias", f"params/{flax}head/bias", "same", stacked),
    ]
    return tuple(rules)


def _prompt_unet(
    torch: str, flax: str, turned: bool, *, stacked: str = ""
) -> tuple[Rule, ...]:
    conv: Layout = "conv_turned" if turned else "conv"
    rules: list[Rule] = []

    def add(theirs: str, ours: str, layout: Layout) -> None:
        rules.append(Rule(f"{torch}{theirs}", f"params/{flax}{ours}", layout, stacked))

    def block(theirs: str, ours: str) -> None:
        """A channel-attention block."""
        add(f"{theirs}.body.0.weight", f"{ours}/conv_0/kernel", conv)
        add(f"{theirs}.body.1.weight", f"{ours}/slope", "scalar")
        add(f"{theirs}.body.2.weight", f"{ours}/conv_1/kernel", conv)
        add(f"{theirs}.CA.conv_du.0.weight", f"{ours}/squeeze/kernel", conv)
        add(f"{theirs}.CA.conv_du.2.weight", f"{ours}/excite/kernel", conv)

    add("feat_extract.weight", "embed/kernel", conv)
    add("conv_last.weight", "head/kernel", conv)
    block("bottleneck.{j}", "bottleneck_{j}")
    for i in LEVELS:
        level = i + 1
        block(f"enc_level{level}.encoder.{{j}}", f"encoder_{i}_{{j}}")
        add(f"enc_level{level}.down.weight", f"down_{i}/kernel", conv)
        add(f"enc_level{level}.down.bias", f"down_{i}/bias", "same")
        block(f"skip_attn{level}.skip_attn.{{j}}", f"skip_{i}_{{j}}")
        prompt = f"prompt_level{level}"
        add(
            f"{prompt}.prompt_param",
            f"prompt_{i}/patterns",
            "prompt_turned" if turned else "prompt",
        )
        add(f"{prompt}.linear_layer.weight", f"prompt_{i}/mixer/kernel", "dense")
        add(f"{prompt}.linear_layer.bias", f"prompt_{i}/mixer/bias", "same")
        add(f"{prompt}.dec_conv3x3.weight", f"prompt_{i}/conv/kernel", conv)
        block(f"dec_level{level}.fuse.{{j}}", f"decoder_{i}_{{j}}")
        add(f"dec_level{level}.reduce.weight", f"reduce_{i}/kernel", conv)
        add(f"dec_level{level}.up.1.weight", f"up_{i}/kernel", conv)
        block(f"dec_level{level}.ca", f"fused_{i}_0")
    return tuple(rules)
