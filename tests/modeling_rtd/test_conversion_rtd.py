"""Published files become our models, tensor by tensor; malicious ones are refused before they can do anything."""

import contextlib
import io
import os
import pickle
import struct
import sys
import types
import warnings
import zipfile

import pytest
import torch
from torch import nn

from modeling_rtd import (
    CHECKPOINT_FORMATS,
    RTDModel,
    RTDProcessor,
    RTDProjectionConfig,
    RTDTextModel,
    build_projection,
    convert_checkpoint,
    load_projection,
    read_checkpoint,
)
from tests.factories import build_clip, build_images, build_processor, build_tokenizer
from trainer.cli.main import main


PROJECTION_METHODS = sorted(CHECKPOINT_FORMATS.keys() - {"rtd"})


def write_names_of_context_i2w(state):
    published = {"view_selector.scale": "W_R.weight_g", "view_selector.direction": "W_R.weight_v"}
    return {published.get(name, name.replace("extractor.", "VT_Extractor.")): t for name, t in state.items()}


class Published:
    """The classes that FTI4CIR's pickle names, in modules that exist while the file is written only."""

    def __init__(self, projection, wraps=False):
        source = types.ModuleType("i2t_model")
        for name in ("IMG2TEXT", "Phi"):
            setattr(source, name, type(name, (nn.Module,), {"__module__": "i2t_model"}))
        other = types.ModuleType("MHTransformer")
        for name in ("Transformer", "TransformerLayer"):
            setattr(other, name, type(name, (nn.Module,), {"__module__": "MHTransformer"}))
        self.modules = {"i2t_model": source, "MHTransformer": other}
        self.module = self.copy(projection, source.IMG2TEXT)
        if wraps:
            self.module = nn.DataParallel(self.module)
            self.module.src_device_obj = torch.device("cpu")  # as on a machine with GPUs
        self.module.num_k, self.module.topk, self.module.epsilon = 24, 12, 0.05

    def copy(self, module, own_class):
        """The same parameters under the same names, in modules of the published classes."""
        other = self.modules["MHTransformer"].TransformerLayer
        if isinstance(module, nn.ModuleList | nn.Sequential):
            children = [self.copy(part, other) for part in module]
            return nn.ModuleList(children) if isinstance(module, nn.ModuleList) else nn.Sequential(*children)
        if type(module).__module__.startswith("torch.nn"):
            return module
        copied = own_class()
        for name, parameter in module.named_parameters(recurse=False):
            copied.register_parameter(name, parameter)
        classes = {"_Phi": self.modules["i2t_model"].Phi, "_Transformer": self.modules["MHTransformer"].Transformer}
        for name, child in module.named_children():
            copied.add_module(name, self.copy(child, classes.get(type(child).__name__, other)))
        return copied

    def save(self, file):
        sys.modules.update(self.modules)
        try:
            torch.save(self.module, file)
        finally:
            for name in self.modules:
                del sys.modules[name]


def write_published(method, part, file, prefix=""):
    """Write a file as the authors of a method do."""
    state = dict(part.state_dict())
    if method == "fti4cir":
        return Published(part, wraps=bool(prefix)).save(file)
    if method == "context_i2w":
        state = write_names_of_context_i2w(state)
    if method == "rtd":
        state = {k if k.startswith("text_projection") else f"text_model.{k}": v for k, v in state.items()}
        state["text_model.embeddings.position_ids"] = torch.arange(20)[None]
    state = {f"{prefix}{name}": tensor for name, tensor in state.items()}
    return torch.save({"epoch": 3, CHECKPOINT_FORMATS[method]: state}, file)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    build_clip(projection_dim=32, max_position_embeddings=40).save_pretrained(folder)
    build_tokenizer(40).save_pretrained(folder)
    build_processor().image_processor.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def build(clip_folder):
    def build(method, seed=5):
        torch.manual_seed(seed)
        return RTDModel.from_clip(clip_folder, method)

    return build


@torch.no_grad()
@pytest.mark.parametrize(
    ("method", "prefix"),
    [
        *((method, "") for method in PROJECTION_METHODS),
        ("searle", "module."),
        *(
            pytest.param(method, "module.", marks=pytest.mark.slow)
            for method in PROJECTION_METHODS
            if method != "searle"
        ),
    ],
)
def test_a_published_projection_converts_tensor_by_tensor_and_answers_alike(
    method, prefix, build, clip_folder, tmp_path
):
    source = build(method)
    write_published(method, source.projection, tmp_path / "file.pt", prefix)
    assert (
        main(
            [
                "convert",
                "--from",
                method,
                str(tmp_path / "file.pt"),
                "--clip",
                clip_folder,
                "-o",
                str(tmp_path / "out"),
            ]
        )
        == 0
    )
    converted = RTDModel.from_pretrained(tmp_path / "out")
    for name, tensor in source.projection.state_dict().items():
        assert torch.equal(converted.projection.state_dict()[name], tensor), name
    processor = RTDProcessor.from_pretrained(tmp_path / "out")
    inputs = processor(images=build_images(2), conditions=["is red", "with no sleeves"])
    assert torch.equal(converted(**inputs).composed_embeds, source(**inputs).composed_embeds)
    assert processor.default_template == method


