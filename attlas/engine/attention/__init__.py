"""What a model asks, as values: the registered attention function, its mask, position bias and score rule.

May import what stands beside it in the engine; knows no Ray, Zarr or xarray.
"""
