"""nice_demo: what can be read from the EEG of a person who looks at a picture."""

__version__ = "0.1.0"
