"""Attention looked at: one session that answers questions, and its hosts: HTTP, a page, a notebook, a file, MCP.

May import everything but `cli`. `session.py` is the one place where a question is answered; the hosts only carry it.
"""
