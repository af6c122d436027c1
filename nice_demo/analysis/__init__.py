"""Analyses of what carries the information: when, where, in which band, how often, what, in whom.

Each module has one function, `analyse(recording) -> Found`, for one subject; `nice_demo.analyse`
runs them, puts the subjects together and draws the figures.
"""