def test_weight_norm_is_read_by_its_new_names_too(build, tmp_path):
    projection = build("context_i2w").projection
    new = {
        "W_R.weight_g": "W_R.parametrizations.weight.original0",
        "W_R.weight_v": "W_R.parametrizations.weight.original1",
    }
    state = {new.get(k, k): v for k, v in write_names_of_context_i2w(projection.state_dict()).items()}
    torch.save({"state_dict_img2text": state}, tmp_path / "file.pt")
    read = read_checkpoint(tmp_path / "file.pt", "context_i2w")
    assert torch.equal(read["view_selector.direction"], projection.view_selector.direction)


@torch.no_grad()
def test_a_text_tower_of_rtd_converts_and_keeps_the_original(build, clip_folder, tmp_path):
    model = build("lincir")
    model.projection.save_pretrained(tmp_path / "phi")
    original = model.text_model.text_projection.weight.clone()
    for parameter in model.text_model.parameters():
        parameter.mul_(1.1)
    write_published("rtd", model.text_model, tmp_path / "file.pt")
    converted = convert_checkpoint(tmp_path / "file.pt", "rtd", clip_folder, str(tmp_path / "phi"))
    for name, tensor in model.text_model.state_dict().items():
        assert torch.equal(converted.text_model.state_dict()[name], tensor), name
    assert torch.equal(converted.original_text_model.text_projection.weight, original)
    inputs = build_processor()(images=build_images(1), conditions=["is red"])
    assert torch.equal(converted(**inputs).composed_embeds, model(**inputs).composed_embeds)


