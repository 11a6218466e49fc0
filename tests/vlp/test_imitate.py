"""IMITATE: the loss against its formula in NumPy, the parts against PyTorch."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from medjax.nn.pooling import adaptive_pooling_matrix
from medjax.train.collectives import read_collectives
from medjax.train.mesh import MeshConfig, make_mesh
from medjax.vlp.aggregation import (
    GRID,
    HierarchicalAggregator,
    channel_tokens,
)
from medjax.vlp.contrastive import ContrastConfig, normalise
from medjax.vlp.imitate import (
    CONFIGS,
    SECTIONS,
    Compared,
    Imitate,
    ImitateConfig,
    Seen,
    findings_weight,
    imitate,
    imitate_loss,
)
from medjax.vlp.system import project
from medjax.vlp.towers import ImageTowerConfig, TextTowerConfig
from tests.experiments.traffic import QUICK

N, D, P = 12, 8, 16


def unit(rng, *shape):
    x = rng.normal(size=shape)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def compared(seed=0) -> Compared:
    rng = np.random.default_rng(seed)
    f32 = lambda x: jnp.asarray(x, jnp.float32)  # noqa: E731
    pair = lambda: (f32(unit(rng, N, D)), f32(unit(rng, N, D)))  # noqa: E731
    sections = ("findings", "impression")
    return Compared(
        diagnosis=pair(),
        reading=pair(),
        reading_again=pair(),
        reports={s: f32(unit(rng, N, D)) for s in sections},
        priors={s: f32(rng.normal(size=(N, P))) for s in sections},
    )


def present(*, findings=None):
    ones = np.ones(N, np.float32)
    return {
        "findings": jnp.asarray(ones if findings is None else findings),
        "impression": jnp.asarray(ones),
    }


def expected_contrast(x, y, tau, prior, strength):
    """CE(S, Y) + CE(S^T, Y) as the specification writes it, in float64."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    targets = np.eye(len(x))
    if prior is not None:
        rho = np.maximum(np.corrcoef(np.asarray(prior, np.float64)), 0.0)
        np.fill_diagonal(rho, 0.0)
        targets = targets + strength * (1.0 - np.exp(-0.2 * rho))

    def one_way(s):
        s = s - s.max(axis=1, keepdims=True)
        log_softmax = s - np.log(np.exp(s).sum(axis=1, keepdims=True))
        return -(targets * log_softmax).sum(axis=1).mean()

    s = x @ y.T / tau
    return one_way(s) + one_way(s.T)


@pytest.mark.parametrize("preset", ["repo", "paper"])
def test_loss_is_the_published_formula(preset):
    c, config = compared(), CONFIGS[preset]
    total, terms = imitate_loss(c, present(), config=config, weight=0.5)

    def golden(x, y, tau, prior):
        strength = tau if preset == "repo" else 1.0
        return expected_contrast(x, y, tau, prior, strength)

    imp, find = c.priors["impression"], c.priors["findings"]
    diagnosis = sum(
        golden(v, c.reports["impression"], 0.07, imp) for v in c.diagnosis
    ) + 2 * golden(*c.diagnosis, 0.2, imp)
    reading = sum(
        golden(v, c.reports["findings"], 0.07, find) for v in c.reading
    ) + 2 * golden(*c.reading_again, 0.2, None)
    np.testing.assert_allclose(total, diagnosis + 0.5 * reading, rtol=2e-6)
    np.testing.assert_allclose(
        terms["reading_findings"] + terms["reading_views"], reading, rtol=2e-6
    )


def test_absent_findings_take_no_part():
    c = compared()
    mask = np.ones(N, np.float32)
    mask[[2, 7]] = 0.0
    _, terms = imitate_loss(c, present(findings=mask), config=ImitateConfig())
    keep = np.flatnonzero(mask)
    pick = lambda tree: jax.tree.map(lambda x: x[keep], tree)  # noqa: E731
    _, without = imitate_loss(pick(c), pick(present()), config=ImitateConfig())
    name = "reading_findings"
    np.testing.assert_allclose(terms[name], without[name], rtol=1e-6)
    # The impression terms still see everybody.
    name = "diagnosis_impression"
    assert abs(float(terms[name]) - float(without[name])) > 1e-3


