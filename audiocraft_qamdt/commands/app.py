"""`qamdt app`: a web page to try a model."""

from __future__ import annotations

import argparse

from .generate import add_model, model_name


def add_parsers(commands: argparse._SubParsersAction) -> None:
    app = commands.add_parser("app", help="serve a web page to try a model")
    add_model(app)
    app.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 = all, for other machines")
    app.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="another name that browsers call it by"
    )
    app.add_argument("--port", type=int, default=7860, help="port to listen on")
    app.add_argument("--max-duration", type=float, default=60.0, help="longest clip, in seconds")
    app.add_argument("--max-candidates", type=int, default=4, help="maximum number of candidates")
    app.add_argument("--max-steps", type=int, default=200, help="maximum number of steps")
    app.add_argument("--max-queue", type=int, default=16, help="maximum number of waiting requests")
    app.set_defaults(run=_app)


def _app(args: argparse.Namespace) -> int:
    from ..generation.app import Limits, serve

    limits = Limits(args.max_duration, args.max_candidates, args.max_steps, args.max_queue)
    address = {"host": args.host, "port": args.port, "allow_hosts": args.allow_host, "adapters": args.adapter}
    serve(model_name(args.model), args.device, args.dtype, limits=limits, **address)
    return 0
