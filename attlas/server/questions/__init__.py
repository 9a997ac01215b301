"""The questions a session answers, one small function each; docs/server.md says what they take and give."""
