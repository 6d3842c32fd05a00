"""Tables of PostgreSQL that another program fills, such as Immich's: searched where they are, and never written."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence

import numpy as np

from .errors_rtd import suggest
from .gallery_folder_rtd import normalize
from .gallery_pgvector_rtd import Database, TableEngine, look_far


__all__ = ["AttachedEngine"]

_SAMPLED = 8  # pictures compared with their embeddings
_TRIED = 100  # of which so many may be opened
_PARSERS = {
    **dict.fromkeys(("smallint", "integer", "bigint"), int),
    **dict.fromkeys(("text", "character varying"), str),
    "uuid": uuid.UUID,
}
_IMMICH_NAMES = {  # of models in Immich's settings, whose tower is that of a CLIP on the Hub
    "openai/clip-vit-base-patch32": "ViT-B-32__openai",
    "openai/clip-vit-base-patch16": "ViT-B-16__openai",
    "openai/clip-vit-large-patch14": "ViT-L-14__openai",
    "openai/clip-vit-large-patch14-336": "ViT-L-14-336__openai",
    "laion/CLIP-ViT-B-32-laion2B-s34B-b79K": "ViT-B-32__laion2b-s34b-b79k",
    "laion/CLIP-ViT-L-14-laion2B-s32B-b82K": "ViT-L-14__laion2b-s32b-b82k",
    "laion/CLIP-ViT-H-14-laion2B-s32B-b79K": "ViT-H-14__laion2b-s32b-b79k",
}


def _lay_out_immich(schema: str) -> dict:
    """Give what is not in Immich's `smart_search` itself; `schema` is empty, or quoted and followed by a dot."""
    preview = f"SELECT path FROM {schema}asset_file WHERE \"assetId\" = asset.id AND type = 'preview' LIMIT 1"
    return {
        "join": f'JOIN {schema}asset ON asset.id = smart_search."assetId"',
        "where": "asset.\"deletedAt\" IS NULL AND asset.visibility = 'timeline'",
        "path": f'coalesce(({preview}), asset."originalPath")',
        "metadata": {"name": 'asset."originalFileName"', "taken": 'asset."localDateTime"'},
    }


