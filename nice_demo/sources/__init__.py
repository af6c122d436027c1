"""Where EEG comes from: each source ends in the same EEG set (`nice_demo.eegset`)."""
