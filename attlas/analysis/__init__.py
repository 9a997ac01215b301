"""Questions asked of an atlas, as Dask jobs over the store: statistics, head roles, head diversity.

May import the engine and storage, and joins a Ray cluster through actors; nothing of plots or the command line.
"""
