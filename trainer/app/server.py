"""The HTTP service of `rtd serve`, in FastAPI: composed search and encoding, where every refusal is a sentence."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Annotated, Any

import torch
from fastapi import APIRouter, Depends, FastAPI, File, Form, HTTPException, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError
from starlette.exceptions import HTTPException as AnyHTTPException

from modeling_rtd import IMAGE_FORMATS, Query, encode_composed, read_query
from trainer.app.guards import KnownHosts, LimitBody, LimitRate, LimitTime, PageToken, is_token
from trainer.app.history import SearchHistory
from trainer.app.page import MAX_UPLOAD_BYTES, mount_page
from trainer.app.service import MAX_LETTERS, SearchDesk


__all__ = ["PAGE", "BatchEncoder", "build_server"]

_MOST = {"references": 16, "results": 1000, "excluded": 10_000, "numbers": 16_384, "values": 1000}
_MOST_WAITING, _BATCH, _SECONDS = 200, 16, 60
_MOST_DECODED = 4  # queries at a time: sixteen references of 50 million pixels are 2.4 GB while they are read
PAGE = "/page"
_ALGEBRA = ("text", "weights", "strength", "negative", "negative_weight", "adapter")


class _Reference(BaseModel):
    """A query: references by id or as uploads, a text, and their algebra, as the pipeline takes them."""

    model_config = ConfigDict(extra="forbid")
    ids: list[str] = Field([], max_length=_MOST["references"], description="stored images that are references")
    text: str | None = Field(None, max_length=MAX_LETTERS, description="condition; alone, a plain text")
    weights: list[FiniteFloat] | None = Field(None, max_length=_MOST["references"], description="one a reference")
    strength: FiniteFloat | None = Field(None, description="from 0, the reference alone, to 1, the query as it is")
    negative: str | None = Field(None, max_length=MAX_LETTERS, description="what is not wanted")
    negative_weight: FiniteFloat | None = Field(None, description="how much that counts (default: 0.25)")
    adapter: str | None = Field(None, description="name of an adapter of the text tower; __base__ for none")


class _Search(_Reference):
    """A query with a search."""

    vector: list[FiniteFloat] | None = Field(
        None, max_length=_MOST["numbers"], description="an embedding, in place of references and text"
    )
    top_k: int = Field(10, ge=1, le=_MOST["results"])
    where: dict[str, Any] | None = Field(None, description="fields of metadata and their values, or lists of values")
    min_score: FiniteFloat | None = Field(None, description="smallest cosine")
    exclude: list[str] = Field([], max_length=_MOST["excluded"], description="ids to leave out")


class _Hit(BaseModel):
    id: str
    score: float
    metadata: dict[str, Any] | None = None


class _Results(BaseModel):
    results: list[_Hit]


class _Vector(BaseModel):
    vector: list[float]


class _Refusal(BaseModel):
    detail: str


_Uploads = Annotated[list[UploadFile], File(description=f"references: {', '.join(IMAGE_FORMATS)}")]
_Form = Annotated[str, Form(description="the same as the body of the call without /upload, as JSON")]


class _Answer(JSONResponse):
    def render(self, content: Any) -> bytes:
        """Write ASCII: an id may be the path of a file whose name is not a valid text."""
        return json.dumps(content, allow_nan=False).encode()


class BatchEncoder:
    """Encodes in one thread what many ask for; queries that wait are encoded together.

    Args:
        model ([`RTDModel`]): Encodes.
        processor ([`RTDProcessor`]): Its processor.
    """

    def __init__(self, model, processor):
        self._model, self._processor = model, processor
        self._waiting: queue.Queue = queue.Queue(_MOST_WAITING)
        threading.Thread(target=self._work, daemon=True, name="encoder").start()

    def encode(self, query: Query) -> torch.Tensor:
        """Encode a query.

        Args:
            query ([`Query`]): Query.

        Returns:
            `torch.Tensor` of shape `(projection_dim,)`: L2-normalised.

        Raises:
            ValueError: If it is not accepted.
            TimeoutError: If 200 queries wait already, or this one has waited for a minute.
        """
        future: Future = Future()
        try:
            self._waiting.put_nowait((query, future))
            return future.result(_SECONDS)
        except (queue.Full, TimeoutError) as error:
            future.cancel()
            raise TimeoutError("too many queries wait: ask again later.") from error

    def _work(self) -> None:
        while True:
            batch = [self._waiting.get()]
            while len(batch) < _BATCH and not self._waiting.empty():
                batch.append(self._waiting.get())
            # A caller that gave up waiting is not answered.
            batch = [(query, future) for query, future in batch if future.set_running_or_notify_cancel()]
            try:
                self._answer(batch)
            except Exception:  # one of them: each hears of its own
                for pair in batch:
                    try:
                        self._answer([pair])
                    except Exception as error:
                        pair[1].set_exception(error)

    @torch.no_grad()
    def _answer(self, batch: list[tuple[Query, Future]]) -> None:
        if not batch:
            return
        embeds = encode_composed(self._model, self._processor, [query for query, _ in batch])
        for row, (_, future) in zip(embeds, batch, strict=True):
            future.set_result(row)


class _Service:
    def __init__(self, desk: SearchDesk):
        self.desk = desk
        self.pipeline = next(iter(desk.voices.values())).pipeline
        self.encoder = BatchEncoder(self.pipeline.model, self.pipeline.processor)
        self.decoding = threading.BoundedSemaphore(_MOST_DECODED)

    def encode(self, asked: _Reference, uploads: list[UploadFile]) -> torch.Tensor:
        with self.decoding:
            query = self.read(asked, uploads)
        return self.encoder.encode(query)

    def read(self, asked: _Reference, uploads: list[UploadFile]) -> Query:
        count = len(uploads) + len(asked.ids)
        if not count and not (asked.text and asked.text.strip()):
            came = "no reference" if asked.text is None else "a blank `text` and no reference"
            raise ValueError(f"a query needs references (`ids` or uploads), a `text` or both, got {came}.")
        if count > _MOST["references"]:  # before any is decoded: a small file may hold many pixels
            raise ValueError(f"a query may have {_MOST['references']} references, got {count}.")
        here = SearchHistory(self.pipeline, root=self.desk.root)
        images = [self.desk.read_upload(upload.file.read(), upload.filename or "upload") for upload in uploads]
        for name in asked.ids:
            if name not in self.desk.gallery:
                raise HTTPException(404, f"the gallery has no image '{name}'.")
            images.append(here.locate(name))
        given = {name: getattr(asked, name) for name in _ALGEBRA}
        query = {name: value for name, value in given.items() if value is not None} | {"image": images or None}
        self.pipeline.model.check_adapters([asked.adapter])
        return read_query(query, self.pipeline.processor)

    def search(self, asked: _Search, uploads: list[UploadFile]) -> dict:
        longest = max([len(values) for values in (asked.where or {}).values() if isinstance(values, list)], default=0)
        if longest > _MOST["values"]:  # each of them is compared with each image, and other searches wait
            raise ValueError(f"a field of `where` may have {_MOST['values']:,} values, got {longest:,}.")
        if asked.vector is None:
            embeds = self.encode(asked, uploads)
        elif uploads or asked.ids or any(getattr(asked, name) is not None for name in _ALGEBRA):
            raise ValueError("a vector is a whole query: give it without references, text and algebra.")
        else:
            embeds = torch.tensor(asked.vector)
        exclude = [[*asked.exclude, *asked.ids]]
        (hits,) = self.desk.gallery.search(embeds[None], asked.top_k, exclude, asked.where, asked.min_score)
        return {"results": hits}


def build_server(
    desk: SearchDesk,
    hosts: Sequence[str] = (),
    token: str | None = None,
    rate_limit: int | None = None,
    time_limit: float = _SECONDS,
    page: bool = False,
) -> FastAPI:
    """Build the service.

    Args:
        desk ([`SearchDesk`]): Has the gallery, the folder of its images, and the model with its adapters.
        hosts (`list[str]`): Names that requests may give their host, beside `localhost` and addresses. `*` is any.
        token (`str`, *optional*): What requests must bring as `Authorization: Bearer`, and who visits the page as a
            password. By default anybody may ask.
        rate_limit (`int`, *optional*): POST requests a minute of one address. Defaults to any number.
        time_limit (`float`, defaults to 60): Seconds until an answer begins.
        page (`bool`, defaults to `False`): Whether the page of `rtd app` is served too, at `/page`.

    Returns:
        `fastapi.FastAPI`: The application, for uvicorn.

    Raises:
        ImportError: If gradio is not installed, with `page`.
    """
    app = FastAPI(title="rtd", description=__doc__, default_response_class=_Answer)
    # The last one is asked first.
    app.add_middleware(LimitBody, count=MAX_UPLOAD_BYTES)
    app.add_middleware(LimitTime, seconds=time_limit)
    if token is not None:
        app.add_middleware(PageToken, token=token, path=PAGE)
    if rate_limit is not None:
        app.add_middleware(LimitRate, count=rate_limit)
    app.add_middleware(KnownHosts, hosts=hosts)
    app.add_exception_handler(RequestValidationError, lambda _, error: _refuse(422, _word(error.errors())))
    app.add_exception_handler(ValidationError, lambda _, error: _refuse(422, _word(error.errors())))
    app.add_exception_handler(ValueError, lambda _, error: _refuse(422, str(error)))
    for kind in (TimeoutError, ConnectionError):  # such as a database that is away
        app.add_exception_handler(kind, lambda _, error: _refuse(503, str(error)))
    app.add_exception_handler(AnyHTTPException, lambda _, error: _refuse(error.status_code, str(error.detail)))
    app.include_router(_route(_Service(desk), token))

    @app.get("/health", summary="whether the process answers")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/ready", summary="whether the gallery can be searched", responses={503: {"model": _Refusal}})
    def ready() -> dict[str, str]:
        try:
            is_filled = bool(desk.gallery)  # anybody may ask, and a database would count its rows
        except ValueError as error:
            raise HTTPException(503, str(error)) from error
        if not is_filled:
            raise HTTPException(503, "the gallery is empty.")
        return {"status": "ok"}

    if page:
        mount_page(app, desk, PAGE)
    return app


def _route(service: _Service, token: str | None) -> APIRouter:
    def check(given: Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))]) -> None:
        if token is not None and not (given and is_token(given.credentials, token)):
            raise HTTPException(401, "this service needs its token: send the header 'Authorization: Bearer TOKEN'.")

    refusals = {code: {"model": _Refusal} for code in (400, 401, 404, 413, 422, 429, 503)}
    router = APIRouter(dependencies=[Depends(check)], responses=refusals)

    @router.get("/", summary="what is served")
    def describe() -> dict[str, Any]:
        model = service.pipeline.model
        adapters = sorted(getattr(model.text_model, "peft_config", {}))
        return {"images": len(service.desk.gallery), "dim": model.config.projection_dim, "adapters": adapters}

    @router.post("/search", response_model=_Results, summary="search by stored images, a text, or a vector")
    def search(asked: _Search) -> Any:
        return _Answer(service.search(asked, []))

    @router.post("/search/upload", response_model=_Results, summary="search by uploaded images")
    def search_upload(image: _Uploads, query: _Form = "{}") -> Any:
        return _Answer(service.search(_Search.model_validate_json(query), image))

    @router.post("/encode", response_model=_Vector, summary="embed stored images and a text")
    def encode(asked: _Reference) -> Any:
        return _Answer({"vector": service.encode(asked, []).tolist()})

    @router.post("/encode/upload", response_model=_Vector, summary="embed uploaded images and a text")
    def encode_upload(image: _Uploads, query: _Form = "{}") -> Any:
        return _Answer({"vector": service.encode(_Reference.model_validate_json(query), image).tolist()})

    return router


def _refuse(status: int, sentence: str) -> _Answer:
    return _Answer({"detail": sentence}, status)


def _word(errors: list[dict]) -> str:
    """Word what FastAPI found as one sentence, without what came, which may be large or no JSON."""
    parts = []
    for error in errors[:3]:
        place = ".".join(str(part) for part in error["loc"] if part not in ("body", "query"))
        if error["type"] == "json_invalid":
            parts.append("the query is not valid JSON")
        elif error["type"] == "extra_forbidden":
            parts.append(f"unknown field '{place}'")
        else:
            parts.append(f"{place or 'the body'}: {error['msg']}")
    return f"the request is not accepted: {'; '.join(parts)}; /docs lists what is accepted."
