"""`qamdt app`: a web page that generates with one model, for one person or a few."""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import shutil
import tempfile
import threading
import time
import types
import typing as tp
from dataclasses import dataclass
from pathlib import Path

from ..data.attributes import Curve
from ..diffusion.settings import STOCHASTIC
from ..utils import plots
from ..utils.reading import JsonValue
from ..utils.serving import check_port, hosts_of
from .admission import Admission
from .files import Job, run_jobs
from .params import CLAP, KNOBS, PMOS, PREDICTOR
from .qamdt import QAMDT

if tp.TYPE_CHECKING:
    from gradio import Blocks
    from gradio.components import Component
    from starlette.middleware import Middleware

Progress = tp.Callable[..., None]
"""`gradio.Progress`: called with ((done, total), desc, unit)."""

logger = logging.getLogger(__name__)

EXAMPLES = [
    ["slow piano in a minor", "", 5],
    ["fast drums and bass", "piano", 4],
    ["warm lo-fi guitar, tape hiss", "", 2],
]
_KNOBS = ("negative_prompt", "quality", "duration", "steps", "guidance_scale")
"""Settings with a control on the page; beside them it has the first seed and the number of clips."""
TEXTS = ("prompt", "negative_prompt", "rerank")
KEEP_ALL = ""
"""Value of the page's `rerank` that keeps all clips."""
_KEEP_SECONDS = 3600
_KEEP_FILES = 600
_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True)
class Limits:
    """Limits of one request, and of how many may wait.

    Args:
        duration: longest clip, in seconds.
        candidates: most clips at once.
        steps: most sampling steps.
        queue: most requests that wait.
        words: longest prompt.
        characters: longest text of one field.
    """

    duration: float = 60.0
    candidates: int = 4
    steps: int = 200
    queue: int = 16
    words: int = 1000
    characters: int = 10_000

    def check(self, asked: Asked) -> None:
        """Refuse what is beyond the limits, whatever the page's own controls allow.

        Raises:
            ValueError: naming the limit.
        """
        for field in dataclasses.fields(Asked):
            _check_field(field.name, getattr(asked, field.name), self.characters)
        words = len(f"{asked.prompt} {asked.negative_prompt}".split())
        limits = {
            "duration": (asked.duration, self.duration, "s"),
            "candidates": (asked.candidates, self.candidates, "clips"),
            "steps": (asked.steps, self.steps, "steps"),
            "prompt": (words, self.words, "words"),
        }
        for name, (value, largest, unit) in limits.items():
            if value > largest:
                raise ValueError(f"{name}: {value:g} {unit}, but this page makes at most {largest:g} {unit}")


def _check_field(name: str, value: object, characters: int) -> None:
    if name in TEXTS:
        if not isinstance(value, str) or len(value) > characters:
            raise ValueError(f"{name}: give a text of at most {characters} characters")
    elif name != "changes" and not (isinstance(value, (int, float)) and math.isfinite(value)):
        raise ValueError(f"{name}: give a number")


@dataclass(frozen=True)
class Asked:
    """Values of the page's controls, in their order."""

    prompt: str
    negative_prompt: str
    quality: float
    changes: bool
    quality_start: float
    quality_middle: float
    quality_end: float
    duration: float
    steps: float
    guidance_scale: float
    seed: float
    candidates: float
    eta: float = 0.0
    rerank: str = KEEP_ALL

    def curve(self) -> Curve:
        """Return quality over time: start, middle and end."""
        middle = self.duration / 2
        return [(0.0, self.quality_start), (middle, self.quality_middle), (self.duration, self.quality_end)]


def make_clips(
    model: QAMDT, name: str, asked: Asked, limits: Limits, folder: Path, progress: tp.Callable[[int, int], None]
) -> list[tuple[Path, Path]]:
    """Generate the clips, each an audio file (its settings beside it) and the picture of its spectrogram.

    Args:
        folder: empty; the files are written there.
        progress: called with (steps done, steps in all).
    Raises:
        ValueError: what is asked for is impossible or beyond the limits.
    """
    limits.check(asked)
    if asked.rerank not in rerank_choices(model):
        raise ValueError(f"rerank: {asked.rerank!r} is not offered: choose among {rerank_choices(model)}")
    settings = {
        **{name: getattr(asked, name) for name in _KNOBS},
        "quality": asked.curve() if asked.changes else asked.quality,
        "steps": int(asked.steps),
        "negative_prompt": asked.negative_prompt or None,
    }
    if model.params.sampler in STOCHASTIC:
        settings["eta"] = asked.eta
    seed, count = int(asked.seed), int(asked.candidates)
    if asked.rerank != KEEP_ALL:
        settings |= {"candidates": count, "rerank": asked.rerank}
    seeds = range(seed, seed + count) if asked.rerank == KEEP_ALL else [seed]
    jobs = [Job(folder / f"{chosen}.wav", asked.prompt, {**settings, "seed": chosen}) for chosen in seeds]
    for _ in run_jobs(model, name, jobs, batch_size=count, progress=progress):
        pass
    return [(job.path, _picture(job.path)) for job in jobs]


