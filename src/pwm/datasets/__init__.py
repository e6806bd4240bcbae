"""Making data sets: from published files, from policies in the environments, from the replay of runs."""
