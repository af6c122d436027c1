"""How decodable each phantom subject is: a setting, not a finding."""

# Factor on everything specific to a picture, by subject. Set by
# `python -m nice_demo.sources.phantom.difficulty` on held-out training concepts.
GAINS = dict.fromkeys(range(1, 11), 1.0)
