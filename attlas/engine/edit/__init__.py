"""Edits of attention inside the running model: what is changed, where, and how it is carried out.

`edit.py` the value, `places.py` where it holds, `actions.py` what may be done, `block.py` rows of weights while they
are edited, `plan.py` the cheapest exact way. May import what stands beside it in the engine.
"""
