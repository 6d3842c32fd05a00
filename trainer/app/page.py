"""The page of `rtd app`, in gradio: components, what they call on the desk, and how the page is served."""

import atexit
import functools
import html
import os
import shutil
import tempfile
from collections.abc import Sequence

from modeling_rtd import NEGATIVE_WEIGHT
from trainer.app.service import MAX_LETTERS, SearchDesk, new_state


__all__ = ["MAX_UPLOAD_BYTES", "build_page", "import_gradio", "mount_page", "serve_page"]

MAX_UPLOAD_BYTES = 20 * 2**20
_MAX_WAITING = 500  # requests in the queue; one is answered at a time
_MAX_VISITS = 200  # whose states are kept
_NOBODY = "nobody"
_CSS = """
.grid-wrap { max-height: none !important; height: auto !important; min-height: 0 !important; padding-top: 2rem;
  overflow: visible !important }
@media (max-width: 640px) { .grid-container { grid-template-columns: repeat(2, minmax(0, 1fr)) !important } }
#examples .caption-label { white-space: normal; text-overflow: clip }
@media (max-width: 640px) { #examples .grid-wrap { overflow-x: auto !important }
  #examples .grid-container { grid: auto / auto-flow 9rem !important } }
.thumbnail-item:focus-visible, .thumbnail-item.selected { outline: 3px solid #c2410c; outline-offset: 2px }
#message [role=alert] { color: #b91c1c; font-weight: 600 }
"""
# How the page is served, alone or beside other calls: no file but its own, and nothing that asks other machines.
_SERVED = {
    "css": _CSS,
    "max_file_size": MAX_UPLOAD_BYTES,
    "allowed_paths": [],
    "footer_links": [],
    "run_history": False,
    "ssr_mode": False,
    "pwa": False,
    "mcp_server": False,
    "enable_monitoring": False,
}


