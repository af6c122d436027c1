"""The tab "Pictures and words", and its HTML (`cards`)."""
