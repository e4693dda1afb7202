"""Reports, each made from ``result.json`` alone."""
