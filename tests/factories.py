"""Tiny models, tokenizers, images and triplets, and directories in the official layouts of the benchmarks."""

import contextlib
import hashlib
import json
import multiprocessing
import uuid
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from huggingface_hub.utils import WeakFileLock
from PIL import Image
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    GPT2Config,
    GPT2LMHeadModel,
    MetaClip2Config,
    MetaClip2Model,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    TrainerCallback,
)

from modeling_rtd import RTDModel, RTDProcessor, encode_images
from trainer.publishing.provenance import write_stages


WORDS = (
    "<pad> <bos> <unk> <eos> $ a photo of that , . and with is are has the small large red green blue white black "
    "dress shirt dog cat car tree house beach sleeves no more"
).split()
CATEGORIES = ("dress", "shirt", "toptee")
DOMAINS = ("cartoon", "origami", "toy", "sculpture")
TASKS = ("focus_attribute", "change_attribute", "focus_object", "change_object")
FAST = "--max_steps 4 --per_device_train_batch_size 16 --use_cpu True --disable_tqdm True --anchor_cache never".split()
TINY_CAPTIONS = [
    f"a {size} {colour} {thing} {part}".replace("  ", " ").strip()
    for size in ("small", "large")
    for colour in ("red", "green", "blue", "")
    for thing in ("dress", "shirt", "dog", "cat")
    for part in ("with sleeves", "with a tree", "")
]
FEW_STEPS = {
    "max_steps": 2,
    "per_device_train_batch_size": 6,
    "lr_scheduler_type": "constant",
    "warmup_steps": 0,
    "save_strategy": "no",
    "use_cpu": True,
    "disable_tqdm": True,
    "anchor_cache": "never",
}

STAGES = [
    {"stage": "lincir", "data": {"captions": "org/captions"}, "captions": "0" * 64, "steps": 20, "seconds": 1.5},
    {"stage": "rtd", "data": {"triplets": "triplets.jsonl"}, "triplets": "1" * 64, "steps": 4, "seconds": 0.5},
]


def build_tokenizer(max_length=20):
    """Build a word-level tokenizer whose ids are the places in WORDS."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 1), ("<eos>", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        unk_token="<unk>",
        eos_token="<eos>",
        model_max_length=max_length,
    )


def build_clip(seed=0, dtype=torch.float32, hidden_size=32, projection_dim=24, **text):
    """Build a CLIP of 2 + 2 layers whose weights are large enough for outputs to differ visibly."""
    text_config = {
        "vocab_size": len(WORDS),
        "hidden_size": hidden_size,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 20,
        "eos_token_id": 3,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "projection_dim": projection_dim,
    } | text
    vision_config = {
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
        "projection_dim": projection_dim,
    }
    torch.manual_seed(seed)
    clip = CLIPModel(CLIPConfig(text_config=text_config, vision_config=vision_config, projection_dim=projection_dim))
    return _enlarge(clip).to(dtype)


FAMILIES = ("clip", "metaclip_2", "siglip")


def build_backbone(family, seed=0):
    """Build a tiny model of a family and its tokenizer, with what real repositories of it leave to be settled.

    MetaCLIP 2 ends a text with the id 2. SigLIP 2 pads with 0 and says 1, and its tokenizer has no start of text, no
    length, and does not lower-case.
    """
    if family == "clip":
        return build_clip(seed), build_tokenizer()
    specials = "<bos> <pad> <eos> <unk> <mask>" if family == "metaclip_2" else "<pad> <eos> <bos> <unk> <mask>"
    ids = {word: i for i, word in enumerate([*specials.split(), *WORDS[5:]])}
    raw = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    single = "<bos> $A <eos>" if family == "metaclip_2" else "$A <eos>"
    ends = [(word, ids[word]) for word in ("<bos>", "<eos>")]
    raw.post_processor = processors.TemplateProcessing(single=single, special_tokens=ends)
    names = {f"{name}_token": f"<{name}>" for name in ("pad", "bos", "eos", "unk", "mask")}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, model_input_names=["input_ids"], **names)
    text = {"vocab_size": len(ids), "hidden_size": 32, "max_position_embeddings": 20}
    vision = {"hidden_size": 24, "image_size": 32, "patch_size": 8}
    tower = {"intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(seed)
    if family == "metaclip_2":
        text |= {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
        config = MetaClip2Config(text_config=tower | text, vision_config=tower | vision, projection_dim=24)
        return _enlarge(MetaClip2Model(config)), tokenizer
    text["projection_size"] = 24
    return _enlarge(SiglipModel(SiglipConfig(text_config=tower | text, vision_config=tower | vision))), tokenizer


def save_backbone(place, family):
    """Save a tiny model of a family as a repository, and name its directory."""
    backbone, tokenizer = build_backbone(family)
    image_processor = build_image_processor()
    if family == "siglip":
        image_processor = SiglipImageProcessorPil(size={"height": 32, "width": 32})
    for part in (backbone, tokenizer, image_processor):
        part.save_pretrained(place)
    return str(place)


def _enlarge(model):
    """Make weights large enough for outputs to differ visibly."""
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.15)
        elif "bias" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return model.eval()


def build_language_model(folder):
    """Save a random GPT-2 that writes bytes, and name its directory."""
    letters = {letter: i for i, letter in enumerate(["</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(letters, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>").save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"vocab_size": len(letters), "n_positions": 64, "n_embd": 16, "n_layer": 1, "n_head": 2}
    GPT2LMHeadModel(GPT2Config(**sizes, eos_token_id=0, bos_token_id=0)).save_pretrained(folder)
    return str(folder)


def build_image_processor():
    """Build CLIP's preprocessing for images of 32 pixels."""
    return CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})