def test_absent_findings_do_not_enter_the_statistics_of_the_head():
    """Nothing of the others moves, whatever the report tower says of a blank."""
    image, text = ImageTowerConfig("resnet_tiny"), TextTowerConfig("tiny")
    config = ImitateConfig(4, 4, 4, 4, token_length=64)
    module = Imitate(config, image, text)
    rng = np.random.default_rng(0)
    film = jnp.asarray(rng.normal(size=(4, 8)), jnp.float32)
    views = Seen(*[(film, film)] * 3)
    seen = jnp.asarray([1.0, 0.0, 1.0, 1.0])
    prior = {s: jnp.asarray(rng.normal(size=(4, 8)), jnp.float32) for s in SECTIONS}
    have = {"findings": seen, "impression": jnp.ones(4)}

    def compare(variables, prior):
        return project(module, variables, (views, prior), present=have)

    shapes = jax.eval_shape(
        lambda key: module.init(key, (views, prior), method="project"),
        jax.random.key(0),
    )
    variables = jax.tree.map(
        lambda s: jnp.asarray(rng.uniform(0.5, 1, s.shape), s.dtype), shapes
    )
    run = jax.jit(lambda findings: compare(variables, {**prior, "findings": findings}))
    first, statistics = run(prior["findings"])
    second, others = run(prior["findings"].at[1].set(1e3))
    kept = np.asarray([0, 2, 3])
    for one, other in zip(
        (first.reports["findings"][kept], *jax.tree.leaves(statistics)),
        (second.reports["findings"][kept], *jax.tree.leaves(others)),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_absent_section_correlates_with_nothing():
    """Equal features of absent reports must not make their views soft positives."""
    c = compared()
    blank = {"findings": c.priors["findings"], "impression": jnp.ones((N, P))}
    nobody = {"findings": jnp.ones(N), "impression": jnp.zeros(N)}
    config = dataclasses.replace(CONFIGS["paper"])
    _, terms = imitate_loss(c._replace(priors=blank), nobody, config=config)
    hard = 2 * expected_contrast(*c.diagnosis, 0.2, None, 1.0)
    np.testing.assert_allclose(terms["diagnosis_views"], hard, rtol=2e-6)
    assert float(terms["diagnosis_impression"]) == 0.0


def test_findings_weight_follows_the_released_schedule():
    epochs = jnp.asarray([0, 30, 31, 40, 50, 60])
    got = jax.vmap(findings_weight)(epochs)
    np.testing.assert_allclose(got, [1, 1, 1.25, 0.8, 0.3, 0.3], rtol=1e-6)


@pytest.mark.parametrize("size", [56, 28, 14, 7, 2, 17])
def test_adaptive_pooling_is_torchs(size):
    torch = pytest.importorskip("torch", reason="parity needs PyTorch (extra: parity)")
    x = np.random.default_rng(size).normal(size=(1, 3, size, size)).astype(np.float32)
    ours = channel_tokens(jnp.asarray(x.transpose(0, 2, 3, 1)), jnp.asarray([2, 0, 2]))
    theirs = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(x), 16)
    theirs = theirs.numpy().reshape(1, 3, 256)[:, [2, 0, 2]]
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert np.allclose(adaptive_pooling_matrix(size, bins=GRID).sum(axis=1), 1.0)


