"""Gallery: image embeddings under ids, kept, and searched by an engine of choice."""

from __future__ import annotations

import numbers
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from transformers.utils.logging import tqdm

from .errors_rtd import check_path
from .gallery_encoding_rtd import (
    MIN_FOREIGN_COSINE,
    MIN_TOWER_COSINE,
    check_parts,
    compare_towers,
    encode_batches,
    encode_images,
    fingerprint_tower,
    settle_images,
)
from .gallery_engine_rtd import find_engine, import_from_home
from .gallery_folder_rtd import (
    GalleryFolder,
    Manifest,
    check_id,
    list_ids,
    make_array,
    normalize,
    settle_metadata,
)


__all__ = ["Gallery"]

_IF_EXISTS = ("refuse", "skip", "replace")
_EMPTY = "the gallery is empty: there is nothing to search."


class Gallery:
    """Image embeddings under ids: in memory, or in a folder that is kept.

    The image tower is CLIP's and RTD never changes it, so one gallery serves every text tower, projection and adapter
    trained on that CLIP. The folder's manifest holds a fingerprint of the image tower, and another tower is refused.

    Args:
        embeddings (`torch.Tensor` or `np.ndarray` of shape `(num_images, dim)`, *optional*): Of any norm.
        ids (`list[str]`, *optional*): One distinct id a row.
        metadata (`list[dict]`, *optional*): For each row a dictionary, or `None`: NaN becomes `None`, dates
            become ISO strings, and what JSON cannot hold is left out with a warning.
        folder (`str` or `Path`, *optional*):
            Where the gallery is: opened where there is one, made where there is none. Defaults to memory.
        engine (`str`, *optional*):
            `"exact"` (torch, the default), `"faiss"`, `"milvus"` or `"pgvector"`; what the folder says where there
            is a gallery.
        dtype (`str`, *optional*):
            `"float32"` (the default) or `"float16"`, in which embeddings are stored; not with Milvus.
        options:
            Of the engine: `device`, `precision` and `rescore_multiplier` (exact), `factory`, `search_parameter` and
            `rescore_multiplier` (FAISS), `uri`, `collection`, `index` and `token` (Milvus), `uri`, `table`, `index`
            and `search_parameter` (pgvector). `device`, `precision`, `rescore_multiplier`, `token`, `search_parameter`
            and the `uri` of pgvector are those of the process that opens the gallery and are not kept with it.

    Threads may share a gallery. Its engine does one search, or one batch of an `add`, at a time, so that a search sees
    whole batches; the others wait. Encoding is not waited for, `save` and `measure_recall` are. One thread writes at a
    time, and in a folder one process.

    Attributes:
        skipped (`list[str]`): One sentence for each image that the last `add` could not read.

    Raises:
        ValueError: If embeddings and ids are not accepted, an option differs from what the folder says, or the folder
            holds no readable gallery.
        ImportError: If the engine's library is not installed.

    Examples:
        >>> gallery = Gallery(torch.eye(3), ["a", "b", "c"])
        >>> gallery.search(torch.tensor([[0.6, 0.8, 0.0]]), top_k=2)[0][0]["id"]
        'b'
    """

    def __init__(
        self,
        embeddings: torch.Tensor | np.ndarray | None = None,
        ids: Sequence[str] | None = None,
        metadata: Sequence[dict | None] | None = None,
        *,
        folder: str | Path | None = None,
        engine: str | None = None,
        dtype: str | None = None,
        **options,
    ):
        self._store = GalleryFolder(folder, engine, dtype, options)
        self.skipped: list[str] = []
        if embeddings is not None:
            self.add_embeddings(embeddings, ids, metadata)

    def __len__(self) -> int:
        return 0 if self._store.engine is None else len(self._store.engine)

    def __bool__(self) -> bool:
        return bool(self._store.engine)

    def __contains__(self, name: str) -> bool:
        return bool(self._find([name]))

    def __repr__(self) -> str:
        engine = self._store.engine_name
        place = "" if self.folder is None else f", folder='{self.folder}'"
        return f"Gallery({len(self)} images, engine='{engine}'{place})"

    @property
    def folder(self) -> Path | None:
        """`Path` or `None`: Folder of the gallery; `None` in memory."""
        return self._store.path

    @property
    def ids(self) -> list[str]:
        """`list[str]`: In the order in which the images were added; a replaced image counts as added anew."""
        with self._store.turn:
            return [] if self._store.engine is None else self._store.engine.ids

    def _find(self, ids: Iterable[str]) -> set[str]:
        with self._store.turn:
            return set() if self._store.engine is None else self._store.engine.find(list(ids))

    def locate(self, ids: Sequence[str] | None = None) -> list[str]:
        """Find where images are: the `path` in an image's metadata, or else its id.

        Args:
            ids (`list[str]`, *optional*): Ids. Defaults to all. One that is not here is taken for a place.

        Returns:
            `list[str]`: Of each id a path or URL; nothing checks whether an image is there.
        """
        ids = self.ids if ids is None else list(ids)
        with self._store.turn:
            metadata = [None] * len(ids) if self._store.engine is None else self._store.engine.get_metadata(ids)
        places = [(row or {}).get("path") for row in metadata]
        return [place if place and isinstance(place, str) else name for name, place in zip(ids, places, strict=True)]

    @classmethod
    def from_images(
        cls, model, processor, images: Sequence, ids: Sequence[str] | None = None, batch_size: int = 64
    ) -> Gallery:
        """Encode images into a gallery in memory; those that cannot be read are left out, see `skipped`.

        Args:
            model, processor, images, ids, batch_size: See `add`.

        Returns:
            [`Gallery`]: Its `skipped` has one sentence for each image that was left out.
        """
        gallery = cls()
        gallery.add(model, processor, images, ids, batch_size=batch_size)
        return gallery

    @classmethod
    def from_embeddings(
        cls,
        source,
        ids=None,
        metadata: Mapping[str, dict] | None = None,
        *,
        columns: tuple[str, str] = ("id", "embedding"),
        **kwargs,
    ) -> Gallery:
        """Import embeddings that the same CLIP image tower made elsewhere.

        Args:
            source (array, `str` or `Path`):
                `(num_images, dim)` numbers, a `.npy` file, a `.parquet` file, or a FAISS index (`.faiss`, `.index`):
                Flat, HNSW, IVF or SQ, or IDMap over one of these.
            ids (`list[str]`, `str` or `Path`, *optional*):
                One a row: a list, or a `.json`, `.npy` or text file. A parquet file has its own. Where a FAISS index
                has numbers of its own, they are the ids, or places in this list.
            metadata (`dict[str, dict]`, *optional*): By id, added to that of a parquet file; other ids are ignored.
            columns (`tuple[str, str]`, defaults to `("id", "embedding")`):
                Of a parquet file; all others become metadata.
            kwargs: See [`Gallery`]. A `path` in metadata says where an image is, if its id does not.

        Returns:
            [`Gallery`]: Without a fingerprint of its image tower, until `verify_embeddings` has compared a few images.

        Raises:
            ValueError: If the file cannot be read, counts differ, or an embedding is not finite.
        """
        importer = import_from_home("gallery_import_rtd", "taking over embeddings")
        given = ids
        embeddings, ids, own = importer.read_embeddings(source, given, columns)
        rows = metadata.values() if isinstance(metadata, Mapping) else [metadata or {}]
        if not all(isinstance(row, Mapping) for row in rows):
            raise ValueError(
                f"`metadata` must be a dictionary of dictionaries by id, got a {type(metadata).__name__}."
            )
        if metadata:
            own = own or [{}] * len(ids)
            own = [row | metadata.get(name, {}) or None for name, row in zip(ids, own, strict=True)]
        try:
            return cls(embeddings, ids, own, **kwargs)
        except ValueError as error:
            places = [f"'{place}'" for place in (source, given) if isinstance(place, str | Path)]
            raise ValueError(f"{' and '.join(places)}: {error}" if places else str(error)) from error

    @classmethod
    def attach(cls, uri: str | None = None, **layout) -> Gallery:
        """Search a table of PostgreSQL that another program fills, where it is; the server refuses any change.

        Ids are strings, whatever their type in the table. Rows of norm zero are never found. The first `check_tower`,
        as of a pipeline, compares a few embeddings with their images.

        Args:
            uri (`str`, *optional*):
                Such as `"postgresql://user@host/immich"`; it is never repeated. Defaults to the variables of libpq
                (`PGHOST`, `PGDATABASE`, `PGPASSWORD`, ...).
            layout:
                What the table is. `table` (`"smart_search"`, which is Immich's), `id_column` (`"assetId"`; a uuid, an
                integer or text) and `embedding_column` (`"embedding"`, of type `vector` or `halfvec`).

                In Immich's layout `owner`, an e-mail address or an id, or `all_owners=True`: one of them is needed.
                Pictures in the trash, the archive and the locked folder are left out. A `smart_search` whose owners
                are not found, as in older versions of Immich, needs `where` or `all_owners=True`.

                `volume`: `"HERE:THERE"`, as Docker writes it, for paths that are other ones for the program.

                In SQL, trusted as it is, where the table is not Immich's: `join` after the table, `where`, `path` of
                the image, and `metadata`, a dictionary of names and expressions.

                `exact` (`True`): whether all rows are compared, or the table's own index may be used, which is
                quicker and may miss some.

        Returns:
            [`Gallery`]: To search, and to `save` with another engine; it takes no images.

        Raises:
            ImportError: If `psycopg` or `pgvector` is not installed.
            ValueError: If the database cannot be reached or read, the table is another than said, its type is not one
                of pgvector's, or no owner is named.
        """
        module = import_from_home("gallery_attached_rtd", "attaching to a table")
        gallery = cls()
        try:
            engine = module.AttachedEngine(uri, **layout)
        except TypeError as error:
            raise ValueError(f"`attach` does not take {sorted(layout)}: {error}.") from error
        gallery._store.engine = engine
        gallery._store.manifest = Manifest(engine.name, engine.dim, fields=engine.fields)
        return gallery

    def add(
        self,
        model,
        processor,
        images: Sequence,
        ids: Sequence[str] | None = None,
        metadata: Sequence[dict | None] | None = None,
        batch_size: int = 64,
        num_workers: int | None = None,
        if_exists: str = "skip",
        encode: Callable = encode_batches,
    ) -> None:
        """Encode images and add them, while the next ones are decoded; those that cannot be read are `skipped`.

        In a folder each batch is kept as soon as it is done. After an interruption the same call continues there, and
        ends with the gallery that one call would have made.

        Args:
            model ([`RTDModel`]): Whose vision tower encodes.
            processor ([`RTDProcessor`]): Its processor.
            images (sequence of images, paths or URLs): Anything [`RTDProcessor`] loads.
            ids (`list[str]`, *optional*): One an image. Defaults to its path or URL.
            metadata (`list[dict]`, *optional*): For each image a dictionary that JSON can hold, or `None`.
            batch_size (`int`, defaults to 64): Images in one pass.
            num_workers (`int`, *optional*): Threads that decode. Defaults to the number of CPUs, at most 8.
            if_exists (`str`, defaults to `"skip"`):
                What to do with ids that are here: `"skip"`, `"replace"` or `"refuse"`.
            encode (callable, defaults to [`encode_batches`]):
                Who encodes; another one may share the batches over processes.

        Raises:
            ValueError: If ids repeat or are missing, counts differ, another process is writing, or the gallery was
                made by another image tower.
        """
        for name, value in (("batch_size", batch_size), ("num_workers", num_workers or 1)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"`{name}` must be a whole number of at least 1, got {value!r}.")
        images = settle_images(images)
        ids = _name_images(images) if ids is None else list_ids(ids)
        metadata = self._check_rows(len(images), ids, metadata, if_exists)
        self.skipped = []
        with self._store.writing():
            self._check_before_adding(model, processor)
            here = self._find_existing(ids, if_exists)
            batches = [range(i, min(i + batch_size, len(ids))) for i in range(0, len(ids), batch_size)]
            batches = [[i for i in batch if ids[i] not in here] for batch in batches]
            batches = [batch for batch in batches if batch]
            with tqdm(total=len(ids), initial=len(here), desc="Indexing images") as bar:
                for places, embeds, skipped in encode(model, processor, images, batches, num_workers):
                    self.skipped += skipped
                    if places:
                        self._store.append([ids[i] for i in places], embeds, [metadata[i] for i in places])
                    bar.update(len(places) + len(skipped))
            self._store.finish()

    def add_embeddings(
        self,
        embeddings: torch.Tensor | np.ndarray,
        ids: Sequence[str],
        metadata: Sequence[dict | None] | None = None,
        if_exists: str = "refuse",
    ) -> None:
        """Add embeddings.

        Args:
            embeddings (`torch.Tensor` or `np.ndarray` of shape `(num_images, dim)`): Of any norm but zero.
            ids (`list[str]`): One distinct id a row.
            metadata (`list[dict]`, *optional*): For each row a dictionary that JSON can hold, or `None`.
            if_exists (`str`, defaults to `"refuse"`):
                What to do with ids that are here: `"skip"`, `"replace"` or `"refuse"`.

        Raises:
            ValueError: If counts or sizes differ, ids repeat, or an embedding is zero or not finite.
        """
        embeddings = make_array(embeddings)
        if embeddings.ndim != 2:
            raise ValueError(f"embeddings must have the shape (num_images, dim), got {embeddings.shape}.")
        ids = [] if ids is None else list_ids(ids)
        metadata = self._check_rows(len(embeddings), ids, metadata, if_exists)
        with self._store.writing():
            if self._store.engine is None:
                self._store.create(embeddings.shape[1])
            if embeddings.shape[1] != self._store.manifest.dim:
                raise ValueError(
                    f"the gallery holds embeddings of {self._store.manifest.dim} numbers, got "
                    f"{embeddings.shape[1]}; were they made by the same CLIP?"
                )
            here = self._find_existing(ids, if_exists)
            keep = [i for i, name in enumerate(ids) if name not in here]
            blocks = [keep[start : start + 8192] for start in range(0, len(keep), 8192)]
            for places in blocks:  # all of them before the first is written
                normalize(embeddings[places], [ids[i] for i in places])
            for places in blocks:
                rows = normalize(embeddings[places], [ids[i] for i in places])
                self._store.append([ids[i] for i in places], rows, [metadata[i] for i in places])
            self._store.finish()

    def _check_rows(self, count: int, ids: list[str], metadata, if_exists: str) -> Sequence[dict | None]:
        if if_exists not in _IF_EXISTS:
            raise ValueError(f"`if_exists` must be one of {', '.join(_IF_EXISTS)}, got {if_exists!r}.")
        if len(ids) != count:
            raise ValueError(f"got {len(ids)} ids for {count} images; each needs one.")
        seen = set()
        for name in ids:
            if not isinstance(name, str):
                raise ValueError(f"ids must be strings, got {name!r} of type {type(name).__name__}.")
            check_id(name)
            if name in seen:
                raise ValueError(f"ids must be distinct, but '{name}' repeats.")
            seen.add(name)
        if not isinstance(metadata, Sequence | np.ndarray | None):
            raise ValueError(f"`metadata` must be a list, one entry an image, got a {type(metadata).__name__}.")
        if metadata is not None and len(metadata) != count:
            raise ValueError(
                f"got {len(metadata)} entries of metadata for {count} images; each needs one, which may be None."
            )
        return [None] * count if metadata is None else settle_metadata(metadata)

    def _find_existing(self, ids: list[str], if_exists: str) -> set[str]:
        here = set() if if_exists == "replace" else self._find(ids)
        if here and if_exists == "refuse":
            first = next(name for name in ids if name in here)
            raise ValueError(
                f"{len(here)} of {len(ids)} ids are in the gallery already, such as '{first}'; choose "
                'if_exists="replace" or if_exists="skip".'
            )
        return here

    def remove(self, ids: Sequence[str] | str) -> None:
        """Remove images.

        Args:
            ids (`list[str]` or `str`): Ids that are here.

        Raises:
            ValueError: If an id is not here; nothing is removed then.
        """
        ids = [ids] if isinstance(ids, str) else list(dict.fromkeys(ids if isinstance(ids, set) else list_ids(ids)))
        with self._store.writing():
            self._refuse_unknown(ids)
            if ids:
                with self._store.turn:
                    self._store.engine.remove(ids)
                self._store.finish()

    def _refuse_unknown(self, ids: Iterable[str]) -> None:
        here = self._find(ids)
        for name in ids:
            if name not in here:
                raise ValueError(f"the gallery has no image '{name}'; its `ids` lists those it has.")

    def check_tower(self, model, processor) -> float | None:
        """Check that a model's image tower is the one that made this gallery.

        Args:
            model ([`RTDModel`]): Whose image tower is meant.
            processor ([`RTDProcessor`]): Its processor.

        Returns:
            `float` or `None`: The smallest cosine of eight fixed synthetic images, at least 0.999. The first time
            that of eight images of an attached table, at least 0.99. `None`, with a warning, where the gallery has no
            fingerprint, as one that was imported and never verified.

        Raises:
            ValueError: If it is another tower, or no image of an attached table can be opened.
        """
        if self._store.manifest is None:
            return None
        if self._store.manifest.dim != model.config.projection_dim:
            raise ValueError(
                f"the gallery holds embeddings of {self._store.manifest.dim} numbers, the model makes "
                f"{model.config.projection_dim}: it was made by another image tower{self._name_base()}."
                f"{self._store.engine.advise(model)}"
            )
        if self._store.manifest.fingerprint is None and self._store.engine.is_foreign:
            images = self._store.engine.sample(processor.load_image)
            return self.verify_embeddings(model, processor, images, MIN_FOREIGN_COSINE)
        if self._store.manifest.fingerprint is None:
            warnings.warn(
                "the gallery does not say which image tower made it: compare a few images with `verify_embeddings`, "
                "or import it again by `rtd index` with --embeddings and --images.",
                stacklevel=2,
            )
            return None
        cosine = compare_towers(fingerprint_tower(model, processor), self._store.manifest.fingerprint)
        if cosine < MIN_TOWER_COSINE:
            raise ValueError(
                f"the gallery was made by another image tower{self._name_base()}: of eight test images the embeddings "
                f"differ, with a cosine of {cosine:.4f} where {MIN_TOWER_COSINE} is needed. Use a model on that CLIP, "
                "or index the images again."
            )
        return cosine

    def _name_base(self) -> str:
        return f" ('{self._store.manifest.base_model}')" if self._store.manifest.base_model else ""

    def _check_before_adding(self, model, processor) -> None:
        check_parts(model, processor)
        if self._store.engine is None:
            self._store.create(model.config.projection_dim)
        if self._store.manifest.fingerprint is None and self:
            raise ValueError(
                "the gallery does not say which image tower made its embeddings, and images of another would be "
                "nonsense among them. Compare a few images with `verify_embeddings` first, or import them again by "
                "`rtd index` with --embeddings and --images."
            )
        if self._store.manifest.fingerprint is None:
            self._sign(model, processor)
        else:
            self.check_tower(model, processor)

    def _sign(self, model, processor) -> None:
        self._store.manifest.fingerprint = fingerprint_tower(model, processor)
        # A plain CLIPModel encodes images as well, and its configuration has no base.
        base = getattr(model.config, "base_model", None)
        self._store.manifest.base_model = base or model.name_or_path or None
        self._store.write_manifest()

    def verify_embeddings(self, model, processor, images: Mapping[str, object], min_cosine: float = 0.98) -> float:
        """Compare imported embeddings with what a model makes of a few of the images, and sign the gallery.

        Args:
            model ([`RTDModel`]): Whose image tower should have made the embeddings.
            processor ([`RTDProcessor`]): Its processor.
            images (`dict`): Images, paths or URLs under their ids; a handful is enough.
            min_cosine (`float`, defaults to 0.98):
                Smallest cosine that passes. Ours: below the 0.999 of the fingerprint, since other preprocessing may
                crop or resize by a pixel more or less.

        Returns:
            `float`: The smallest cosine; the gallery is then bound to this image tower.

        Raises:
            ValueError: If an id is not here, an image cannot be read, or the embeddings do not match.
        """
        if not images:
            raise ValueError("`images` is empty: give a few images under their ids.")
        with self._store.writing():
            self._refuse_unknown(images)
            if self._store.manifest.dim != model.config.projection_dim:
                self.check_tower(model, processor)
            ours = encode_images(model, processor, list(images.values())).numpy()
            cosines = (ours * self._store.engine.get(list(images))).sum(axis=1)
            worst = int(cosines.argmin())
            if cosines[worst] < min_cosine:
                (nearest,), name = self._store.engine.search(ours[[worst]], 1, [set()], None)[0], list(images)[worst]
                if nearest["score"] >= min_cosine:
                    raise ValueError(
                        f"the ids are not in the order of the embeddings. The image '{name}' has a cosine of "
                        f"{cosines[worst]:.4f} with its embedding, and of {nearest['score']:.4f} with that of "
                        f"'{nearest['id']}'. Write ids and embeddings in one order."
                    )
                raise ValueError(
                    f"the embeddings do not match this image tower. That of '{name}' has a cosine of "
                    f"{cosines[worst]:.4f} with what the model makes of the image, where {min_cosine} is needed. Use "
                    "the CLIP and the preprocessing that made them, or index the images again."
                    f"{self._store.engine.advise(model)}"
                )
            self._sign(model, processor)
        return float(cosines[worst])

    def search(
        self,
        query_embeds: torch.Tensor | np.ndarray,
        top_k: int = 10,
        exclude: Sequence[Sequence[str]] | None = None,
        where: Mapping | str | None = None,
        min_score: float | None = None,
    ) -> list[list[dict]]:
        """Find the images nearest to each query.

        Args:
            query_embeds (`torch.Tensor` or `np.ndarray` of shape `(num_queries, dim)`): Of any norm.
            top_k (`int`, defaults to 10): Results a query; fewer where the gallery is smaller.
            exclude (`list[list[str]]`, *optional*): Ids to leave out, for each query; unknown ids are ignored.
            where (`dict` or `str`, *optional*):
                Only images whose metadata has these values: `{"split": "val", "year": [2010, 2011]}`, a list for
                for any of its values. With Milvus and pgvector also an expression in their own language, such as
                `'metadata["year"] >= 2010'` and `"(metadata->>'year')::int >= 2010"`; it can read all of a database.
            min_score (`float`, *optional*): Results below this cosine are left out.

        Returns:
            `list[list[dict]]`: For each query, dictionaries with `id`, `score` (cosine) and, where the image has any,
            `metadata`, best first. Among equal scores the image that was added first.

        Raises:
            ValueError: If the gallery is empty, `top_k` is below 1, sizes differ, a query is not finite, or the filter
                names a field that no image has or is one that the engine does not take.
        """
        if self._store.engine is None:
            raise ValueError(_EMPTY)
        if isinstance(top_k, bool) or not isinstance(top_k, numbers.Integral) or top_k < 1:
            raise ValueError(f"`top_k` must be a whole number of at least 1, got {top_k!r}.")
        if min_score is not None and (not isinstance(min_score, numbers.Real) or min_score != min_score):
            raise ValueError(f"`min_score` must be a number, got {min_score!r}.")
        queries = make_array(query_embeds)
        if queries.ndim != 2 or queries.shape[1] != self._store.manifest.dim:
            raise ValueError(
                f"queries must have the shape (num_queries, {self._store.manifest.dim}), got {queries.shape}; were "
                "query and gallery encoded by the same CLIP? A ComposedImageRetrievalPipeline takes images and texts."
            )
        self._check_exclusions(exclude, len(queries))
        if not len(queries):
            return []
        queries = normalize(queries, [f"query {i}" for i in range(len(queries))])
        barred = [set(names) for names in exclude] if exclude is not None else [set()] * len(queries)
        where = self._check_filter(where)
        if isinstance(where, dict):
            self._prepare_filter(where)
        with self._store.turn:
            # Counted in this search's turn, since other threads add rows; and once, since a database counts its own.
            held = len(self._store.engine)
            if not held:
                raise ValueError(_EMPTY)
            results = self._store.engine.search(queries, min(int(top_k), held), barred, where)
        if min_score is None:
            return results
        return [[result for result in row if result["score"] >= min_score] for row in results]

    def _prepare_filter(self, where: dict) -> None:
        """Read the metadata for a new filter, while others search; of several new filters one at a time."""
        with self._store.turn:
            read = self._store.engine.begin_filter(where)
        if read is not None:
            with self._store.filtering:
                read()

    @staticmethod
    def _check_exclusions(exclude, count: int) -> None:
        if exclude is None:
            return
        lists = exclude if isinstance(exclude, list | tuple) else [None]
        if not all(isinstance(names, list | tuple | set | frozenset) for names in lists):
            raise ValueError(f"`exclude` needs a list of ids for each query, got {exclude!r:.60}.")
        if wrong := [name for names in exclude for name in names if not isinstance(name, str)]:
            raise ValueError(f"`exclude` needs texts as ids, got {wrong[0]!r}.")
        if len(exclude) != count:
            raise ValueError(f"`exclude` needs one list of ids a query: got {len(exclude)} for {count}.")

    def _check_filter(self, where) -> dict[str, list] | str | None:
        if isinstance(where, str):
            if not self._store.engine.takes_expressions:
                raise ValueError(
                    f"the engine '{self._store.engine.name}' takes no expressions as a filter, got {where!r}. Give a "
                    'dictionary such as {"split": "val"}, or keep the gallery in Milvus or PostgreSQL.'
                )
            return where
        if not isinstance(where, Mapping | None):
            raise ValueError(f"`where` must be a dictionary of fields and values, got {where!r}.")
        for name in where or ():
            if name not in self._store.manifest.fields:
                known = ", ".join(self._store.manifest.fields) or "none; add images with `metadata`"
                raise ValueError(f"no image of the gallery has a field '{name}'. Known: {known}.")
        lists = {name: list(v) if isinstance(v, list | tuple) else [v] for name, v in (where or {}).items()}
        if not all(lists.values()):
            raise ValueError(f"a list of values in `where` is empty: {dict(where)}; no image can have one of them.")
        return lists or None

    def measure_recall(self, query_embeds: torch.Tensor | np.ndarray, top_k: int = 10) -> float:
        """Measure which part of the true results an approximate engine finds.

        Args:
            query_embeds (`torch.Tensor` or `np.ndarray` of shape `(num_queries, dim)`): Queries as they will come.
            top_k (`int`, defaults to 10): Results a query.

        Returns:
            `float`: Mean over the queries of the part found; 1 for an exact engine.
        """
        found, exact = self.search(query_embeds, top_k), Gallery()
        self._copy_rows(exact)
        true = exact.search(query_embeds, top_k)
        shares = [
            len({hit["id"] for hit in ours} & {hit["id"] for hit in theirs}) / len(theirs)
            for ours, theirs in zip(found, true, strict=True)
        ]
        return float(np.mean(shares))

    def _copy_rows(self, other: Gallery) -> None:
        if other._store.engine is None:
            other._store.create(self._store.manifest.dim)
        with self._store.turn:
            for ids, embeddings, metadata in self._store.engine.read():
                other._store.append(ids, embeddings, metadata)
        other._store.finish()

    def save(self, folder: str | Path, engine: str | None = None, dtype: str | None = None, **options) -> None:
        """Write the gallery to a new folder, without the rows that were removed or replaced.

        The folder is a gallery once all is written: a save that was interrupted leaves one that cannot be loaded.

        Args:
            folder (`str` or `Path`): Folder, made where it does not exist.
            engine (`str`, *optional*): Another engine to move to. Defaults to this one's.
            dtype (`str`, *optional*): Another type to store in. Defaults to this one's if the engine has it.
            options: Options of the engine, see [`Gallery`]. Defaults to this one's if the engine is the same.

        Raises:
            ValueError: If the gallery is empty, the folder holds a gallery or something else, or there is a gallery
                under the same `uri` and `collection` of Milvus, or `table` of PostgreSQL.
        """
        check_path(folder, "folder")
        folder = Path(folder)
        if self._store.engine is None:
            raise ValueError("the gallery is empty: there is nothing to save.")
        if Manifest.is_in(folder):
            raise ValueError(f"there is a gallery in '{folder}' already; choose another folder.")
        manifest = self._store.manifest
        engine = engine or manifest.engine
        if engine == manifest.engine:
            options = manifest.options | options
        if dtype is None and manifest.dtype in find_engine(engine).dtypes:
            dtype = manifest.dtype
        other = Gallery(folder=folder, engine=engine, dtype=dtype, **options)
        other._store.is_partial = True  # the manifest comes last: what was interrupted before is no gallery
        with other._store.writing():
            self._copy_rows(other)
            other._store.manifest.fingerprint, other._store.manifest.base_model = (
                manifest.fingerprint,
                manifest.base_model,
            )
            other._store.is_partial = False
            other._store.write_manifest()
        other.close()

    def close(self) -> None:
        """Close what the engine holds open, such as a connection. The gallery cannot be used afterwards."""
        if self._store.engine is not None:
            self._store.engine.close()

    @staticmethod
    def is_in(folder: str | Path) -> bool:
        """Check whether a folder holds a gallery, be it one that cannot be read.

        Args:
            folder (`str` or `Path`): Folder.

        Returns:
            `bool`: Whether its manifest is there.
        """
        return Manifest.is_in(Path(folder))

    @classmethod
    def load(cls, folder: str | Path, **options) -> Gallery:
        """Open a gallery that is there; rows stay on disk, mapped into memory, where the engine allows it.

        Args:
            folder (`str` or `Path`): Folder.
            options: Of the engine, such as `device` or `token`, see [`Gallery`].

        Returns:
            [`Gallery`]: Ready to search and to write to.

        Raises:
            ValueError: If the folder holds no gallery.
        """
        check_path(folder, "folder")
        Manifest.read(Path(folder))
        return cls(folder=folder, **options)


def _name_images(images) -> list[str]:
    """Name images by their paths or URLs."""
    names = []
    for place, image in enumerate(images):
        if not isinstance(image, str | Path):
            raise ValueError(f"the image at position {place} is a {type(image).__name__} and has no name: pass ids=.")
        names.append(str(image))
    return names