def build_processor():
    """Build a processor for the tiny CLIP."""
    return RTDProcessor(build_image_processor(), build_tokenizer())


def shake(module, seed=0):
    """Change all weights as if they had been trained."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_((0.1 * torch.randn(parameter.shape, generator=generator)).to(parameter.dtype))
    return module


class StopAt(TrainerCallback):
    """Stops a training after a step."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == self.step


def build_images(count, seed=0, size=(40, 36)):
    """Draw coloured noise."""
    rng = np.random.default_rng(seed)
    return [
        Image.fromarray((rng.integers(0, 256, (*size, 3)) // 3 + rng.integers(0, 170, 3)).astype("uint8"))
        for _ in range(count)
    ]


def write_photos(folder):
    """Write fifteen images."""
    folder.mkdir()
    for i, image in enumerate(build_images(15)):
        image.save(folder / f"{i:02}.png")
    return folder


def draw_embeddings(kind, seed=0):
    """Draw 800 embeddings of 32 numbers, six queries and ids; most rows of `"tied"` ones are equal."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((800, 32)).astype(np.float32)
    if kind == "tied":
        rows[100:130] = rows[7]
        rows[200:700] = rows[750]
    queries = np.concatenate([rng.standard_normal((4, 32)).astype(np.float32), rows[[7, 750]]])
    return rows, queries, [f"image {i}" for i in range(800)]


def rank_by_brute_force(rows, queries, dtype=np.float32):
    """Rank in float64, equal scores in the order of the rows."""
    rows, queries = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (rows, queries))
    scores = queries.astype(np.float32).astype(float) @ rows.astype(dtype).astype(float).T
    return np.argsort(-scores.round(12), axis=1, kind="stable"), scores


def build_triplets(count=64, seed=0):
    """Write triplets from the tiny vocabulary, no two alike."""
    rng = np.random.default_rng(seed)
    colours, things, sizes = (
        "red green blue white black".split(),
        "dress shirt dog cat car tree house".split(),
        ("small", "large"),
    )
    rows = []
    for _ in range(count):
        first, second = rng.choice(colours, 2, replace=False)
        thing, size = rng.choice(things), rng.choice(sizes)
        tail = " with the cat and the dog" if rng.random() < 0.3 else ""
        rows.append(
            {
                "reference_caption": f"a {size} {first} {thing}",
                "conditioning_caption": f"is {second}{tail}",
                "target_caption": f"a {size} {second} {thing}{tail}",
            }
        )
    return rows


def save_model(place, projection, clip, processor):
    """Save a random model of a method, and name its directory."""
    torch.manual_seed(1)
    RTDModel.from_clip(clip, projection, tokenizer=processor.tokenizer).save_pretrained(place)
    processor.with_template(projection).save_pretrained(place)
    return str(place)


def save_with_stages(save_model, processor, place):
    """Save a model or an adapter with its processor and `STAGES`."""
    save_model(place)
    processor.save_pretrained(place)
    write_stages(STAGES, place)
    return place


def hash_files(folder):
    """Hash the files of a folder by name, hidden ones left out."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.name[0] != "."
    }


def list_scenes(rows, scene):
    """Read the scenes that rows of a world show."""
    return [scene(**row) for row in rows.select_columns(list(scene._fields))]


def map_gallery(benchmark, scene):
    """Read the scenes of a gallery by the ids of its images."""
    return dict(zip(benchmark.gallery["id"], list_scenes(benchmark.gallery, scene), strict=True))


def load_place(place):
    """Load a model and its processor."""
    return RTDModel.from_pretrained(place), RTDProcessor.from_pretrained(place)


def encode_separately(tower, processor, prompts, words):
    """Encode prompts one by one, without padding, by transformers' own layers; an oracle."""
    rows = []
    for ids, word in zip(prompts, words, strict=True):
        input_ids = torch.tensor([[processor.placeholder_token_id if i == -1 else i for i in ids]])
        embeds = tower.embeddings.token_embedding(input_ids).clone()
        embeds[0, [place for place, i in enumerate(ids) if i == -1]] = word
        hidden = tower.embeddings(inputs_embeds=embeds)
        length = len(ids)
        mask = torch.full((length, length), torch.finfo(hidden.dtype).min, dtype=hidden.dtype).triu(1)[None, None]
        hidden = tower.final_layer_norm(tower.encoder(hidden, attention_mask=mask).last_hidden_state)
        rows.append(tower.text_projection(hidden[0, -1]))
    return torch.stack(rows)


def split_prompt(template, condition):
    """The pieces of a prompt around its pseudo-words, as published evaluation code writes it; an oracle.

    `None` as a condition gives the prompt of the reference alone.
    """
    if condition is None:
        head, sign, _ = template.partition("{condition}")[0].rpartition("$")
        template, condition = head + sign or template, ""
    return [piece.replace("{condition}", condition) for piece in template.split("$")]


def draw(path, rng, size=None):
    """Draw coloured noise of some shape."""
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = size or rng.integers(20, 60, 2)
    pixels = rng.integers(0, 256, (height, width, 3)) // 3 + rng.integers(0, 170, 3)
    Image.fromarray(pixels.astype("uint8")).save(path)


def write_lines(path, lines):
    """Write lines, some of them bytes."""
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines))
    return path


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def build_cirr(root, num_sets=2, images=True):
    """Write val and test1, each of a few sets of six images and four queries a set; one test caption is blank."""
    rng = np.random.default_rng(0)
    for split, place, first in (("val", "dev", 12060), ("test1", "test1", 12063)):
        sets = [[f"{place}-{s}-{i // 2}-img{i % 2}" for i in range(6)] for s in range(num_sets)]
        names = [name for members in sets for name in members]
        write_json(root / f"cirr/image_splits/split.rc2.{split}.json", {n: f"./{place}/{n}.png" for n in names})
        rows = []
        for i in range(4 * num_sets):
            members = sets[i % num_sets]
            reference, target = rng.choice(6, 2, replace=False)
            row = {"pairid": first + 2 * i, "reference": members[reference], "caption": f"is red  and {i}, no more."}
            row["img_set"] = {"id": i % num_sets, "members": members, "reference_rank": 3}
            if split == "val":
                row |= {"target_hard": members[target], "target_soft": {members[target]: 1.0}}
                row["img_set"]["target_rank"] = 1
            rows.append(row)
        if split == "test1":
            rows[0]["caption"] = " "
        write_json(root / f"cirr/captions/cap.rc2.{split}.json", rows)
        for name in names if images else ():
            draw(root / place / f"{name}.png", rng)


