"""The report: everything that a run's folder tells is in it, escaped, and it needs nothing beside it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tandem.spec import Happened, RunFolder
from tandem.train.measure.report import write_report
from tests.pages import Checked
from tests.run_folders import begin_run, measure, say, write, write_run


def read(folder: RunFolder) -> Checked:
    page = write_report(folder).read_text()
    assert "://" not in re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL)
    assert "url(" not in page
    checked = Checked(page)
    assert "script" not in checked.tags
    return checked


def test_a_whole_run_is_told(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    report = read(folder)
    assert folder.report.exists()
    for words in (
        "succeeded as coder@1",
        "Completes <code> & more.",
        "20 of 20",
        "MFU by convention A: 6 N; peak: measured fp32 GEMM.",
        "$0.04",  # 37 s at 3.60 an hour
        "killed SIGKILL",
        "killed by SIGKILL",  # the incident
        "2MB",  # the checkpoint
        "PSF-2.0, PSF",
        "model.gguf",
        "f" * 64,
        "exact match",
        "+0.300 (+0.200 to +0.400)",
        "0.85",  # actual / planned tokens per second
        "optimizer.lr",
        "objective.params.rate",
        "2.13.0",
        "lost work",
    ):
        assert words in report.text, words
    assert report.text.count("Norm of the gradient") == 1


@pytest.mark.parametrize("title", ["Loss", "Tokens per second", "Norm of the gradient", "Learning rate", "Most memory"])
def test_each_measurement_has_a_plot(tmp_path: Path, title: str) -> None:
    page = write_report(write_run(tmp_path)).read_text()
    (figure,) = re.findall(rf"<figcaption>{title}.*?</figure>", page, flags=re.DOTALL)
    assert 'class="line main"' in figure
    assert ('class="dots held"' in figure) == (title == "Loss")
    assert figure.count('class="mark"') == 1, "where the second attempt went on"


def test_a_run_that_has_only_begun_has_a_report(tmp_path: Path) -> None:
    report = read(begin_run(tmp_path))
    assert "planned" in report.text
    assert "No step was measured yet." in report.text
    assert "svg" not in report.tags


def test_a_run_that_measured_once_has_a_report(tmp_path: Path) -> None:
    folder = begin_run(tmp_path)
    say(folder, Happened.ATTEMPT_STARTED, at=1, attempt=1)
    measure(folder, 1, attempt=1, loss=None, grad_norm=0.0)
    assert "svg" in read(folder).tags


def test_what_is_missing_or_odd_is_left_out(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    folder.recipe.write_text("{}")
    write(folder.attempt(2).path / "summary.json", {"goodput": {}, "planned": {"tokens_per_s": 0}, "mfu": None})
    say(folder, Happened.EVALUATED, at=41, attempt=2, step=20, loss=None, infill={"single_line": {}}, margin={"x": [1]})
    assert "coder" in read(folder).text


def test_words_of_others_are_escaped(tmp_path: Path) -> None:
    bad = "<img src=x onerror=alert(1)>\"'&"
    folder = begin_run(tmp_path, about=bad)
    say(folder, Happened.ATTEMPT_STARTED, at=1, attempt=1, workers=bad)
    say(folder, Happened.RUNNING, at=1, attempt=1, step=0, environment={bad: bad}, planned={bad: 1.0})
    say(folder, Happened.EVALUATED, at=1, attempt=1, step=0, **{bad: {bad: {"baseline_x": bad, "x": bad}}})
    say(folder, Happened.EXPORTED, at=1, attempt=1, files={bad: {"sha256": bad}})
    say(folder, Happened.FAILED, at=2, attempt=1, reason=bad)
    report = read(folder)
    assert "img" not in report.tags
    assert bad in report.text


def test_many_checkpoints_are_counted(tmp_path: Path) -> None:
    folder = begin_run(tmp_path)
    for step in range(1, 31):
        say(folder, Happened.CHECKPOINT, at=step, attempt=1, step=step, bytes=1000, seconds=0.1)
    assert "30 were saved" in read(folder).text


def test_a_report_needs_no_torch(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    program = (
        "import sys; from pathlib import Path; from tandem.spec import RunFolder; "
        "from tandem.train.measure.report import write_report; write_report(RunFolder(Path(sys.argv[1]))); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program, str(folder.path)], check=True)
