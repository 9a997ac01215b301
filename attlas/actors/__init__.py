"""The model spread over a Ray cluster: plan, shard actor, pipeline, recovery.

May import the engine and storage; nothing of analysis or the command line. Only modules here import Ray.
"""
