"""`make perf`: each topic beside what a user would use instead, in one run; `python -m tests.perf.scale` is apart."""

from __future__ import annotations

import importlib

TOPICS = ("evaluation", "training", "losses", "pipeline")

for topic in TOPICS:
    print(f"== {topic}", flush=True)
    importlib.import_module(f"tests.perf.{topic}").main()