class AttachedEngine(TableEngine):
    """Rows of a table of another program. Every transaction is read-only, so the server refuses to change anything.

    Rows of norm zero are never found. See [`Gallery.attach`] for the arguments.

    Attributes:
        fields (`list[str]`): Names in the metadata of its images.
    """

    name = "attached"
    is_foreign = True
    # The distance of a zero vector is NaN, which PostgreSQL sorts above all numbers.
    distance, score = "<=>", "nullif(1 - ({}), 'NaN')"
    # Not of zero vectors, nor of NaN.
    condition = "(embedding <#> embedding) < 0"

    def __init__(
        self,
        uri: str | None = None,
        table: str = "smart_search",
        id_column: str = "assetId",
        embedding_column: str = "embedding",
        *,
        owner: str | None = None,
        all_owners: bool = False,
        volume: str | None = None,
        path: str | None = None,
        metadata: Mapping[str, str] | None = None,
        join: str | None = None,
        where: str | None = None,
        exact: bool = True,
    ):
        super().__init__()
        self.exact, self.table = exact, table
        self.database = Database(uri)
        try:
            id_type, self.kind, self.dim = self._read_types(id_column, embedding_column)
            self._parser = _PARSERS[id_type]
            self.tolerance = self.dim * 2.0**-22 if self.kind == "vector" else 2.0**-9
            self._schema, _, name = table.rpartition(".")
            self.is_immich = name == "smart_search" and "ownerId" in self.database.find_types(self._beside("asset"))
            given = {"join": join, "where": where, "path": path, "metadata": metadata}
            if self.is_immich:
                schema = self.database.name(self._schema).as_string() + "." if self._schema else ""
                given = _lay_out_immich(schema) | {name: value for name, value in given.items() if value is not None}
            owned = self._find_owner(owner, all_owners, where)
            self.fields = sorted([*(given["metadata"] or ()), *(["path"] if given["path"] else ())])
            self.source = self._write_source(id_column, embedding_column, given, owned, volume)
            self._check_rows(id_column)
        except ValueError:
            self.close()
            raise

    def _read_types(self, id_column: str, embedding_column: str) -> tuple[str, str, int]:
        columns = self.database.find_types(self.table)
        if not columns:
            raise ValueError(
                f"the database has no table '{self.table}'; name another with table= (--table), with its schema "
                "and a dot where it is not on the search path."
            )
        for column in (id_column, embedding_column):
            if column not in columns:
                raise ValueError(f"in the table '{self.table}': {suggest('column', column, columns)}")
        id_type = columns[id_column].partition("(")[0]
        if id_type not in _PARSERS:
            raise ValueError(f"ids must be of the types {', '.join(sorted(_PARSERS))}; '{id_column}' is {id_type}.")
        kind, _, dim = columns[embedding_column].rstrip(")").partition("(")
        if kind not in ("vector", "halfvec"):
            raise ValueError(
                f"embeddings must be of pgvector's types vector or halfvec; '{embedding_column}' is {kind}."
            )
        if not dim:  # a column that takes vectors of any size
            query = "SELECT vector_dims({column}) FROM {table} WHERE {column} IS NOT NULL LIMIT 1"
            names = {"column": self.database.name(embedding_column), "table": self.database.name(self.table)}
            ((dim,),) = self.database.fetch(self.database.sql.SQL(query).format(**names), None) or [(0,)]
        return id_type, kind, int(dim)

    def _find_owner(self, owner: str | None, all_owners: bool, where: str | None):
        """Write the condition on the owner: one database holds the pictures of several people."""
        sql = self.database.sql
        if not self.is_immich:
            is_like_immich = self.table.rpartition(".")[2] == "smart_search"
            if is_like_immich and (owner is not None or not (all_owners or where)):
                raise ValueError(
                    f"'{self.table}' is named as Immich's table, which holds the pictures of several people. "
                    f"'{self._beside('asset')}', which says whose they are, is missing or has no column 'ownerId', "
                    "as in older versions of Immich. Update Immich, write a condition on the owner as where= (and "
                    "join=), or ask for the pictures of all by all_owners=True."
                )
            if owner is not None or (all_owners and not is_like_immich):
                raise ValueError(
                    "only Immich's tables have owners that are known here; write a condition as where= for others."
                )
            return sql.SQL("true")
        if (owner is None) != all_owners:
            raise ValueError(
                "this database may hold the pictures of several people. Name one by owner=, an e-mail address or an "
                "id of Immich, or ask for the pictures of all by all_owners=True, not both."
            )
        if all_owners:
            return sql.SQL("true")
        owner = str(owner)
        if "@" in owner:
            query = sql.SQL("SELECT id FROM {} WHERE email = %s").format(self.database.name(self._beside("user")))
            found = self.database.fetch(query, [owner])
        else:
            found = [(name,) for name in self._read_uuid(owner)]
        if not found:
            raise ValueError(f"Immich has no owner '{owner}': give an e-mail address or an id that it knows.")
        return sql.SQL('asset."ownerId" = {}').format(sql.Literal(found[0][0]))

    def _beside(self, table: str) -> str:
        """Name a table of the same schema."""
        return f"{self._schema}.{table}" if self._schema else table

    @staticmethod
    def _read_uuid(text: str) -> list[uuid.UUID]:
        try:
            return [uuid.UUID(text)]
        except ValueError:
            return []

    def _write_source(self, id_column: str, embedding_column: str, given: dict, owned, volume: str | None):
        sql, table = self.database.sql, self.table.rpartition(".")[2]
        entries = {name: sql.SQL(text) for name, text in (given["metadata"] or {}).items()}
        if given["path"]:
            entries["path"] = self._map_path(given["path"], volume)
        pairs = [part for name, text in entries.items() for part in (sql.Literal(name), text)]
        made = sql.SQL("jsonb_strip_nulls(jsonb_build_object({}))").format(sql.SQL(", ").join(pairs))
        source = sql.SQL(
            "(SELECT {id} AS id, {id} AS place, {embedding} AS embedding, {metadata} AS metadata FROM {table} {join} "
            "WHERE {embedding} IS NOT NULL AND ({where}\n) AND {owned}) AS attached"
        ).format(
            id=sql.Identifier(table, id_column),
            embedding=sql.Identifier(table, embedding_column),
            metadata=made if entries else sql.SQL("NULL::jsonb"),
            table=self.database.name(self.table),
            join=sql.SQL(given["join"] or ""),
            where=sql.SQL(given["where"] or "true"),
            owned=owned,
        )
        return sql.SQL(source.as_string().replace("%", "%%"))  # where parameters follow, one % begins one

    def _map_path(self, path: str, volume: str | None):
        sql = self.database.sql
        if volume is None:
            return sql.SQL(path)
        here, colon, there = volume.rpartition(":")
        if not (colon and here and there):
            raise ValueError(f"`volume` must be HERE:THERE, two folders as Docker writes them, got '{volume}'.")
        here, there = here.rstrip("/") + "/", there.rstrip("/") + "/"
        moved = "CASE WHEN starts_with(p, {there}) THEN {here} || substr(p, length({there}) + 1) ELSE p END"
        query = sql.SQL(f"(SELECT {moved} FROM (SELECT {{path}} AS p) AS place)")
        return query.format(path=sql.SQL(path), here=sql.Literal(here), there=sql.Literal(there))

    def _check_rows(self, id_column: str) -> None:
        ((count, different),) = self._fetch("SELECT count(*), count(DISTINCT id) FROM {source}")
        if not count:
            raise ValueError(
                f"the table '{self.table}' has no embeddings that may be searched here: is the owner right, and has "
                "the program that fills it done so?"
            )
        if different < count:
            raise ValueError(
                f"ids must be distinct, but '{id_column}' has {different} values in {count} rows; does a join find "
                "several rows for one?"
            )

    def advise(self, model) -> str:
        """See [`Engine.advise`]."""
        name = _IMMICH_NAMES.get(model.config.base_model)
        if not self.is_immich or name is None:
            return ""
        return (
            f" In Immich, choose '{name}' as the model of Smart Search (Administration, Settings, Machine Learning) "
            "and run its job for all pictures."
        )

    def sample(self, load) -> dict[str, object]:
        """Choose images that can be opened, spread over the table, the same each time.

        Args:
            load (callable): From a path to an image; raises `ValueError` where it cannot be read.

        Returns:
            `dict`: At most eight images by id.

        Raises:
            ValueError: If none of a hundred can be read.
        """
        chosen = "SELECT id FROM {source} ORDER BY md5(id::text) LIMIT %s"
        query = f"SELECT id, metadata->>'path' FROM {{source}} WHERE id IN ({chosen}) AND {self.condition} ORDER BY id"
        images, paths = {}, {str(name): path for name, path in self._fetch(query, [_TRIED])}
        for name, path in paths.items():
            try:
                images[name] = load(path or name)
            except ValueError:
                continue
            if len(images) == _SAMPLED:
                break
        if not images:
            raise ValueError(
                "embeddings of another program are compared with a few of their pictures first, and none can be "
                f"opened here, such as '{next(iter(paths.values()), None)}'. Say by volume= (--volume HERE:THERE) "
                "where the folder of its paths is. In Python, images can be given to `verify_embeddings`."
            )
        return images

    def add(self, ids: Sequence[str], embeddings: np.ndarray, metadata: Sequence[dict | None]) -> None:
        """Refuse: the table is another program's.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            "this gallery is the table of another program and is only read; save it to a folder with "
            'engine="exact", and change that.'
        )

    def remove(self, ids: Sequence[str]) -> None:
        """Refuse: the table is another program's.

        Raises:
            ValueError: Always.
        """
        self.add(ids, np.empty(0), ())

    def _parse(self, names: Sequence[str]) -> dict:
        parsed = {}
        for name in names:
            try:
                value = self._parser(name)
            except ValueError:
                continue
            if str(value) == name:  # ' 7' is not the id 7
                parsed[value] = name
        return parsed

    def _to_array(self, vectors: list, names: Sequence[str]) -> np.ndarray:
        return normalize(super()._to_array(vectors, names), names)

    def _order(self, distance: str) -> str:
        # No index of another program, which may miss rows, gives this order.
        return f"{self.score.format(distance)} DESC NULLS LAST" if self.exact else distance

    def _settle_search(self, count: int) -> dict:
        return {} if self.exact else look_far(count)
