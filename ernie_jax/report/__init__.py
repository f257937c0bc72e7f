"""The report of a whole run as one page: what was trained, how it went, what it can do, and samples of it."""
