"""Time every kernel against its peers and against what the chip can do.

    python -m medjax_kernels.bench                      # every op, its usual shapes
    python -m medjax_kernels.bench data_consistency --shape square --vs torch_fft

How: all contestants of an operation, and the two ceilings (a copy, a matrix product),
take turns in one process, A B C A B C, so that a busy neighbour or a hot chip slows all
of them. A turn queues many calls and waits once at its end; its time over the number of
calls is one measurement, which on an accelerator is the device's time as long as it
exceeds the host's time to queue a call (measured too, and printed). Calls walk through
several sets of random inputs, larger together than the chip's caches. What is printed
is the median over turns, the range between the 10th and the 90th percentile, and ratios
taken turn by turn.

Bytes and FLOPs are counted by formula: bytes are what the *operation* has to move once,
FLOPs what the *algorithm* of the contestant computes. The larger of bytes over measured
bandwidth and FLOPs over measured rate is the time that this chip could not beat; its
share of the time taken is the share of the limit. Errors are those of the same call,
against the same operation in float64.

An operation takes part by a module ``bench_cases`` with ``cases(shape, platform)`` and
``default_shapes(platform)``. A peer that is not installed is named as such.

Files: `case` (what a benchmark is made of), `contest` (turns and clock), `ceilings`,
`peers` (what is installed), `targets` (goals), `record` (table and JSON), `roofline`
(the picture), `__main__` (the command).
"""
