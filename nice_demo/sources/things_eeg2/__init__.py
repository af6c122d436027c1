"""THINGS-EEG2 (Gifford et al., NeuroImage 2022): ten people, 16,740 pictures, 63 channels.

`prepare`: from a choice of origin to a data folder; `raw`: the data set's own recordings;
`ready`: what others have preprocessed; `images`: the pictures, their embeddings and concepts;
`pickles`: reading the published pickles without running what they contain.
"""