def build_circo(root, size=60):
    """Write val and test over an unlabeled set."""
    rng = np.random.default_rng(1)
    ids = sorted(rng.choice(580000, size, replace=False).tolist())
    images = [{"id": i, "file_name": f"{i:012d}.jpg", "width": 40, "height": 40} for i in ids]
    coco = root / "COCO2017_unlabeled"
    write_json(coco / "annotations/image_info_unlabeled2017.json", {"images": images})
    for split, count in (("val", 5), ("test", 7)):
        rows = []
        for i in range(count):
            reference, *targets = rng.choice(ids, 2 + i % 4, replace=False).tolist()
            row = {
                "id": i,
                "reference_img_id": reference,
                "relative_caption": f"has {i} dog",
                "shared_concept": "a dog",
            }
            if split == "val":
                row |= {"target_img_id": targets[0], "gt_img_ids": targets}
                row["semantic_aspects"] = ["negation", "addition"][: 1 + i % 2]
            rows.append(row)
        write_json(root / f"annotations/{split}.json", rows)
    for image in images:
        draw(coco / "unlabeled2017" / image["file_name"], rng)


def build_fashioniq(root, suffixes=(".jpg", ".png", ".jpeg")):
    """Write val of the three categories; one caption is empty."""
    rng = np.random.default_rng(2)
    for category, suffix in zip(CATEGORIES, suffixes, strict=True):
        names = [f"B00{category.upper()[:3]}{i:03d}" for i in range(14)]
        rows = []
        for i in range(5):
            candidate, target = rng.choice(names[:10], 2, replace=False).tolist()
            captions = ["" if i == 4 else f"is the {i} red.", " has sleeves?"]
            rows.append({"candidate": candidate, "target": target, "captions": captions})
        write_json(root / f"captions/cap.{category}.val.json", rows)
        write_json(root / f"image_splits/split.{category}.val.json", names)
        for name in names:
            draw(root / f"images/{name}{suffix}", rng)


