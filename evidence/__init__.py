"""The paper's claims, recomputed on every embedded model: `make evidence`, which writes EVIDENCE.md.

`plan` says which experiments run on which pictures, `claims` which sentence of the paper each of them answers, `run`
runs and stores them, `report` writes what came out. No number is typed: EVIDENCE.md is made from the stored results.
"""
