"""Evaluations: what a trained model is worth on data that it has not seen."""

from tandem.train.evaluate.held_out import held_out_report
from tandem.train.evaluate.tasks import task_report

__all__ = ["held_out_report", "task_report"]
