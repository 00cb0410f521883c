"""What scripts define and jobs use: one small snippet a kind, tried with each way to run it.

The parts (`functions`, `classes`, ...) are pieces of one script: `script.py` puts them together,
with `declare.py` before and `runner.py` behind them. So no two of them share a global name.
"""