def import_gradio():
    """Import gradio, which nothing else here does.

    Returns:
        The module.

    Raises:
        ImportError: If it is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
    try:
        import gradio
    except ImportError as error:
        raise ImportError(
            "the page needs gradio: pip install gradio, or this package with its extra `app`."
        ) from error
    return gradio


def build_page(desk: SearchDesk):
    """Build the page.

    Args:
        desk ([`SearchDesk`]): Answers.

    Returns:
        `gradio.Blocks`: To be served by `serve_page`.

    Raises:
        ImportError: If gradio is not installed.
    """
    gr = import_gradio()
    # gradio looks every ten minutes, and removes uploads after an hour.
    with gr.Blocks(title="rtd", analytics_enabled=False, delete_cache=(600, 3600), fill_width=True) as blocks:
        _Page(gr, desk, blocks)
    return blocks.queue(max_size=_MAX_WAITING, default_concurrency_limit=1)


class _Page:
    """Components, and what each of them does: a method takes their values and gives those that change."""

    def __init__(self, gr, desk: SearchDesk, blocks):
        self.gr, self.desk = gr, desk
        self.state = gr.State(new_state, time_to_live=24 * 3600)
        gr.Markdown("# Find an image by an image and a sentence\nChoose an image, and write what should be different.")
        self._lay_out_examples()
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                self._lay_out_query()
            with gr.Column(scale=3, min_width=300):
                self._lay_out_results()
        self._connect()
        self._on(blocks.load, self._browse, [], None)

    def _lay_out_examples(self) -> None:
        self.examples = self.gr.Gallery(
            # Drawn once: the examples are the same for every visitor.
            self.desk.draw_examples(),
            label="Examples: click one",
            visible=bool(self.desk.examples),
            interactive=False,
            elem_id="examples",
            columns=max(1, len(self.desk.examples)),
            object_fit="contain",
            allow_preview=False,
            buttons=[],
        )

    def _lay_out_query(self) -> None:
        gr, voices = self.gr, list(self.desk.voices)
        self.preview = gr.Image(label="Reference", interactive=False, height=200, buttons=[], elem_id="reference")
        with gr.Row():
            self.upload = gr.UploadButton("Upload", file_types=["image"], size="sm", min_width=90, elem_id="upload")
            _refuse_urls(gr, self.upload)
            self.browse = gr.Button("From gallery", size="sm", min_width=90, elem_id="browse")
            self.clear = gr.Button("None", size="sm", min_width=60, elem_id="clear")
        self.text = gr.Textbox(
            label="Condition", placeholder="is blue instead of red", max_length=MAX_LETTERS, elem_id="text"
        )
        self.search = gr.Button("Search", variant="primary", elem_id="search")
        with gr.Accordion("More", open=False, elem_id="more"):
            self.strength = gr.Slider(
                0,
                1,
                1,
                step=0.05,
                label="Strength of the condition",
                info="1: the image as changed by the condition. 0: images like the reference.",
                elem_id="strength",
            )
            self.negative = gr.Textbox(
                label="Not wanted", placeholder="a striped one", max_length=MAX_LETTERS, elem_id="negative"
            )
            self.weight = gr.Slider(
                0,
                1,
                NEGATIVE_WEIGHT,
                step=0.05,
                label="Weight of what is not wanted",
                info="0: no effect. Higher values push such images further down.",
                elem_id="negative_weight",
            )
            _fill_blanks(self.strength)
            _fill_blanks(self.weight)
            with gr.Row():
                self.voice = gr.Dropdown(voices, value=voices[0], label="Answered by", elem_id="voice")
                self.other = gr.Dropdown([_NOBODY, *voices], value=_NOBODY, label="Compared with", elem_id="other")
        self.start = gr.Button("Start a new search", size="sm", elem_id="start")

    def _lay_out_results(self) -> None:
        gr = self.gr
        look = {"columns": 6, "object_fit": "contain", "allow_preview": False, "buttons": []}
        self.message = gr.HTML(elem_id="message")
        self.use = gr.Button("Use the chosen image as the next reference", size="sm", visible=False, elem_id="use")
        self.results = gr.Gallery(label="Gallery", interactive=False, elem_id="results", **look)
        self.others = gr.Gallery(interactive=False, visible=False, elem_id="others", **look)
        self.turns = gr.Radio([], label="History: choose a turn to see its results again", elem_id="turns")

    def _connect(self) -> None:
        self._on(self.upload.upload, self._take_upload, [self.upload], "upload")
        self._on(self.clear.click, self._drop_reference, [], "clear")
        self._on(self.browse.click, self._browse, [], "browse")
        self._on(self.start.click, self._start, [], "start")
        query = [self.text, self.strength, self.negative, self.weight, self.voice, self.other]
        self._on(self.search.click, self._search, query, "search")
        self._on(self.text.submit, self._search, query, None)
        self._on(self.negative.submit, self._search, query, None)
        self._on(self.turns.input, self._show_turn, [self.turns], "turn")
        self._on(self.use.click, self._use_chosen, [], "use")
        for grid, column in ((self.results, "results"), (self.others, "others")):
            self._on(grid.select, self._make_choose(column), [], None)
        self._on(self.examples.select, self._make_take_example(), [], None)

    def _on(self, event, step, inputs: list, api_name: str | None) -> None:
        # gradio sees by a step's signature that it takes the event of a click.
        @functools.wraps(step)
        def answer(*values):
            try:
                return step(*values)
            except ValueError as error:
                return {self.message: _tell(str(error), "alert")}

        event(
            answer,
            [self.state, *inputs],
            [
                *(self.state, self.preview, self.text),
                *(self.use, self.results, self.others, self.turns, self.message),
            ],
            api_name=api_name,
            api_visibility="private" if api_name is None else "public",
            show_progress="minimal",
            # One at a time, whatever it is: a model's adapters are switched while it answers.
            concurrency_id="desk",
            concurrency_limit=1,
        )

    def _show(self, state: dict, sentence: str, other: str = "") -> dict:
        gr, desk = self.gr, self.desk
        shown = {"visible": bool(state["others"]), "label": f"Compared with {other}", "selected_index": None}
        is_answer = state["turn"] is not None  # and not a page of the gallery, where a click is enough
        return {
            self.state: state,
            self.use: gr.Button(visible=is_answer),
            self.results: gr.Gallery(
                desk.draw(state["results"]), label="Results" if is_answer else "Gallery", selected_index=None
            ),
            self.others: gr.Gallery(desk.draw(state["others"]), **shown),
            self.turns: gr.Radio(desk.describe_turns(state), value=state["turn"]),
            self.message: _tell(sentence),
        }

    def _set_reference(self, state: dict, sentence: str) -> dict:
        return {self.state: state, self.preview: self.desk.draw_reference(state), self.message: _tell(sentence)}

    def _take_upload(self, state: dict, path: str | None) -> dict:
        if path is None:
            raise ValueError("no file came: choose an image to upload.")
        return self._set_reference(self.desk.take_upload(state, path), "The upload is the reference.")

    def _drop_reference(self, state: dict) -> dict:
        return self._set_reference(self.desk.take_upload(state, None), "There is no reference.")

    def _start(self, state: dict) -> dict:
        return self._set_reference(new_state(), "") | self._browse(new_state()) | {self.text: ""}

    def _browse(self, state: dict) -> dict:
        sentence = "Images of the gallery. Click the one to start from; “From gallery” shows the next ones."
        return self._show(self.desk.browse(state), sentence)

    def _search(self, state: dict, text, strength, negative, weight, voice, other) -> dict:
        compared = None if other == _NOBODY else other
        state = self.desk.search(state, text, strength, negative, weight, voice, compared)
        sentence = f"{len(state['results'])} results, best first: rank and score. {self.desk.hint(state)}"
        return self._show(state, sentence.rstrip(), other)

    def _show_turn(self, state: dict, number: int) -> dict:
        return self._show(self.desk.show_turn(state, number), f"Results of turn {number}.")

    def _make_choose(self, column: str):
        def choose(state: dict, event: self.gr.SelectData):
            state = self.desk.choose(state, event.index, column)
            if state["turn"] is None:  # of the gallery, where a click can mean nothing else
                return self._use_chosen(state)
            return {self.state: state, self.message: _tell(f"Image {event.index + 1} is chosen.")}

        return choose

    def _make_take_example(self):
        def take(state: dict, event: self.gr.SelectData):
            state, text = self.desk.take_example(state, event.index), self.desk.examples[event.index][1]
            shown = self._set_reference(state, "")
            return shown | self._search(state, text, None, "", None, None, None) | {self.text: text}

        return take

    def _use_chosen(self, state: dict) -> dict:
        state = self.desk.use_chosen(state)
        return self._set_reference(state, "The chosen image is the reference: write what should be different.")


def _refuse_urls(gr, upload) -> None:
    """Take files alone: gradio would also fetch a URL that a request names."""
    # Of the instance, since gradio writes a file of stubs beside the source of every subclass.
    take = upload.async_move_resource_to_block_cache

    async def take_file(place):
        if str(place).lower().startswith(("http:", "https:")):
            raise gr.Error("only files are taken, and no URLs.")
        return await take(place)

    upload.async_move_resource_to_block_cache = take_file


def _fill_blanks(slider) -> None:
    """Take a blank, as a request may bring it, for the slider's first value: gradio ends in an error without words."""
    preprocess, first = slider.preprocess, slider.value
    slider.preprocess = lambda value: preprocess(first if value is None else value)


