"""A page to try models on: a live camera or a photo goes in, boxes and the likeliest emotions come out.

On Gradio, which Colab has: its queue serves several visitors, and a public link needs no server of one's own.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from inspect import signature
from itertools import count
from pathlib import Path

from PIL import Image

from emo.data.faces import glance_for_faces
from emo.data.image_io import whole_image
from emo.environment import in_notebook
from emo.errors import UserError
from emo.inference.answer_html import boxes, cards, picture, sentence
from emo.inference.classifier import find_model, load_classifier
from emo.inference.grad_cam import crop_and_map, laid_over
from emo.inference.photo import MAX_DOWNLOAD, MAX_SIDE, classify_faces, in_reading_order
from emo.inference.predictor import Predictor

STYLE = (Path(__file__).parent / "live_page.css").read_text(encoding="utf-8")
FEELINGS = (
    "An expression is not a feeling: people pose, and the model makes mistakes. Do not judge people by it."
)
PRIVATE = (
    "Pictures are processed on the computer that runs this page and sent nowhere else. Camera frames are not "
    "kept; uploads are deleted after ten minutes."
)
SHARED = "As this is a public link, they pass through Gradio's servers."
START = "Allow access to the camera, then press Record (nothing is recorded): boxes and predictions appear."
NO_FACE = "No face found: come closer, or turn on more light."
WHOLE = "No face was found: this is the prediction for the whole photo."
GONE = "The photo has been deleted meanwhile: choose it again."
CAMERA = {"width": {"ideal": 640}, "height": {"ideal": 480}}  # the search for faces sees no more than 256
EVERY = 0.1  # seconds between two frames that the browser sends; only the newest of them waits
VISITORS = 10  # whose cameras are looked at in turns; the next ones wait in line
TURN = 60  # seconds of work for one camera before those in line come in
KEPT = (60, 600)  # seconds: how often uploads are cleared away, and how old they get
# all that the browser may load comes from the page's own host, whatever version of Gradio wants
POLICY = b"default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'"


def demo(
    classifiers: str | Path | Predictor | Sequence[str | Path | Predictor] = "emo_mini",
    share: bool = False,
    port: int | None = None,
):
    """Opens the live page: in a notebook below the cell; from a shell it waits until Ctrl-C.

    `classifiers`: one or several to choose from, each a classifier, an ensemble, a `.h5`, or its name in
    `model/`. Below the `abstain_below` of a model's metadata no emotion is named; visitors may move it.
    `share` makes a public https link that lasts some days, through Gradio's servers: for a phone, as browsers
    give no camera to http. `port` is the first free one from 7860 on unless given. Frames are not stored,
    uploads for ten minutes; nothing is sent elsewhere. Gives the page, whose `close()` ends it. Raises
    UserError where gradio or mtcnn is missing, a model cannot be used, or the port is taken.
    """
    page = open_page(classifiers, share, port)
    if in_notebook():
        if page.share_url:
            print(f"The public link: {page.share_url}")
        return page
    print(f"The page is open at {page.share_url or page.local_url} until Ctrl-C.", flush=True)
    with suppress(KeyboardInterrupt):
        threading.Event().wait()
    page.close(verbose=False)
    return page


def open_page(classifiers, share: bool = False, port: int | None = None):
    """The page of `demo`, open at its `local_url`; returns at once."""
    gr = _gradio()
    named = _named(classifiers)
    blank = Image.new("RGB", (64, 64))
    glance_for_faces([blank])  # it and the models build graphs, for which the first visitor shall not wait
    for classifier in named.values():
        classifier.predict([blank], [None])
    page = _page(named, share)
    from starlette.middleware import Middleware

    options = {
        "app_kwargs": {"middleware": [Middleware(_OwnHost)]},
        "enable_monitoring": False,
        "footer_links": [],
        "max_file_size": MAX_DOWNLOAD,
        "prevent_thread_lock": True,
        "quiet": True,
        "run_history": False,  # else Gradio 6 keeps photos in the browser
        "server_port": port,
        "share": share,
        "show_api": False,
        "ssr_mode": False,
    }
    try:
        page.launch(**_known(gr.Blocks.launch, **options, **_look(gr)))
    except OSError:
        taken = f"Port {port} is taken" if port else "The ports from 7860 to 7959 are taken"
        raise UserError(f"{taken}; give one that is free.") from None
    return page


def _page(named: dict[str, Predictor], share: bool):
    """The `gradio.Blocks`, not open yet; `named` holds the models to choose from."""
    gr = _gradio()
    names = list(named)
    one_look = threading.Lock()  # TensorFlow uses all cores by itself

    def look_at_photo(photo: str | None, name: str, limit: float, where: bool) -> str:
        with one_look:
            return _photo_answer(named[name], photo, limit, where)

    def look_at_frame(frame, name: str, limit: float, times: Sequence[float]) -> tuple[str, str, list]:
        if frame is None:
            return "", sentence(START), []
        with one_look:
            drawn, told = _frame_answer(named[name], frame, limit)
        times = [*times[-10:], time.monotonic()]
        return drawn, told + _rate(times), times

    blocks = _known(gr.Blocks, analytics_enabled=False, delete_cache=KEPT, fill_width=True, **_look(gr))
    with gr.Blocks(title="Facial expressions", **blocks) as page:
        gr.HTML(_head(share), elem_id="head")
        with gr.Row(elem_id="settings"):
            model = gr.Dropdown(names, value=names[0], label="Model", min_width=240, elem_id="model")
            first = _abstain_below(named[names[0]])
            limit = gr.Slider(
                0, 1, first, step=0.01, label="Not sure below this confidence", min_width=240, elem_id="limit"
            )
        with gr.Tab("Camera"), gr.Row():
            with gr.Column(elem_id="live"):
                camera = gr.Image(
                    sources=["webcam"],
                    streaming=True,
                    type="pil",
                    show_label=False,
                    webcam_options=gr.WebcamOptions(constraints=CAMERA),
                    elem_id="camera",
                )
                over = gr.HTML(elem_id="boxes")
            with gr.Column():
                told = gr.HTML(sentence(START), elem_id="cards")
        with gr.Tab("Photo"), gr.Row():
            with gr.Column():
                photo = gr.Image(
                    sources=["upload", "webcam", "clipboard"], show_label=False, height=300, elem_id="photo"
                )
                # the file itself: the project's own reader opens more kinds, and says what is wrong
                photo.preprocess = lambda payload: payload and payload.path
                where = gr.Checkbox(label="Show where the model looks (Grad-CAM)", elem_id="where")
            with gr.Column():
                answer = gr.HTML(elem_id="answer")
        times = gr.State([])
        camera.stream(
            look_at_frame,
            [camera, model, limit, times],
            [over, told, times],
            stream_every=EVERY,
            concurrency_limit=VISITORS,
            time_limit=TURN,
            show_progress="hidden",
            api_name="live",
        )
        model.change(lambda name: _abstain_below(named[name]), model, limit, queue=False, api_name=False)
        gr.on(
            [photo.change, model.change, limit.change, where.change],
            look_at_photo,
            [photo, model, limit, where],
            answer,
            concurrency_limit=1,
            trigger_mode="always_last",
            api_name="photo",
        )
    return page


def _photo_answer(classifier: Predictor, file: str | None, limit: float, where: bool) -> str:
    if not file:
        return ""
    if not Path(file).exists():
        return sentence(GONE)
    try:
        answered = classify_faces(classifier, whole_image(Path(file), MAX_SIDE, Path(file).name))
    except UserError as error:
        return sentence(str(error))
    photo, faces, answers = answered.photo, answered.faces, answered.answers
    maps = [_map(classifier, photo, *of) for of in zip(answers.emotion, faces, strict=True)] if where else []
    if faces == (None,):
        return picture(photo) + sentence(WHOLE) + cards(answers, limit, maps)
    return picture(photo, boxes(faces, answers, photo.size, limit)) + cards(answers, limit, maps)


def _map(classifier: Predictor, photo: Image.Image, emotion: str, face):
    """Grad-CAM over the face, or why there is none."""
    try:
        return laid_over(*crop_and_map(classifier, photo, emotion, face))
    except UserError as error:  # a network without a feature map
        return str(error)


def _frame_answer(classifier: Predictor, frame: Image.Image, limit: float) -> tuple[str, str]:
    """The boxes over a frame of the camera, and the cards beside it."""
    (faces,) = glance_for_faces([frame])
    if not faces:
        return "", sentence(NO_FACE)
    faces = in_reading_order(faces)
    answers = classifier.predict([frame] * len(faces), faces)
    return boxes(faces, answers, frame.size, limit), cards(answers, limit)


def _rate(times: Sequence[float]) -> str:
    if len(times) < 2:
        return ""
    rate = (len(times) - 1) / (times[-1] - times[0])
    return f'<p class="rate">{rate:.1f} frames per second</p>'


def _abstain_below(classifier: Predictor) -> float:
    """The confidence below which the model's file says not to name an emotion; 0 where it says nothing."""
    return round(classifier.metadata.get("abstain_below") or 0.0, 2)


