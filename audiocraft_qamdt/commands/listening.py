"""`qamdt listening-test`: people judge clips of systems, blind; a page for them, a server, and a report."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..listening.design import KINDS
from .output import say
from .parsing import Parser

_MAKE = "qamdt listening-test NAME=DIR [NAME=DIR ...] --out PAGE [options]"


def add_parsers(commands: argparse._SubParsersAction) -> None:
    listening = commands.add_parser(
        "listening-test",
        help="let people rate clips of several systems, blind",
        usage=f"{_MAKE}\n"
        "       qamdt listening-test serve PAGE --results DIR [options]\n"
        "       qamdt listening-test report RESULTS [RESULTS ...] --key PAGE/key.json [options]",
    )
    assert isinstance(listening, Parser)
    listening.usual, listening.others = "make", ("serve", "report")
    tasks = listening.add_subparsers(dest="task", required=True, prog="qamdt listening-test")
    _add_make(tasks.add_parser("make", help="make a page (need not be named)", usage=_MAKE))
    _add_serve(tasks.add_parser("serve", help="serve a page and keep what raters answer"))
    _add_report(tasks.add_parser("report", help="evaluate answers"))


def _add_make(make: argparse.ArgumentParser) -> None:
    make.add_argument("systems", nargs="+", metavar="NAME=DIR", help="a system, and the folder of its clips")
    make.add_argument("--out", type=Path, required=True, help="new folder: public/ is for raters, key.json is not")
    make.add_argument(
        "--kind", choices=KINDS, default="rating", help="OVL and REL of each clip from 1 to 5, or A/B (default: rating)"
    )
    make.add_argument("--captions", type=Path, help="JSON, JSON lines or CSV; default: sidecars beside the clips")
    make.add_argument("--checks", type=int, default=3, help="number of attention checks (default: 3)")
    make.add_argument("--per-rater", type=int, help="prompts that each rater hears, chosen by chance (default: all)")
    make.add_argument("--title", default="Listening test", help="shown to raters")
    make.set_defaults(run=_make)


def _add_serve(serve: argparse.ArgumentParser) -> None:
    serve.add_argument("page", type=Path, help="what --out named")
    serve.add_argument("--results", type=Path, required=True, help="folder for the answers, a file each")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 = all, for other machines")
    serve.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="another name that browsers call it by"
    )
    serve.add_argument("--port", type=int, default=8000)
    serve.set_defaults(run=_serve)


def _add_report(report: argparse.ArgumentParser) -> None:
    report.add_argument("results", nargs="+", type=Path, metavar="RESULTS", help="files of answers, or their folder")
    report.add_argument("--key", type=Path, required=True, help="key.json of the page")
    report.add_argument(
        "--allow-failed",
        type=int,
        default=0,
        metavar="N",
        help="count raters with N attention checks failed (default: 0)",
    )
    report.add_argument("--out", type=Path, help="JSON to write, and a Markdown table beside it (x.md)")
    report.set_defaults(run=_report)


def _make(args: argparse.Namespace) -> int:
    from ..listening.page import make_test

    systems: dict[str, str] = {}
    for given in args.systems:
        name, equals, folder = given.partition("=")
        if not (name and equals and folder):
            raise ValueError(f"{given}: give a system as NAME=DIR")
        if name in systems:
            raise ValueError(f"two systems are called {name}: give each a name of its own")
        systems[name] = folder
    settings = {name: getattr(args, name) for name in ("kind", "captions", "checks", "per_rater", "title")}
    key = make_test(systems, args.out, **settings)
    trials = len(key.trials)
    say(
        [
            f"{args.out / 'public'}: for raters, {trials} screens ({args.checks} attention checks), test {key.test}",
            f"{args.out / 'key.json'}: says which clip is whose, keep it from raters",
        ]
    )
    return 0


def _serve(args: argparse.Namespace) -> int:
    from ..listening.server import serve

    serve(args.page, args.results, args.host, args.port, args.allow_host)
    return 0


def _report(args: argparse.Namespace) -> int:
    from ..listening.design import Key
    from ..listening.report import report_on
    from ..listening.results import read_results
    from ..utils.files import write_json, write_lines
    from ..utils.outputs import check_beside, check_file, check_ours

    if args.out is not None:
        check_file(args.out, (".json",))
        check_ours(args.out, lambda content: {"test", "win_rates", "agreement"} <= content.keys(), "the results")
        check_beside(args.out, args.out.with_suffix(".md"))
    key = Key.read(args.key)
    report = report_on(read_results(args.results, key), key, args.allow_failed)
    lines = report.markdown()
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        write_lines(args.out.with_suffix(".md"), lines)
        write_json(args.out, report.to_dict())
    say(lines)
    return 0
