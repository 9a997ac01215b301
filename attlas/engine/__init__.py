"""Exact attention inside one process: model loading, the capture point, score rules, key intervals and kernels.

May import torch and transformers; knows no Ray, no Zarr and no xarray.
"""
