"""Questions asked of an atlas, as Dask jobs over the store: statistics, head roles, head diversity.

May import the engine and storage; nothing of plots or the command line.
"""
