"""CMRxMotion: grading breathing artefacts, and segmenting in spite of them.

Wang et al. 2022, arXiv 2210.06385; results in arXiv 2507.19165. Volunteers were scanned
four times: breathing in four ways. What they did is the acquisition's number, and not
the grade, which readers gave to what came out.
"""