def _named(classifiers) -> dict[str, Predictor]:
    """The models by the names that the page gives them, each loaded."""
    if isinstance(classifiers, (str, Path, Predictor)):
        classifiers = [classifiers]
    named = {}
    for given in classifiers:
        loaded = given if isinstance(given, Predictor) else load_classifier(find_model(given, Path("model")))
        names = (loaded.name if number == 1 else f"{loaded.name} ({number})" for number in count(1))
        named[next(name for name in names if name not in named)] = loaded
    if not named:
        raise UserError("There is no model for the page: give a classifier, a .h5, or a list of them.")
    return named


def _gradio():
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before the import, which reads it
    try:
        import gradio
    except ImportError:
        raise UserError("The live page needs the package gradio; run `pip install gradio`.") from None
    return gradio


def _look(gr) -> dict:
    """Fonts of the visitor's own system, as Gradio's theme fetches others from Google."""
    return {
        "theme": gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        "css": STYLE,
    }


def _known(function: Callable, **options) -> dict:
    """Those of the options that this version of Gradio takes there: 5 and 6 differ."""
    taken = signature(function).parameters
    return {name: value for name, value in options.items() if name in taken}


def _head(share: bool) -> str:
    private = f"{PRIVATE} {SHARED}" if share else PRIVATE
    return f'<h1>Facial expressions</h1><p class="feelings">{FEELINGS}</p><p class="small">{private}</p>'


class _OwnHost:
    """ASGI middleware: every answer tells the browser to load nothing from elsewhere (POLICY)."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        async def send_with_policy(message):
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", POLICY)]
            await send(message)

        await self.app(scope, receive, send_with_policy)
