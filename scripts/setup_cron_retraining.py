"""Install, show or remove a crontab line that asks for a retrain at a fixed time of a day of the week.

The line calls POST /retrain with the trigger cron_triggered: the trainer runs it only when retraining is due. Only the
line that this script marked as its own is ever touched. Needs nothing but Python and crontab.
"""

import argparse
import os
import shlex
import subprocess
import sys
from pathlib import Path

MARK = "# moodfood-retraining"
# What crontab says, with status 1, to somebody who has none yet. Any other failure is one.
NONE_YET = "no crontab for"
DAYS = ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday")


def read_crontab() -> list[str]:
    """Return the lines of the user's crontab, none if there is no crontab yet.

    Ends with one line when crontab is missing or fails: a table that was not read must not be replaced.
    """
    try:
        finished = subprocess.run(
            ["crontab", "-l"], capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"}
        )
    except FileNotFoundError:
        sys.exit("there is no crontab command here; install cron, or use deploy/kubernetes' CronJob")
    if finished.returncode == 0:
        return finished.stdout.splitlines()
    if NONE_YET in finished.stderr:
        return []
    sys.exit(f"cannot read the crontab, so nothing was changed: {' '.join(finished.stderr.split())}")


def write_crontab(lines: list[str]) -> None:
    """Replace the user's crontab."""
    content = "".join(f"{line}\n" for line in lines)
    finished = subprocess.run(["crontab", "-"], input=content, capture_output=True, text=True, check=False)
    if finished.returncode != 0:
        sys.exit(f"crontab refused the new table: {finished.stderr.strip()}")


def without_ours(lines: list[str]) -> list[str]:
    """Return the lines that are not this script's."""
    return [line for line in lines if not line.endswith(MARK)]


def cron_line(minute: int, hour: int, day: str, url: str, log: Path) -> str:
    """Return the line: when, what, where its output goes, and the mark."""
    body = '{"trigger": "cron_triggered"}'
    command = (
        f"curl -sS -X POST {shlex.quote(f'{url}/retrain')} -H 'content-type: application/json' "
        f"-d {shlex.quote(body)} >> {shlex.quote(str(log))} 2>&1"
    )
    # cron gives % a meaning of its own.
    return f"{minute} {hour} * * {DAYS.index(day)} {command} {MARK}".replace("%", r"\%")


def number(lowest: int, highest: int) -> type[int]:
    """Return an argparse type for a bounded number."""

    def parse(text: str) -> int:
        value = int(text)
        if not lowest <= value <= highest:
            raise argparse.ArgumentTypeError(f"{value} is not within {lowest} and {highest}")
        return value

    return parse  # type: ignore[return-value]


def main() -> None:
    """Do what was asked for."""
    host, port = os.environ.get("MOODFOOD_HOST", "127.0.0.1"), os.environ.get("MOODFOOD_GATEWAY_PORT", "8000")
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    logs = Path(os.environ.get("MOODFOOD_DATA_DIR", Path(__file__).resolve().parent.parent / "data")) / "logs"
    parser = argparse.ArgumentParser(description=__doc__)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--setup", action="store_true", help="install the line, or replace it")
    action.add_argument("--status", action="store_true", help="show the line; exits 1 if there is none")
    action.add_argument("--remove", action="store_true", help="remove the line")
    parser.add_argument("--hour", type=number(0, 23), default=3, help="0 to 23, default 3")
    parser.add_argument("--minute", type=number(0, 59), default=0, help="0 to 59, default 0")
    parser.add_argument("--day", choices=DAYS, default="sunday", help="day of the week, default sunday")
    parser.add_argument("--url", default=url, help="address of the gateway")
    asked = parser.parse_args()

    lines = read_crontab()
    ours = [line for line in lines if line.endswith(MARK)]
    if asked.status:
        print("\n".join(ours) if ours else "no retraining is scheduled")
        sys.exit(0 if ours else 1)
    if asked.remove:
        if ours:
            write_crontab(without_ours(lines))
        print("removed" if ours else "nothing was scheduled")
        return
    logs.mkdir(parents=True, exist_ok=True)
    line = cron_line(asked.minute, asked.hour, asked.day, asked.url.rstrip("/"), logs.resolve() / "cron.log")
    write_crontab([*without_ours(lines), line])
    print(line)


if __name__ == "__main__":
    main()
