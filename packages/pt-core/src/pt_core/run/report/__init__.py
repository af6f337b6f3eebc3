"""The report of a run and the comparison of several: self-contained HTML pages that make no external request."""

from __future__ import annotations

from pt_core.run.declare.panel import Panel
from pt_core.run.report.comparison import compare, compare_table
from pt_core.run.report.data import ReportData, read_run
from pt_core.run.report.page import write_report

__all__ = ["Panel", "ReportData", "compare", "compare_table", "read_run", "write_report"]
