"""Phantom subjects: simulated EEG from a head model with known sources.

`pictures` and `features`: what is shown, and what a phantom brain makes of it;
`head`: where the sources lie and what the electrodes see of them (MNE);
`trials`: single trials on demand, from a seed (NumPy only).
"""
