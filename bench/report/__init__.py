"""Reports: records and published numbers in, pages and tables out. Nothing here trains or evaluates."""