def test_aggregator_is_torchs_attention_read_at_the_class_token():
    torch = pytest.importorskip("torch", reason="parity needs PyTorch (extra: parity)")
    rng = np.random.default_rng(0)
    stages = tuple(
        jnp.asarray(rng.normal(size=(2, s, s, c)), jnp.float32)
        for s, c in ((8, 8), (4, 16), (2, 20), (1, 40))
    )
    module, key = HierarchicalAggregator(length=16, heads=4), jax.random.key(3)
    variables = module.init(jax.random.key(0), stages, key=key)
    params = jax.tree.map(
        lambda p: jnp.asarray(rng.normal(size=p.shape) * 0.1, jnp.float32),
        variables["params"],
    )
    ours = module.apply({"params": params}, stages, key=key)

    tokens = []
    for stage, ratio, k in zip(
        stages, module.ratios, jax.random.split(key, 4), strict=True
    ):
        c = stage.shape[-1]
        drawn = jax.random.randint(k, (max(1, int(ratio * c)),), 0, c)
        tokens.append(np.asarray(channel_tokens(stage, drawn)))
    tokens = np.concatenate(tokens, axis=1)
    tokens = np.pad(tokens, ((0, 0), (0, 16 - tokens.shape[1]), (0, 0)))
    cls = np.broadcast_to(params["cls"], (2, 1, 256))
    x = torch.tensor(np.concatenate([tokens, cls], 1) + np.asarray(params["position"]))
    attention = torch.nn.MultiheadAttention(256, 4, batch_first=True)
    with torch.no_grad():
        own = params["attention"]
        kernels = (own["query"]["kernel"], own["key"], own["value"])
        biases = (own["query"]["bias"], rng.normal(size=256), own["value_bias"])
        for i, (kernel, bias) in enumerate(zip(kernels, biases, strict=True)):
            rows = slice(256 * i, 256 * (i + 1))
            kernel, bias = np.array(kernel).reshape(256, 256).T, np.array(bias)
            attention.in_proj_weight[rows] = torch.tensor(kernel.copy())
            attention.in_proj_bias[rows] = torch.tensor(bias.reshape(256)).float()
        kernel = np.array(own["out"]["kernel"]).reshape(256, 256).T
        attention.out_proj.weight[:] = torch.tensor(kernel.copy())
        attention.out_proj.bias[:] = torch.tensor(np.array(own["out"]["bias"]))
        theirs = (attention(x, x, x, need_weights=False)[0] + x)[:, -1]
    np.testing.assert_allclose(ours, theirs.numpy(), atol=2e-4, rtol=1e-4)


def test_too_many_channels_is_an_error_that_says_so():
    stages = (jnp.zeros((1, 2, 2, 64)),)
    with pytest.raises(ValueError, match="length: 4 tokens are too few for the 16"):
        HierarchicalAggregator(ratios=(0.25,), length=4).init(
            jax.random.key(0), stages, key=jax.random.key(0)
        )


def test_a_vision_transformer_has_no_stages():
    with pytest.raises(ValueError, match="four stages of a ResNet, got 'vit_b16'"):
        imitate(
            ImitateConfig(), ImageTowerConfig(architecture="vit_b16"), TextTowerConfig()
        )


def test_normalise_has_a_gradient_at_zero():
    assert np.isfinite(jax.grad(lambda x: normalise(x).sum())(jnp.zeros(4))).all()


@pytest.mark.parametrize(
    ("distributed", "embeddings", "gradients"),
    [("all_gather", 4, 4), ("all_gather_both", 8, 0)],
)
def test_each_embedding_travels_once_and_as_narrow_as_is_asked(
    distributed, embeddings, gradients
):
    """Six contrasts of both views with two reports and with each other, over eight
    devices: two reports, two second views and the priors of two sections are gathered;
    the gradients of the first four are added where they arise, and scattered once. Or
    all eight embeddings there are, and no gradient."""
    rows = NamedSharding(make_mesh(MeshConfig()), PartitionSpec(("data", "fsdp")))
    batch = 88  # splits into eights, and is a factor of no other size here
    config = dataclasses.replace(CONFIGS["paper"], reading_views_prior=True)
    embedded = compared()

    def total(embedded, priors, present):
        return imitate_loss(
            embedded._replace(priors=priors),
            present,
            config=config,
            contrast_config=ContrastConfig(distributed=distributed, wire="bfloat16"),
        )[0]

    arguments = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct((batch, *a.shape[1:]), a.dtype, sharding=rows),
        (embedded._replace(priors={}), embedded.priors, present()),
    )
    with jax.set_mesh(rows.mesh):
        lowered = jax.jit(jax.value_and_grad(total)).lower(*arguments)
    # A CPU's compiler widens what is narrow, so that is seen in what it is asked for.
    asked = [row for row in lowered.as_text().splitlines() if "all_gather" in row]
    assert sum(row.endswith(f"tensor<{batch}x{D}xbf16>") for row in asked) == embeddings
    assert sum(row.endswith(f"tensor<{batch}x{P}xbf16>") for row in asked) == 2
    found = read_collectives(lowered.compile(QUICK).as_text())

    def matrices(kind, width):
        return sum(
            one.count
            for one in found
            for _, shape in one.shapes
            if one.kind == kind and shape[1:] == (width,)
        )

    assert matrices("all-gather", D) == embeddings
    assert matrices("reduce-scatter", D) == gradients
    assert matrices("all-gather", P) == 2
    summed = [
        shape for one in found if one.kind == "all-reduce" for _, shape in one.shapes
    ]
    assert summed and all(len(shape) < 2 for shape in summed)
