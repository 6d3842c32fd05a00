"""A table of another program: whose pictures are found, that nothing is written, and what is refused."""

import numpy as np
import pytest
import torch
from transformers import pipeline

from modeling_rtd import Gallery, RTDModel
from tests.factories import build_clip, build_immich


psycopg = pytest.importorskip("psycopg")
RNG = np.random.default_rng(0)


@pytest.fixture
def immich(postgres, tmp_path, model, processor):
    """Ids of two people's pictures in a database in Immich's layout; previews below `tmp_path`."""
    return build_immich(postgres, tmp_path, model, processor)


@pytest.fixture
def attach(postgres, tmp_path):
    """Attach to the database; all galleries are closed at the end."""
    attached = []

    def attach(**layout):
        attached.append(Gallery.attach(postgres, **layout))
        return attached[-1]

    yield attach
    for gallery in attached:
        gallery.close()


@pytest.fixture
def run(postgres):
    """Run statements, and give the rows of the last."""

    def run(*statements):
        with psycopg.connect(postgres) as connection:
            for statement in statements:
                cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else None

    return run


def read_all(run):
    tables = ("smart_search", "asset", "asset_file", '"user"')
    return [run(f"SELECT md5(string_agg(t::text, '|' ORDER BY t::text)) FROM {table} AS t") for table in tables]


def names(hits):
    return [hit["id"] for hit in hits]


def test_one_owner_never_sees_the_pictures_of_another(immich, attach, run):
    queries = RNG.standard_normal((4, 24))
    galleries = {name: attach(owner=f"{name}@example.org") for name in ("anna", "bert")}
    for name, gallery in galleries.items():
        others = sum((ids for other, ids in immich.items() if other != name), [])
        assert sorted(gallery.ids) == sorted(immich[name])
        assert len(gallery) == len(immich[name])
        assert gallery.locate(others) == others  # which tells nothing
        assert not [other for other in others if other in gallery]
        for hits in gallery.search(queries, 100):
            assert sorted(names(hits)) == sorted(immich[name])
        for hits in gallery.search(queries, 100, where={"name": [f"{i}.heic" for i in range(20)]}):
            assert set(names(hits)) <= set(immich[name])
        with pytest.raises(ValueError, match="takes no expressions as a filter"):
            gallery.search(queries, where="true) OR (true")
    everyone = attach(all_owners=True)
    assert sorted(everyone.ids) == sorted(immich["anna"] + immich["bert"])
    stored = run('SELECT "assetId"::text, embedding::text FROM smart_search')
    exact = Gallery(np.array([eval(row) for _, row in stored]), [name for name, _ in stored])
    hits = everyone.search(queries, 5)
    for found, expected in zip(hits, exact.search(queries, 5, [immich["hidden"]] * 4), strict=True):
        assert names(found) == names(expected)
        assert [hit["score"] for hit in found] == pytest.approx([hit["score"] for hit in expected], abs=1e-6)


REFUSED = [
    ({}, "may hold the pictures of several people. Name one by owner="),
    ({"owner": "anna@example.org", "all_owners": True}, "not both"),
    ({"owner": "carl@example.org"}, "Immich has no owner 'carl@example.org'"),
    ({"owner": "anna"}, "Immich has no owner 'anna'"),
    ({"owner": "anna@example.org' OR 'a' = 'a"}, "Immich has no owner"),
    ({"owner": "00000000-0000-0000-0000-000000000009"}, "no embeddings that may be searched here: is the owner"),
    ({"owner": "anna@example.org", "volume": "/data"}, "`volume` must be HERE:THERE"),
    ({"owner": "anna@example.org", "where": "nope = 1"}, 'PostgreSQL refused: column "nope" does not exist'),
    ({"owner": "anna@example.org", "owners": 1}, "`attach` does not take"),
    ({"table": "asset", "id_column": "id", "owner": "anna@example.org"}, "unknown column 'embedding'"),
    ({"id_column": "assetid"}, "unknown column 'assetid'; did you mean 'assetId'"),
    ({"embedding_column": "embeddings"}, "unknown column 'embeddings'; did you mean 'embedding'"),
    ({"table": "smart_serch"}, "has no table 'smart_serch'"),
    ({"table": "asset", "id_column": "id", "embedding_column": "type"}, "vector or halfvec; 'type' is text"),
    ({"table": "asset", "id_column": "isOffline", "embedding_column": "type"}, "'isOffline' is boolean"),
]


