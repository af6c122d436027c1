"""What was published on THINGS-EEG2: shown beside this bundle's numbers, as of other data."""

# Top-1 and top-5, shares, of 200 candidates.
# Within subjects, mean of ten (Song et al. 2024, as listed by Li et al. 2025, arXiv 2503.04207).
WITHIN_SUBJECTS = {"nice": (0.161, 0.436), "nice-sa": (0.147, 0.417), "nice-ga": (0.156, 0.428)}
HEADLINE = (0.156, 0.428)  # the abstract's, of 80 repetitions
ACROSS_SUBJECTS = (0.062, 0.214)  # NICE trained on the nine other subjects
AT_600_MS = 0.1575  # top-1 of the first 600 ms
CENTRES = "THINGS-EEG2, ten people, candidates are concept centres"  # what all of them are of
