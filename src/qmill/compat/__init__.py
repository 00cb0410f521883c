"""Modules with the names, defaults and shapes of other libraries; see docs/compatibility.md.

ezq     ezq 3.0.4       ezpq     ezpq 0.2.2
ezq2    ezq 2.0.3       ezpq01   ezpq 0.1.0
joblib  a backend of joblib
"""
