"""Who answers a model's attention calls: what computes, records, probes.

May import what stands beside it in the engine; knows no Ray, Zarr or xarray.
"""
