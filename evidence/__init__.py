"""The paper's claims, tested on both embedded models, a positive control and a null: `make evidence`.

`rules.md` says what is asked, and was committed before anything was run. What measures and judges one model is
`dg_tools.report`. Here: `columns` loads the four models, `column` measures one of them by name, `run` is the command.
`report`, `summary`, `pages` and `figure` make EVIDENCE.md and its pages of what is kept.
`seeds` makes several small models (`make seeds`), `across` and `growth` tell of them. `dose_check`,
`weak_model_table` and `rivals_table` are tables of their own.

    from evidence.kept import load_all                       # all columns as they are kept, for tables and figures
    rows = load_all(RESULTS)["emoji-sd3-planted"].rows       # by key: "zero a", "zero b", "auto b" ...
    dit = evidence.columns.load("null")                      # a column's model; evidence.column.judge_samples measures
"""

from dg_tools.threads import wait_passively

wait_passively()  # before one of these modules imports torch