def rerank_choices(model: QAMDT) -> list[str]:
    """Return what the page offers to choose among clips by: nothing that would be downloaded, no code of others."""
    pmos = f"{PMOS}:{PREDICTOR}"
    return [KEEP_ALL, pmos] + ([CLAP, f"{CLAP}+{pmos}"] if model.params.clap else [])


def _picture(path: Path) -> Path:
    import soundfile
    import torch

    samples, sample_rate = soundfile.read(path, dtype="float32", always_2d=True)
    picture = path.with_suffix(".png")
    plots.spectrogram(torch.from_numpy(samples.T), sample_rate, picture, f"seed {path.stem}")
    return picture


def build(model: QAMDT, name: str, limits: Limits, folder: Path) -> Blocks:
    """Build the page.

    Args:
        name: of the model, shown.
        folder: where clips are written.
    """
    gradio = _gradio()
    sound = f"{model.sample_rate} Hz, stereo" if model.codec.channels == 2 else f"{model.sample_rate} Hz"
    with gradio.Blocks(analytics_enabled=False, title="QA-MDT", delete_cache=(_KEEP_SECONDS, _KEEP_SECONDS)) as page:
        gradio.Markdown(f"# QA-MDT\nText and quality in, music out. Model: `{name}`, {sound}.")
        with gradio.Row():
            with gradio.Column():
                controls = _controls(gradio, model, limits)
                button = gradio.Button("Generate", variant="primary", elem_id="generate")
                _examples(gradio, [controls["prompt"], controls["negative_prompt"], controls["quality"]])
            with gradio.Column():
                message = gradio.Markdown("Nothing generated yet.", elem_id="message")
                outputs = _outputs(gradio, limits.candidates)

        def generate(*values: JsonValue, progress: Progress = gradio.Progress()) -> list[object]:  # noqa: B008
            try:
                _remove_old(folder)
                with _ONE_AT_A_TIME:  # the queue sees to it; this holds whatever else may call
                    clips = make_clips(
                        model,
                        name,
                        Asked(*values),
                        limits,
                        Path(tempfile.mkdtemp(dir=folder)),
                        lambda done, total: progress((done, total), desc="denoising", unit="steps"),
                    )
            except (ValueError, RuntimeError, OSError) as error:
                raise gradio.Error(str(error), print_exception=False) from error
            shown = [gradio.update(value=str(file), visible=True) for clip in clips for file in clip]
            hidden = [gradio.update(value=None, visible=False)] * (len(outputs) - len(shown))
            asked = Asked(*values)
            chosen = "" if asked.rerank == KEEP_ALL else f", the best of {asked.candidates:g} by {asked.rerank}"
            return [f"{len(clips)} × {asked.duration:g} s{chosen}", *shown, *hidden]

        button.click(generate, list(controls.values()), [message, *outputs], api_name="generate")
    return page.queue(max_size=limits.queue, default_concurrency_limit=1)


def _examples(gradio: types.ModuleType, inputs: list[Component]) -> None:
    """Show rows that fill inputs when they are clicked; `gradio.Examples` would bypass the queue."""
    rows = gradio.Dataset(label="Examples", components=inputs, samples=EXAMPLES, type="values")
    rows.click(lambda row: row, rows, inputs, show_progress="hidden", api_visibility="private")


def _remove_old(folder: Path) -> None:
    """Remove clips that the page has had its own copies of for long; make the folder again where it has gone."""
    folder.mkdir(parents=True, exist_ok=True)
    for made in folder.iterdir():
        if made.stat().st_mtime < time.time() - _KEEP_FILES:
            shutil.rmtree(made, ignore_errors=True)