class Attack:
    """Runs a command when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def write_plain_pickle(attack, file):
    file.write_bytes(pickle.dumps(attack))


def write_zip(attack, file):
    torch.save({"Phi": attack, "state_dict_img2text": attack, "CLIPTextModelWithProjection": attack}, file)


def write_legacy(attack, file):
    torch.save({"Phi": attack}, file, _use_new_zipfile_serialization=False)


def write_in_a_module(attack, file):
    module = nn.Linear(2, 2)
    module.extra = attack
    torch.save(module, file)


def write_as_module_state(attack, file):
    """The command stands in the arguments of a rebuilder that is allowed."""

    class Nested:
        def __reduce__(self):
            return torch._utils._rebuild_parameter, (attack, False, None)

    torch.save(Nested(), file)


writers = pytest.mark.parametrize(
    "write", [write_plain_pickle, write_zip, write_legacy, write_in_a_module, write_as_module_state]
)


@writers
@pytest.mark.parametrize("method", sorted(CHECKPOINT_FORMATS))
def test_a_malicious_file_is_refused_and_its_command_does_not_run(write, method, tmp_path, capsys):
    mark, file = tmp_path / "mark", tmp_path / "file.pt"
    write(Attack(mark), file)
    command = ["convert", "--from", method, str(file), "--clip", "none", "-o", str(tmp_path / "out")]
    assert main(command + (["--projection", "none"] if method == "rtd" else [])) == 2
    assert "is refused" in capsys.readouterr().err
    assert not mark.exists()


@writers
def test_the_malicious_files_are_what_they_are_said_to_be(write, tmp_path):
    mark, file = tmp_path / "mark", tmp_path / "file.pt"
    write(Attack(mark), file)
    with contextlib.suppress(AttributeError):  # of what is rebuilt from the command's result
        pickle.loads(file.read_bytes()) if write is write_plain_pickle else torch.load(file, weights_only=False)
    assert mark.exists()


def write_two_archives(inner, outer, file):
    """Write a file that is `inner` to Python's `zipfile`, which looks for the directory before its end record, and
    `outer` to torch, which looks where that record says."""
    outer, inner = outer.read_bytes(), zipfile.ZipFile(inner)
    start = outer.rindex(b"PK\x06\x06") if b"PK\x06\x06" in outer else outer.rindex(b"PK\x05\x06")
    with zipfile.ZipFile(io.BytesIO(outer)) as archive:
        place, count = archive.start_dir, len(archive.namelist())
    size, packed = start - place, io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in inner.namelist():
            archive.writestr(name, inner.read(name))
    packed, records = packed.getvalue(), archive.start_dir
    directory, entries, at = packed[records : packed.rindex(b"PK\x05\x06")], [], 0
    while at < len(directory):  # offsets are counted from where the record says that the directory is
        length = 46 + sum(struct.unpack_from("<HHH", directory, at + 28))
        entry = bytearray(directory[at : at + length])
        struct.pack_into("<I", entry, 42, struct.unpack_from("<I", entry, 42)[0] + place - records)
        entries.append(entry)
        at += length
    spare = size - len(directory)
    struct.pack_into("<H", entries[-1], 32, spare)  # a comment fills it up
    end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, count, count, size, place, 0)
    file.write_bytes(outer[:start] + packed[:records] + b"".join(entries) + b" " * spare + end)


def test_a_file_that_torch_reads_in_another_way_runs_nothing(build, tmp_path, monkeypatch):
    class Program(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(40))  # for a large directory
            self.weight = nn.Parameter(torch.zeros(100_000 * 16))

        def forward(self):
            return self.weight

    projection = build("fti4cir").projection
    torch.jit.script(Program()).save(tmp_path / "program.pt")
    write_published("fti4cir", projection, tmp_path / "module.pt")
    write_two_archives(tmp_path / "module.pt", tmp_path / "program.pt", tmp_path / "file.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert isinstance(torch.load(tmp_path / "file.pt", weights_only=False), torch.jit.ScriptModule)
    called = []
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: called.append(args))
    monkeypatch.setattr(torch.jit, "load", lambda *args, **kwargs: called.append(args))
    state = read_checkpoint(tmp_path / "file.pt", "fti4cir")
    assert called == []
    assert all(torch.equal(state[name], tensor) for name, tensor in projection.state_dict().items())


def test_records_larger_than_their_file_are_refused(build, tmp_path):
    write_published("fti4cir", build("fti4cir").projection, tmp_path / "module.pt")
    with zipfile.ZipFile(tmp_path / "module.pt") as packed, zipfile.ZipFile(tmp_path / "bomb.pt", "w") as bomb:
        for name in packed.namelist():
            bomb.writestr(name, packed.read(name), zipfile.ZIP_STORED)
        bomb.writestr("archive/data/99", bytes(10**7), zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="its records are larger than the file"):
        read_checkpoint(tmp_path / "bomb.pt", "fti4cir")


@pytest.mark.parametrize("load", [load_projection, RTDModel.from_pretrained, RTDTextModel.from_pretrained])
def test_a_malicious_file_in_a_repository_is_refused_too(load, build, tmp_path):
    build("lincir").save_pretrained(tmp_path / "model")
    (tmp_path / "model/model.safetensors").unlink()
    torch.save(Attack(tmp_path / "mark"), tmp_path / "model/pytorch_model.bin")
    with pytest.raises(ValueError, match="model' is refused: .* more than tensors") as refusal:
        load(str(tmp_path / "model"))
    assert "weights_only" not in str(refusal.value)
    assert not (tmp_path / "mark").exists()


def test_the_command_line_never_advises_to_load_it_all_the_same(build, tmp_path, capsys):
    build("lincir").save_pretrained(tmp_path / "model")
    (tmp_path / "model/model.safetensors").unlink()
    torch.save(Attack(tmp_path / "mark"), tmp_path / "model/pytorch_model.bin")
    build_images(1)[0].save(tmp_path / "image.png")
    assert main(["search", str(tmp_path / "model"), "--gallery", str(tmp_path), "--text", "is red"]) == 2
    error = capsys.readouterr().err
    assert "refused: it holds more than tensors" in error
    assert "weights_only" not in error


@pytest.mark.parametrize("method", sorted(CHECKPOINT_FORMATS))
def test_a_file_cut_short_is_refused(method, build, tmp_path):
    model = build("lincir" if method == "rtd" else method)
    file = tmp_path / "file.pt"
    write_published(method, model.text_model if method == "rtd" else model.projection, file)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(ValueError, match="cut short"):
        read_checkpoint(file, method)


@pytest.mark.parametrize(
    ("holds", "asked", "named"),
    [
        ("context_i2w", "pic2word", "context_i2w"),
        ("pic2word", "context_i2w", "pic2word"),
        ("searle", "pic2word", "lincir or searle"),
        ("pic2word", "lincir", "pic2word"),
        ("fti4cir", "searle", "fti4cir"),
        ("searle", "fti4cir", "lincir or searle"),
        ("rtd", "lincir", "rtd"),
    ],
)
def test_a_file_of_another_method_is_named(holds, asked, named, build, tmp_path):
    model = build("lincir" if holds == "rtd" else holds)
    write_published(holds, model.text_model if holds == "rtd" else model.projection, tmp_path / "file.pt")
    with pytest.raises(ValueError, match=named):
        read_checkpoint(tmp_path / "file.pt", asked)


def test_a_checkpoint_of_another_backbone_is_named_with_both_shapes(build, clip_folder, tmp_path):
    torch.save(
        {"Phi": build_projection(RTDProjectionConfig(projection_dim=8, text_hidden_size=32)).state_dict()},
        tmp_path / "file.pt",
    )
    with pytest.raises(ValueError, match=r"layers.0.bias \(32,\).*\(128,\)"):
        convert_checkpoint(tmp_path / "file.pt", "searle", clip_folder)


def test_missing_and_left_over_tensors_are_listed(build, clip_folder, tmp_path):
    state = build("searle").projection.state_dict()
    state["extra.weight"] = state.pop("layers.6.bias")
    torch.save({"Phi": state}, tmp_path / "file.pt")
    with pytest.raises(ValueError, match="Missing: layers.6.bias. Left over: extra.weight"):
        convert_checkpoint(tmp_path / "file.pt", "searle", clip_folder)


def test_numbers_that_are_not_finite_are_refused(build, clip_folder, tmp_path):
    projection = build("pic2word").projection
    projection.fc_out.bias.data[0] = float("nan")
    write_published("pic2word", projection, tmp_path / "file.pt")
    with pytest.raises(ValueError, match="not finite in fc_out.bias"):
        convert_checkpoint(tmp_path / "file.pt", "pic2word", clip_folder)


@torch.no_grad()
def test_a_projection_is_not_rounded_to_what_the_clip_is_stored_in(build, clip_folder, tmp_path):
    projection = build("lincir").projection
    write_published("lincir", projection, tmp_path / "file.pt")
    build_clip(dtype=torch.float16, projection_dim=32, max_position_embeddings=40).save_pretrained(clip_folder)
    converted = convert_checkpoint(tmp_path / "file.pt", "lincir", clip_folder).projection
    assert torch.equal(converted.layers[0].weight, projection.layers[0].weight)


def test_rtd_over_pic2word_keeps_rtds_prompt(build, clip_folder, tmp_path):
    model = build("pic2word")
    model.projection.save_pretrained(tmp_path / "phi")
    write_published("rtd", model.text_model, tmp_path / "file.pt")
    command = ["convert", "--from", "rtd", str(tmp_path / "file.pt"), "--clip", clip_folder]
    assert main([*command, "--projection", str(tmp_path / "phi"), "-o", str(tmp_path / "out")]) == 0
    assert RTDProcessor.from_pretrained(tmp_path / "out").default_template == "rtd"


def test_the_name_of_a_method_is_no_trained_projection(build, clip_folder, tmp_path):
    write_published("rtd", build("lincir").text_model, tmp_path / "file.pt")
    with pytest.raises(ValueError, match="'lincir' is a method: give its directory"):
        convert_checkpoint(tmp_path / "file.pt", "rtd", clip_folder, "lincir")


def test_a_text_tower_without_its_projection_is_refused(clip_folder, tmp_path):
    with pytest.raises(ValueError, match="needs the projection it was trained with"):
        convert_checkpoint(tmp_path / "file.pt", "rtd", clip_folder)


def test_what_is_not_there_and_what_is_unknown_is_named(tmp_path):
    with pytest.raises(ValueError, match="there is no file"):
        read_checkpoint(tmp_path / "file.pt", "lincir")
    with pytest.raises(ValueError, match="'linccir'; did you mean 'lincir'"):
        read_checkpoint(tmp_path / "file.pt", "linccir")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="holds a list"):
        read_checkpoint(tmp_path / "list.pt", "lincir")


@pytest.mark.parametrize(
    "change",
    [torch.Tensor.long, lambda t: t.to(torch.complex64), lambda t: t.to(torch.float8_e4m3fn), torch.Tensor.to_sparse],
    ids=["whole numbers", "complex", "8 bits", "sparse"],
)
def test_tensors_that_are_not_plain_numbers_are_refused(build, clip_folder, tmp_path, change):
    projection = build("lincir").projection
    torch.save({"Phi": {k: change(t) for k, t in projection.state_dict().items()}}, tmp_path / "odd.pt")
    with pytest.raises(ValueError, match="does not hold plain numbers"):
        convert_checkpoint(tmp_path / "odd.pt", "lincir", clip_folder)