def build_genecis(root):
    """Write the four tasks; one target stands in its gallery too, one box leaves its image."""
    rng = np.random.default_rng(3)
    for task in TASKS:
        is_attribute, rows = task.endswith("attribute"), []
        for _ in range(4):
            if is_attribute:
                boxes = [rng.integers(0, 25, 2).tolist() + rng.integers(4, 20, 2).tolist() for _ in range(16)]
                items = [{"image_id": str(rng.integers(1, 9)), "instance_bbox": box} for box in boxes]
            else:
                items = [{"val_image_id": int(i)} for i in rng.choice(20, 16, replace=False)]
            gallery = items[2 : 11 if task == "focus_attribute" else 16]
            rows.append({"reference": items[0], "target": items[1], "gallery": gallery, "condition": "red"})
        rows[1]["gallery"][0] = rows[1]["target"]
        if is_attribute:
            rows[2]["target"]["instance_bbox"][0] = -3.5
        write_json(root / f"genecis/{task}.json", rows)
    for i in range(1, 9):
        draw(root / f"VG_100K_all/{i}.jpg", rng, (50, 40))
    for i in range(20):
        draw(root / f"val2017/{i:012d}.jpg", rng)


def build_coco(root):
    """Write regions, whole images and masked ones; one row has no other classes."""
    rng = np.random.default_rng(4)
    lines = ["id,query_regions,query_class,classes"]
    for i in range(12):
        lines.append(f"{i:012d}.jpg,2.5;3.1;{20 + i}.7;19.0 ,dog,{'' if i == 3 else 'cat;stop sign'}")
        draw(root / f"val2017/{i:012d}.jpg", rng, (50, 40))
        draw(root / f"val2017_masked/{i:012d}.jpg", rng, (50, 40))
    root.joinpath("coco_eval.csv").write_text("\n".join(lines) + "\n")


def build_imagenet_r(root):
    """Write two classes, one of which has no origami."""
    rng, queries, targets = np.random.default_rng(5), [], []
    for label, wnid in ((2, "n04086273"), (9, "n01518878")):
        real = [f"imgnet/real/{wnid}/ILSVRC2012_val_{label:04d}{i:04d}.JPEG" for i in range(3)]
        queries += [f"{path} {label} " for path in real]
        targets += [f"{path} {label + 6000} " for path in real]
        for offset, domain in enumerate(DOMAINS):
            if (label, domain) != (9, "origami"):
                drawn = [f"imgnet/imagenet-r/{wnid}/{domain}_{i}.jpg" for i in range(2)]
                targets += [f"{path} {label + 1000 * offset} " for path in drawn]
    lists = {"imgnet_real_query.txt": queries, "imgnet_targets.txt": targets}
    for name, lines in lists.items():
        root.joinpath("imgnet").mkdir(parents=True, exist_ok=True)
        root.joinpath("imgnet", name).write_text("\n".join(lines) + "\n")
    for line in targets:
        draw(root / line.split()[0], rng)


BUILDERS = {
    "cirr": build_cirr,
    "circo": build_circo,
    "fashioniq": build_fashioniq,
    "genecis": build_genecis,
    "coco": build_coco,
    "imagenet_r": build_imagenet_r,
}


def build_stand_in(name, root):
    """Write the directory of one benchmark, and return it."""
    root = Path(root)
    BUILDERS[name](root)
    return root


