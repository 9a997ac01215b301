"""Any reduction over the rows of an atlas as a Dask job: blocks of rows, samples, schedulers, kept answers.

May import everything below: the engine, storage, and actors and capture for their cluster; nothing of analysis.
"""
