"""Speed, measured: our training steps, input and map fits beside their peers.

============= =======================================================================
``step``      training step of a radiograph and report pair of towers (augmentation,
              ResNet, BERT, heads, contrast, gradient, clipping, AdamW) against PyTorch
``input``     reading of a prepared set against a torch ``DataLoader``
``unrolled``  training step of E2E-VarNet against PyTorch, and what of it is data
              consistency
``maps``      T1 and T2 fits against ``scipy.optimize.curve_fit``
``heart``     slicing, nearest neighbours, sampling and messages on a heart's mesh,
              value and gradient, against dense forms and PyTorch; their memory
``gloria``    step, local contrast and words against loops in PyTorch
``mgca``      step, assignments, masks and boxes against PyTorch, loops in NumPy
``diffusion`` films from noise against ``diffusers``, Fréchet distance against SciPy
``all``       every one of them
============= =======================================================================

and ``segmentation``: mixing, surfaces, tiles, ensembles and motion against torchio,
MONAI, medpy and SciPy, as far as they are installed.

How: ours and theirs take turns in one process (A B A B ...), so that a busy neighbour
or a hot chip slows both; medians, their spread and the ratio *of each turn* are
printed, and processor seconds beside those of the wall. Both sides start from one set
of weights, and the relative difference of their first losses and gradient norms is
printed beside the ratio: a fast step that computes something else is no step. Every
number also goes to a JSON file.

On a device only goals for that device are judged: those for two cores of a CPU on a
CPU, those for an H200 there. ``gloria-published``, ``mgca-published`` and
``diffusion-published`` are of the papers' sizes, which goals per second are for;
``all`` takes them where there is an accelerator.

Files: `measure` (turns, tables, facts), `compare` (two steps beside each other),
`compiled` and `torch_training` (a step of ours, of theirs); then one file per command,
with `pair`, `parts`, `torch_pair`, `torch_step` behind ``step``, `torch_varnet`,
`torch_unrolled` behind ``unrolled``, `torch_input` behind ``input``, `heart_parts`,
`torch_heart` behind ``heart``, `tasks` (pieces of work, their table) and `goals` behind
``segmentation``, ``gloria``, ``mgca`` and ``diffusion``, `words`, `torch_words` behind
the middle two, `masks`, `torch_masks` behind ``mgca``. Whatever is named ``torch_*`` is
imported only where PyTorch is asked for.
"""
