"""A model and what is told of it: loading, tokenizer, positions, identity, support, layout, shard, shape.

May import what stands beside it in the engine; knows no Ray, Zarr or xarray.
"""
