"""The report of an evaluation, as one HTML page and as a Markdown table: `write_report`."""

from .page import write_report as write_report
