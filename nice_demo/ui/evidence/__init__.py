"""The tab "Evidence": what in the EEG carried the picture, from analyses that the bundle brings.

`store` holds the numbers, `words` and `figures` say and draw them, and each section of the tab is a
module that holds what it draws and, at its end, its panels: `how_good`, `when`, `where`, `bands`
(these two share `parts`), `looks`, `meaning`, `transfer`, `truth` and `sureness`. `sections` lists
them in order, `tab` puts them on the page. Sentences are made from the numbers that are drawn.
"""
