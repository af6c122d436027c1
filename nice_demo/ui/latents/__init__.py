"""The tab "Your decoder": what was opened (`opened`), its HTML (`cards`), and the tab itself."""