def test_what_is_not_accepted_is_refused_with_a_sentence(immich, attach):
    for layout, message in REFUSED:
        with pytest.raises(ValueError, match=message):
            attach(**layout)


def test_pictures_are_compared_first_and_found_by_a_pipeline(immich, attach, run, model, processor, tmp_path):
    run(f"UPDATE smart_search SET embedding = embedding + '[{','.join(['0.01'] * 24)}]'")
    before = read_all(run)
    gallery = attach(owner="anna@example.org", volume=f"{tmp_path}:/data")
    pipe = pipeline("composed-image-retrieval", model=model, processor=processor, gallery=gallery, device="cpu")
    assert gallery.check_tower(model, processor) > 0.999  # now by the fingerprint
    reference = gallery.locate([immich["anna"][3]])[0]
    assert reference == str(tmp_path / f"thumbs/{immich['anna'][3]}_preview.jpeg")
    hits = pipe({"image": reference, "text": "is red"}, top_k=3, where={"name": ["0.heic", "1.heic", "3.heic"]})
    assert {hit["metadata"]["name"] for hit in hits} == {"0.heic", "1.heic", "3.heic"}
    assert hits[0]["metadata"]["taken"].startswith("20")
    assert immich["anna"][3] not in names(pipe({"image": reference}, top_k=100))
    assert read_all(run) == before


def test_another_tower_is_refused_with_the_model_to_choose(immich, attach, processor, tokenizer, tmp_path):
    other = RTDModel.from_clip(build_clip(seed=7), "lincir", tokenizer=tokenizer)
    other.config.base_model = "openai/clip-vit-large-patch14"
    gallery = attach(owner="anna@example.org", volume=f"{tmp_path}:/data")
    advice = "In Immich, choose 'ViT-L-14__openai' as the model of Smart Search"
    with pytest.raises(ValueError, match=f"do not match this image tower.* 0.99 is needed.*{advice}"):
        gallery.check_tower(other, processor)
    other.config.projection_dim = 32
    with pytest.raises(ValueError, match=f"holds embeddings of 24 numbers, the model makes 32.*{advice}"):
        gallery.check_tower(other, processor)


def test_pictures_that_cannot_be_opened_are_given(immich, attach, model, processor, tmp_path):
    gallery = attach(owner="anna@example.org")
    with pytest.raises(ValueError, match="none can be opened here, such as '/data/thumbs/.*--volume HERE:THERE"):
        gallery.check_tower(model, processor)
    given = {name: tmp_path / f"thumbs/{name}_preview.jpeg" for name in immich["anna"][:2]}
    assert gallery.verify_embeddings(model, processor, given) > 0.999
    assert gallery.check_tower(model, processor) > 0.999


