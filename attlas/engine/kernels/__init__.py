"""Kernels: q, k, score rule and key intervals in; log-sum-exp, row statistics, weights and output out.

`reference` is the definition, in plain torch on any device; every other kernel is held to it. `sdpa` gives output and
log-sum-exp alone, through torch's fused CPU attention.
"""
