"""The doors of preparation: radiographs and reports by data set, k-space, a look-alike.

``python -m experiments.prepare mimic|chexpert|nih|rsna|siim|object_cxr|covidx|openi``
or ``table ...`` for radiographs and reports, ``cmrxrecon`` for k-space,
``segmentation`` for images and label maps, ``lookalike`` for a small tree in the
challenge's layout, ``five_classes`` for a list of CheXpert 5x200, ``upload`` for a
prepared set that goes to an object store.
"""

import sys

from experiments.prepare import (
    cmrxrecon,
    five_classes,
    lookalike,
    reports,
    segmentation,
    upload,
)

if __name__ == "__main__":
    given = sys.argv[1:]
    if given[:1] == ["cmrxrecon"]:
        sys.exit(cmrxrecon.main(given[1:]))
    if given[:1] == ["segmentation"]:
        sys.exit(segmentation.main(given[1:]))
    if given[:1] == ["lookalike"]:
        sys.exit(lookalike.main(given[1:]))
    if given[:1] == ["five_classes"]:
        sys.exit(five_classes.main(given[1:]))
    if given[:1] == ["upload"]:
        sys.exit(upload.main(given[1:]))
    sys.exit(reports.main(given))
