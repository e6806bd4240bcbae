"""The report on a study, as HTML and as Markdown."""
