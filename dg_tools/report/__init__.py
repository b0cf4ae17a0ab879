"""What holds on one model? Rules that are set first, what measures, what judges, and what is kept.

`rules` says what is asked. `channels` and `samples` measure, `channel_rows` and `sample_rows` judge (arrays in, rows
out), `verdict` is one row, `cells` writes it. `column` does one model that has references, and `kept` reads it.
`parts` and `sections` are a report as it is kept, `page` is its page: text and numbers in, files out; no model.
"""
