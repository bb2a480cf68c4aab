"""One HTML page about a run: is the student good, why, and what does it sound like?

    python -m eval.report runs/demo     # writes runs/demo/report/index.html

The page needs nothing but itself: styles, pictures and sound are inside, there is no script and no
request. It can be written at any time; a part whose input is not there yet says what makes it.
"""

from __future__ import annotations

from distill.endings import run as run_command
from eval.report.run_folder import folder_argument
from eval.report.write import write_report


def main(arguments: list[str]) -> None:
    if run := folder_argument(arguments, __doc__):
        print(write_report(run))


if __name__ == "__main__":
    run_command(main)
