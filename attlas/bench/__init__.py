"""attlas bench: how fast a capture, a query, an analysis and the store are here, each beside what the machine allows.

A file for each workload makes rows; `rounds` and `isolated` take times and peaks, `machine` and `limits` what they were
taken on, `report` holds it all. May import the engine, storage, actors and analysis; nothing of plots or the command
line.
"""