def test_nothing_can_be_written(immich, attach, run, model, processor, tmp_path):
    before = read_all(run)
    gallery = attach(owner="anna@example.org", volume=f"{tmp_path}:/data")
    for statement in ("DELETE FROM smart_search", "CREATE TABLE mine (a int)", "CREATE INDEX ON asset (type)"):
        with (
            pytest.raises(ValueError, match="in a read-only transaction"),
            gallery._store.engine.database.begin() as cursor,
        ):
            cursor.execute(statement)
    gallery.check_tower(model, processor)
    for change in (
        lambda: gallery.add_embeddings(np.eye(1, 24), ["new"]),
        lambda: gallery.add(model, processor, [tmp_path / f"thumbs/{immich['anna'][0]}_preview.jpeg"], ["new"]),
        lambda: gallery.remove(immich["anna"][0]),
    ):
        with pytest.raises(ValueError, match="is the table of another program and is only read"):
            change()
    assert read_all(run) == before
    gallery.save(tmp_path / "copy", engine="exact")
    copy = Gallery.load(tmp_path / "copy")
    assert names(copy.search(torch.eye(24)[:1], 5)[0]) == names(gallery.search(torch.eye(24)[:1], 5)[0])
    text = "".join(path.read_text(errors="replace") for path in (tmp_path / "copy").iterdir())
    assert "postgresql" not in text + repr(gallery)


def test_rows_of_norm_zero_are_never_found(immich, attach, run, model, processor, tmp_path):
    zero = immich["anna"][2]
    run(f"UPDATE smart_search SET embedding = array_fill(0, ARRAY[24])::vector WHERE \"assetId\" = '{zero}'")
    for exact in (True, False):
        gallery = attach(owner="anna@example.org", exact=exact)
        found = names(gallery.search(RNG.standard_normal((1, 24)), 100)[0])
        assert sorted(found) == sorted(set(immich["anna"]) - {zero})
    gallery.save(tmp_path / "copy", engine="exact")
    assert zero not in Gallery.load(tmp_path / "copy").ids
    with pytest.raises(ValueError, match=f"not all zero.*{zero}"):
        gallery.verify_embeddings(model, processor, {zero: tmp_path / f"thumbs/{zero}_preview.jpeg"})


def test_another_schema_hides_no_owner(immich, attach, run):
    run('CREATE SCHEMA "Im"', *(f'ALTER TABLE {t} SET SCHEMA "Im"' for t in ("smart_search", "asset", "asset_file")))
    run('ALTER TABLE "user" SET SCHEMA "Im"')
    with pytest.raises(ValueError, match="Name one by owner="):
        attach(table="Im.smart_search")
    gallery = attach(table="Im.smart_search", owner="bert@example.org")
    assert set(names(gallery.search(np.eye(1, 24), 100)[0])) == set(immich["bert"])


def test_a_table_of_an_older_immich_gives_nobody_the_pictures_of_all(immich, attach, run):
    run("ALTER TABLE asset RENAME TO assets")
    for layout in ({}, {"owner": "anna@example.org"}, {"table": "public.smart_search"}):
        with pytest.raises(ValueError, match="which says whose they are, is missing .* by all_owners=True"):
            attach(**layout)
    assert {*immich["anna"], *immich["bert"]} < set(attach(all_owners=True).ids)
    gallery = attach(
        join='JOIN assets ON assets.id = "assetId" JOIN "user" ON "user".id = "ownerId"',
        where="email = 'anna@example.org'",
    )
    assert set(immich["anna"]) <= set(gallery.ids)
    assert not set(immich["bert"]) & set(gallery.ids)


def test_a_user_without_rights_is_told_so(immich, postgres, run):
    run("DROP ROLE IF EXISTS reader", "CREATE ROLE reader LOGIN", "GRANT SELECT ON smart_search, asset TO reader")
    reader = postgres.replace("postgres@", "reader@")
    with pytest.raises(ValueError, match="permission denied for table asset_file; ask the administrator"):
        Gallery.attach(reader, owner="00000000-0000-0000-0000-000000000001").search(np.eye(1, 24))
    with pytest.raises(ValueError, match="permission denied for table user"):
        Gallery.attach(reader, owner="anna@example.org")
    run("GRANT SELECT ON asset_file TO reader")
    gallery = Gallery.attach(reader, owner="00000000-0000-0000-0000-000000000001")
    assert sorted(gallery.ids) == sorted(immich["anna"])
    gallery.close()


