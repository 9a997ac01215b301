"""The page: one ES module (`static/viewer.js`) and who hosts it: a notebook widget and an exported file."""