def _tell(sentence: str, role: str = "status") -> str:
    return f'<div role="{role}">{html.escape(sentence)}</div>'


def _open_folder() -> None:
    """Make a folder for small pictures and uploads, removed at the end: gradio would leave them in the system's."""
    folder = tempfile.mkdtemp(prefix="rtd-app-")
    os.environ["GRADIO_TEMP_DIR"] = folder
    atexit.register(shutil.rmtree, folder, ignore_errors=True)


def mount_page(app, desk: SearchDesk, path: str) -> None:
    """Serve the page beside other calls.

    Args:
        app (`fastapi.FastAPI`): Serves them.
        desk ([`SearchDesk`]): Answers.
        path (`str`): Of the page, such as `/page`.

    Raises:
        ImportError: If gradio is not installed.
    """
    gr = import_gradio()
    _open_folder()
    page = build_page(desk)
    page.state_session_capacity = _MAX_VISITS
    gr.mount_gradio_app(app, page, path, **_SERVED)


def serve_page(desk: SearchDesk, host: str = "127.0.0.1", port: int | None = None, hosts: Sequence[str] = ()):
    """Serve the page, in threads of its own.

    Small pictures and uploads are in a folder of their own, which is removed at the end; no other file is served.

    Args:
        desk ([`SearchDesk`]): Answers.
        host (`str`, defaults to `"127.0.0.1"`): Address to listen at; at this one no other machine is let in.
        port (`int`, *optional*): Port. Defaults to the first free one from 7860 on.
        hosts (`list[str]`): Names that requests may give their host, beside `host`, `localhost` and addresses.

    Returns:
        `tuple`: The page, to be waited for (`block_thread`) or closed, and its URL.

    Raises:
        ImportError: If gradio is not installed.
        OSError: If the port is taken, or the address is none of this machine.
    """
    import_gradio()
    _open_folder()
    page = build_page(desk)
    from starlette.middleware import Middleware

    from trainer.app.guards import KnownHosts

    try:
        _, url, _ = page.launch(
            server_name=host,
            server_port=port,
            # Sharing would fetch a program that opens a tunnel to this machine.
            share=False,
            inbrowser=False,
            quiet=True,
            state_session_capacity=_MAX_VISITS,
            app_kwargs={"middleware": [Middleware(KnownHosts, hosts=[host, *hosts])]},
            prevent_thread_lock=True,
            **_SERVED,
        )
    except OSError as error:
        taken = "the ports from 7860 on are" if port is None else f"the port {port} is"
        raise OSError(f"{taken} taken at {host}, or that address is not of this machine: choose others.") from error
    return page, url