@pytest.mark.parametrize(("id_type", "kind"), [("bigint", "vector(8)"), ("text", "halfvec(8)"), ("integer", "vector")])
def test_other_tables_and_types_of_ids(attach, run, id_type, kind):
    run("CREATE EXTENSION vector", f"CREATE TABLE mine (n {id_type}, v {kind}, file text, year int)")
    rows = RNG.standard_normal((9, 8)).astype(np.float16)
    run(*(f"INSERT INTO mine VALUES ('{i}', '{row.tolist()}', 'f{i}.jpg', {i % 2})" for i, row in enumerate(rows)))
    run("INSERT INTO mine VALUES ('10', NULL, NULL, NULL)")
    layout = {"path": "mine.file", "metadata": {"year": "mine.year % 2"}, "where": "n::text NOT LIKE '8%'"}
    gallery = attach(table="public.mine", id_column="n", embedding_column="v", **layout)
    assert gallery.ids == [f"{i}" for i in range(8)]
    assert "7" in gallery
    assert not [name for name in (" 7", "07", "8", "10", "x") if name in gallery]
    assert gallery.locate(["3"]) == ["f3.jpg"]
    expected = Gallery(rows[:8], gallery.ids, [{"year": i % 2} for i in range(8)])
    queries = RNG.standard_normal((3, 8))
    for where in (None, {"year": 1}):
        found = gallery.search(queries, 4, [["1"]] * 3, where=where)
        assert [names(hits) for hits in found] == [
            names(hits) for hits in expected.search(queries, 4, [["1"]] * 3, where=where)
        ]


def test_signs_of_a_placeholder_are_read_as_they_are(attach, run):
    run("CREATE EXTENSION vector", 'CREATE TABLE "100%s" ("n%" int, "v%(x)s" vector, file text)')
    run("""INSERT INTO "100%s" VALUES (1, '[1,2]', '/a%b/{1}.jpg'), (2, '[2,1]', '/a%b/{2}.jpg')""")
    layout = {"path": "concat(file, '{%}')", "metadata": {"part%s {}": "'50% {a}'"}, "where": "file LIKE '/a%{1}%'"}
    table = {"table": "public.100%s", "id_column": "n%", "embedding_column": "v%(x)s"}
    for volume, folder in ((None, "/a%b/"), ("/it's {%s}:/a%b", "/it's {%s}/")):
        gallery = attach(**table, **layout, volume=volume)
        hit = gallery.search(np.eye(1, 2), where={"part%s {}": "50% {a}"})[0][0]
        assert (hit["id"], hit["metadata"]["path"]) == ("1", folder + "{1}.jpg{%}")


def test_rows_that_a_join_repeats_are_refused(attach, run):
    run("CREATE EXTENSION vector", "CREATE TABLE mine (n int, v vector(2))", "CREATE TABLE tags (n int)")
    run("INSERT INTO mine VALUES (1, '[1,2]')", "INSERT INTO tags VALUES (1), (1)")
    with pytest.raises(ValueError, match="'n' has 1 values in 2 rows; does a join find"):
        attach(table="mine", id_column="n", embedding_column="v", join="JOIN tags USING (n)")
    run("INSERT INTO mine VALUES (1, '[1,2]')")
    with pytest.raises(ValueError, match="ids must be distinct"):
        attach(table="mine", id_column="n", embedding_column="v")


def test_vectors_of_several_sizes_are_refused_when_searched(attach, run):
    run("CREATE EXTENSION vector", "CREATE TABLE mine (n int, v vector)")
    run("INSERT INTO mine VALUES (1, '[1,2]'), (2, '[1,2,3]')")
    with pytest.raises(ValueError, match="PostgreSQL refused: different vector dimensions"):
        attach(table="mine", id_column="n", embedding_column="v").search(np.eye(1, 2))


def test_a_database_without_pgvector_is_named(attach):
    with pytest.raises(ValueError, match="the database has no type `vector`"):
        attach()
