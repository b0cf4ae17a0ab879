"""The paper's claims, recomputed on every embedded model: `make evidence`, which writes EVIDENCE.md.

`plan` says which experiments run on which pictures, `claims` which sentence of the paper each of them answers, `run`
runs and stores them, `report` writes what came out, cell by cell as in `cells`. `seeds` makes several small models
(`make seeds`), `across` compares them with the embedded ones, `growth` their training logs. No number is typed:
EVIDENCE.md is made from the stored results.
"""

from dg_tools.threads import wait_passively

wait_passively()  # before one of these modules imports torch
