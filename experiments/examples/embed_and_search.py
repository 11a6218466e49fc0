"""Embed a folder of films once; search it by sentences, by films, and score classes.

::

    python -m experiments.imitate                       # any trained run will do
    python experiments/examples/embed_and_search.py runs/imitate-tiny films/
"""

# %% A trained run opens with its tokenizer and the preparation of its films
import sys

import numpy as np

import medjax
from medjax.vlp import find_films

run, folder = sys.argv[1:3]
pair = medjax.load(run)
print(f"step {pair.step}, trained on {pair.record.data}, weights {pair.checksum[:16]}")

# %% Every film becomes a unit-norm vector; kept, they need not be read again
films = find_films(folder)
names = [film.id for film in films]
rows = pair.embed_images([film.path for film in films])
np.savez("films.npz", names=names, rows=rows)
print(f"{len(films)} films, vectors of {rows.shape[1]}")

# %% The films that a sentence describes best: a dot product and a sort
questions = ["There is a large right pleural effusion.", "The lungs are clear."]
hits, cosines = pair.nearest(pair.embed_texts(questions), rows, k=3)
for question, found, near in zip(questions, hits, cosines, strict=True):
    print(question)
    for hit, cosine in zip(found, near, strict=True):
        print(f"  {cosine:.3f}  {names[hit]}")

# %% Films like the first one; it is its own nearest
hits, _ = pair.nearest(rows[:1], rows, k=3)
print(f"like {names[0]}: {', '.join(names[hit] for hit in hits[0])}")

# %% Classes by sentences: above 0 a film is nearer to "there is" than to "there is no"
classes = ["Pneumonia", "Pleural Effusion"]
scores = rows @ pair.prompt_directions(classes).T
for name, score in zip(names, scores, strict=True):
    told = ", ".join(f"{c} {s:+.3f}" for c, s in zip(classes, score, strict=True))
    print(f"{name}: {told}")
