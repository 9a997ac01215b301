"""attlas.capture: what is asked for, decided, run and reported; in this process, or as shards through the actors.

May import the engine, storage and actors; nothing of jobs, analysis or the command line.
"""