def edit_json(root, file, change):
    """Change the content of a JSON file in place."""
    path = root / file
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def write_embeddings(path, parts, change=lambda arrays: None):
    """Write what a model computed as another system would, as npz, parquet or json."""
    gallery, query = {}, {}
    for evaluator, embeds in parts:
        gallery |= dict(zip(evaluator.gallery_ids, 3 * evaluator.gallery_embeds.numpy(), strict=True))
        query |= dict(zip(evaluator.benchmark.queries["id"], embeds.numpy(), strict=True))
    # In another order than that of the benchmark.
    arrays = {
        f"{name}_{what}": np.array(list(values)[::-1])
        for name, rows in (("gallery", gallery), ("query", query))
        for what, values in (("ids", rows), ("embeds", rows.values()))
    }
    change(arrays)
    if path.suffix == ".npz":
        np.savez(path, **arrays)
        return path
    rows = [
        (name, item, embed.tolist())
        for name in ("gallery", "query")
        for item, embed in zip(arrays[f"{name}_ids"].tolist(), arrays[f"{name}_embeds"], strict=True)
    ]
    if path.suffix == ".parquet":
        kinds, ids, embeds = zip(*rows, strict=True)
        table = pyarrow.table({"kind": list(kinds), "id": list(ids), "embedding": list(embeds)})
        pyarrow.parquet.write_table(table, path)
    else:
        named = {name: {item: embed for kind, item, embed in rows if kind == name} for name in ("gallery", "query")}
        path.write_text(json.dumps(named))
    return path


_IMMICH = """
CREATE EXTENSION IF NOT EXISTS vector;
CREATE TYPE asset_visibility_enum AS ENUM ('archive', 'timeline', 'hidden', 'locked');
CREATE TABLE "user" (id uuid PRIMARY KEY, email text UNIQUE, name text);
CREATE TABLE asset (
    id uuid PRIMARY KEY, "ownerId" uuid NOT NULL REFERENCES "user" (id), type text, "originalPath" text,
    "originalFileName" text, "localDateTime" timestamptz, visibility asset_visibility_enum,
    "deletedAt" timestamptz, "isOffline" boolean NOT NULL DEFAULT false
);
CREATE TABLE asset_file (
    "assetId" uuid REFERENCES asset (id) ON DELETE CASCADE, type text, path text, UNIQUE ("assetId", type)
);
CREATE TABLE smart_search (
    "assetId" uuid PRIMARY KEY REFERENCES asset (id) ON DELETE CASCADE, embedding vector({dim}) NOT NULL
);
CREATE INDEX clip_index ON smart_search USING hnsw (embedding vector_cosine_ops);
"""


def build_immich(uri, folder, model, processor):
    """Fill a database as Immich does, for two people, and write previews below a folder that it calls `/data`.

    Returns:
        `dict`: Of each person (`anna`, `bert`) the ids on the timeline, and of `hidden` all others, in their order.
    """
    import psycopg

    people = {name: str(uuid.UUID(int=i)) for i, name in enumerate(("anna", "bert"), start=1)}
    ids = {"anna": [], "bert": [], "hidden": []}
    states = ["timeline"] * 17 + ["archive", "locked", "trash"]
    (folder / "thumbs").mkdir(parents=True)
    with psycopg.connect(uri) as connection:
        connection.execute(_IMMICH.format(dim=model.config.projection_dim))
        for name, person in people.items():
            connection.execute('INSERT INTO "user" VALUES (%s, %s, %s)', [person, f"{name}@example.org", name])
        for i, image in enumerate(build_images(20, seed=5)):
            owner, name = ("anna", "bert")[i % 3 == 2], str(uuid.UUID(int=1000 - 7 * i))
            preview = folder / f"thumbs/{name}_preview.jpeg"
            image.save(preview, quality=95)
            row = [name, people[owner], f"/data/upload/{i}.heic", f"{i}.heic", datetime(2020 + i % 3, 1, 2)]
            state = "timeline" if states[i] == "trash" else states[i]
            row += [state, datetime(2025, 1, 1) if states[i] == "trash" else None]
            connection.execute("INSERT INTO asset VALUES (%s, %s, 'IMAGE', %s, %s, %s, %s, %s)", row)
            files = [name, f"/data/thumbs/{preview.name}", name]
            connection.execute(
                "INSERT INTO asset_file VALUES (%s, 'preview', %s), (%s, 'thumbnail', '/data/none.webp')", files
            )
            embedding = (3 * encode_images(model, processor, [preview])[0]).tolist()  # of any norm
            connection.execute("INSERT INTO smart_search VALUES (%s, %s::real[]::vector)", [name, embedding])
            ids[owner if states[i] == "timeline" else "hidden"].append(name)
    return ids


@contextlib.contextmanager
def hold_in_another_process(lock):
    """Hold a lock's file in a process of its own, which is a copy of this one."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    holder = context.Process(target=_hold, args=(lock, there))
    holder.start()
    here.recv()
    yield
    here.send("leave")
    holder.join()


def _hold(lock, there):
    with WeakFileLock(lock):
        there.send("held")
        there.recv()
