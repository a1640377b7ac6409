"""Writes items.jsonl, items.parquet and items.csv, which hold the same three items. usage: python make.py (pyarrow 14 or later)"""
import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

here = Path(__file__).parent
items = [
    {"context": "Q: 1 + 1?", "choices": ["2", "3"], "gold": 0, "weight": 0.5, "note": None, "deep": {"a": "x", "b": [1, 2]}},
    {"context": "Q: \"é\",\n😀?", "choices": ["a", "b", "c"], "gold": 2, "weight": 1.0, "note": "n", "deep": {"a": None, "b": []}},
    {"context": "Q: end?", "choices": ["x", "y"], "gold": 1, "weight": -2.25, "note": None, "deep": {"a": "y", "b": [3]}},
]
(here / "items.jsonl").write_text("".join(json.dumps(i, ensure_ascii=False) + "\n" for i in items))
pq.write_table(pa.Table.from_pylist(items), here / "items.parquet", compression="zstd")
with (here / "items.csv").open("w", newline="") as f:
    flat = [k for k, v in items[0].items() if not isinstance(v, (list, dict))]
    w = csv.DictWriter(f, flat, extrasaction="ignore")
    w.writeheader()
    w.writerows(items)
