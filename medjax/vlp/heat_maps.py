"""Where words look: films under the attention of single words of their own reports.

For systems that compare words with places. Shown is what the loss uses: of GLoRIA the
share of each region in what a word gathers, of MGCA that of each patch.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from medjax.report import Card
from medjax.report.picture import overlay
from medjax.typing import Variables
from medjax.vlp.corpus import Corpus
from medjax.vlp.system import PretrainingSystem
from medjax.vlp.tokens import Tokenizer

FILMS, WORDS = 4, 4
"""How many films are shown, and how many words of each."""


def word_cards(
    system: PretrainingSystem, variables: Variables, corpus: Corpus
) -> list[Card]:
    """Test films, each under those of its words that look at the fewest places.

    Args:
      system: has ``word_maps``, or there is nothing to show.
      variables: its own, on this host or on devices.
      corpus: films and reports.

    Returns:
      One picture per film and word, the word and its sharpest share below.
    """
    if system.word_maps is None:
        return []
    source = corpus.source("test", ("image", system.compared))
    chosen = range(0, len(source), max(1, len(source) // FILMS))[:FILMS]
    rows = [source[i] for i in chosen]
    films = np.stack([row["image"] for row in rows])
    ids = np.stack([row[system.compared] for row in rows])
    maps = jax.jit(system.word_maps)(variables, jnp.asarray(films), jnp.asarray(ids))
    cards = []
    for film, tokens, own in zip(films, ids, np.asarray(maps), strict=True):
        names = spelled(tokens, corpus.tokenizer)
        # [CLS], [SEP] and full stops say nothing to a reader.
        told = [i for i, name in enumerate(names[: len(own)]) if name.isalnum()]
        told.sort(key=lambda i: -float(own[i].max()))
        for i in told[:WORDS]:
            heat = smoothed(own[i], film.shape[0])
            share = f"at the brightest place {own[i].max():.2f} of its attention"
            cards.append(Card(overlay(film, heat), names[i], [(share, None)]))
    return cards


def spelled(ids: Int[np.ndarray, " n"], tokenizer: Tokenizer) -> list[str]:
    """The words of a text as :func:`medjax.vlp.words.word_segments` counts them."""
    words: list[str] = []
    for piece in tokenizer.inner.convert_ids_to_tokens(ids[ids != 0].tolist()):
        if words and piece.startswith("##"):
            words[-1] += piece.removeprefix("##")
        else:
            words.append(piece)
    return words


def smoothed(values: Float[np.ndarray, "h w"], side: int) -> Float[np.ndarray, "s s"]:
    """A coarse map at the size of a film, its highest value 1."""
    grown = jax.image.resize(jnp.asarray(values), (side, side), "linear")
    return np.asarray(grown / jnp.maximum(jnp.max(grown), 1e-12))
