"""The tab "Your EEG": a visitor's recording, step by step (`tab`, `steps`); its HTML (`cards`)."""
