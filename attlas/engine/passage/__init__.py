"""What goes through a model: documents, tokens, selections, passages, their sizes and the runner.

May import what stands beside it in the engine; knows no Ray, Zarr or xarray.
"""