def _controls(gradio: types.ModuleType, model: QAMDT, limits: Limits) -> dict[str, Component]:
    """Build the inputs by the names of `Asked`'s fields, in their order."""
    defaults = model.params.to_dict()
    changes = gradio.Checkbox(label="Quality changes along the clip", elem_id="changes")
    controls: dict[str, Component] = {
        "prompt": gradio.Textbox(
            label="Prompt",
            lines=2,
            max_length=limits.characters,
            elem_id="prompt",
            placeholder="slow piano, warm strings",
        ),
        "negative_prompt": gradio.Textbox(
            defaults["negative_prompt"] or "",
            label="Negative prompt",
            info=_help("negative_prompt"),
            max_length=limits.characters,
            elem_id="negative",
        ),
        "quality": gradio.Slider(1, 5, 5, step=0.5, label="Quality", elem_id="quality"),
        "changes": changes,
    }
    with gradio.Row(visible=False) as curve:
        for place, level in (("start", 1), ("middle", 3), ("end", 5)):
            slider = gradio.Slider(1, 5, level, step=0.5, label=f"Quality, {place}", elem_id=f"quality-{place}")
            controls[f"quality_{place}"] = slider
    changes.change(lambda on: gradio.update(visible=on), changes, curve, api_visibility="private")
    seconds, steps = min(defaults["duration"], limits.duration), min(defaults["steps"], limits.steps)
    controls["duration"] = gradio.Slider(0.5, limits.duration, seconds, step=0.5, label="Seconds", elem_id="duration")
    with gradio.Accordion("More", open=False):
        controls["steps"] = gradio.Slider(1, limits.steps, steps, step=1, label="Steps", elem_id="steps")
        scale = max(0.0, min(15.0, defaults["guidance_scale"]))
        controls["guidance_scale"] = gradio.Slider(
            0, 15, scale, step=0.5, label="Guidance", info=_help("guidance_scale"), elem_id="guidance"
        )
        controls["seed"] = gradio.Number(
            defaults["seed"], precision=0, minimum=0, label="Seed", info=_help("seed"), elem_id="seed"
        )
        controls["candidates"] = gradio.Slider(1, limits.candidates, 1, step=1, label="Clips", elem_id="candidates")
        kept = [("all clips", KEEP_ALL), *((f"the best by {name}", name) for name in rerank_choices(model)[1:])]
        controls["rerank"] = gradio.Dropdown(kept, value=KEEP_ALL, label="Keep", elem_id="rerank")
        noisy = defaults["sampler"] in STOCHASTIC
        controls["eta"] = gradio.Slider(
            0, 1, model.params.used_eta, step=0.1, label="Eta", info=_help("eta"), visible=noisy, elem_id="eta"
        )
    return {field.name: controls[field.name] for field in dataclasses.fields(Asked)}


def _help(name: str) -> str:
    return KNOBS[name].metadata["help"]


def _outputs(gradio: types.ModuleType, candidates: int) -> list[Component]:
    """Build a player and a picture for each possible clip."""
    outputs = []
    for index in range(candidates):
        outputs.append(
            gradio.Audio(
                label=f"Clip {index + 1}",
                type="filepath",
                interactive=False,
                visible=index == 0,
                buttons=["download"],
                elem_id=f"clip-{index}",
            )
        )
        outputs.append(
            gradio.Image(
                label="Spectrogram",
                show_label=False,
                type="filepath",
                interactive=False,
                visible=index == 0,
                buttons=["download", "fullscreen"],
                elem_id=f"picture-{index}",
            )
        )
    return outputs


def serve(
    name: str,
    device: str = "auto",
    dtype: str = "float32",
    *,
    limits: Limits,
    host: str = "127.0.0.1",
    port: int = 7860,
    allow_hosts: tp.Sequence[str] = (),
    adapters: tp.Sequence[str] = (),
) -> None:
    """Load a model and show the page until interrupted.

    Args:
        name, device, dtype, adapters: see `QAMDT.get_pretrained`.
        host: address to listen on.
        allow_hosts: further names that browsers may call this server by.
    Raises:
        RuntimeError: gradio is not installed.
        OSError: the port is taken.
    """
    gradio = _gradio()
    check_port(host, port)
    model = QAMDT.get_pretrained(name, device, dtype, adapters=adapters)
    with tempfile.TemporaryDirectory(prefix="qamdt-app-") as folder:
        page = build(model, " + ".join([name, *adapters]), limits, Path(folder))
        logger.info("http://%s:%d", host, port)
        page.launch(
            server_name=host,
            server_port=port,
            share=False,
            ssr_mode=False,
            quiet=True,
            max_file_size=1,  # bytes: the page takes no files
            app_kwargs={"middleware": [_admission(host, allow_hosts)]},
            footer_links=["api"],
            theme=gradio.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        )


def _admission(host: str, allow_hosts: tp.Sequence[str]) -> Middleware:
    from starlette.middleware import Middleware

    names, everywhere = hosts_of(host, allow_hosts)
    return Middleware(Admission, hosts=names, any_address=everywhere)


def _gradio() -> types.ModuleType:
    # Nothing is told to anyone: gradio reads this when it is imported, and asks for its newest version with analytics.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
    except ImportError as error:
        raise RuntimeError('the web page needs gradio: pip install "audiocraft_qamdt[app]"') from error
    return gradio
