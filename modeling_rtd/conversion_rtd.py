"""Published checkpoint files of the methods, turned into our models without running anything that a file holds."""

from __future__ import annotations

import collections
import copy
import io
import pickle
import re
import zipfile
from pathlib import Path

import torch

from .errors_rtd import check_path, suggest, word_pickle
from .modeling_rtd import RTDModel
from .projection_auto_rtd import PROJECTIONS
from .projection_rtd import RTDProjection


__all__ = ["CHECKPOINT_FORMATS", "convert_checkpoint", "load_safely", "read_checkpoint"]

# Method: key of the state dict in its file. FTI4CIR publishes a pickled module instead of a state dict.
CHECKPOINT_FORMATS = {
    "context_i2w": "state_dict_img2text",
    "fti4cir": None,
    "lincir": "Phi",
    "pic2word": "state_dict_img2text",
    "rtd": "CLIPTextModelWithProjection",
    "searle": "Phi",
}
# Published names of tensors, as patterns, and ours. Weight norm has an old and a new naming.
_RENAMES = {
    r"^module\.": "",
    r"^text_model\.": "",
    r"^W_R\.(weight_g|parametrizations\.weight\.original0)$": "view_selector.scale",
    r"^W_R\.(weight_v|parametrizations\.weight\.original1)$": "view_selector.direction",
    r"^VT_Extractor\.": "extractor.",
}
# A tensor that only these methods have.
_MARKS = {
    "view_selector.scale": ("context_i2w",),
    "templates": ("fti4cir",),
    "fc_out.weight": ("pic2word",),
    "layers.3.weight": ("lincir", "searle"),
    "text_projection.weight": ("rtd",),
}
# Storages that a pickled module may name, which are read as numbers.
_STORAGES = {
    "BFloat16Storage": torch.bfloat16,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
}
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_IGNORED = {"embeddings.position_ids"}  # a buffer of transformers before 4.31


class _Inert:
    """Stands for an object of a module's pickle: holds its attributes and does nothing."""

    def __init__(self, *args, **kwargs):
        pass

    def __setstate__(self, state):
        self.__dict__.update(state)


def _view(numbers: torch.Tensor, offset: int, size: tuple, stride: tuple, *_) -> torch.Tensor:
    return numbers.as_strided(size, stride, offset)  # refuses what reaches beyond the numbers


class _RestrictedUnpickler(pickle.Unpickler):
    """Rebuilds tensors and plain containers, makes inert stand-ins for a network's classes, and refuses the rest.

    Args:
        archive (`zipfile.ZipFile`): File of `torch.save`, of which nothing but `data.pkl` and `data/` is read.
        root (`str`): Folder in it, with the slash.
    """

    _allowed = {
        ("torch._utils", "_rebuild_tensor_v2"): _view,
        ("torch._utils", "_rebuild_parameter"): lambda data, requires_grad, hooks: data,
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("builtins", "set"): set,
        ("__builtin__", "set"): set,
    }

    def __init__(self, archive: zipfile.ZipFile, root: str):
        super().__init__(io.BytesIO(archive.read(f"{root}data.pkl")))
        self.archive, self.root, self.storages = archive, root, {}

    def persistent_load(self, saved_id) -> torch.Tensor:
        _, dtype, key, _, count = saved_id
        if key not in self.storages:
            # torch warns of buffers that cannot be written to.
            numbers = bytearray(self.archive.read(f"{self.root}data/{key}"))
            self.storages[key] = (
                torch.frombuffer(numbers, dtype=dtype, count=count) if count else torch.empty(0, dtype=dtype)
            )
        return self.storages[key]

    def find_class(self, module, name):
        if (module, name) in self._allowed:
            return self._allowed[module, name]
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        is_network = module in ("i2t_model", "MHTransformer") or re.match(r"torch\.nn(\.|$)", module)
        if is_network or (module, name) in (("torch", "device"), ("torch", "Size")):
            return type(name, (_Inert,), {})
        raise pickle.UnpicklingError(f"the file asks for {module}.{name}")


def read_checkpoint(file: str | Path, method: str) -> dict[str, torch.Tensor]:
    """Read the tensors of a published checkpoint file. No code of the file is run.

    Args:
        file (`str` or `Path`): File as the method's authors publish it.
        method (`str`): A key of `CHECKPOINT_FORMATS`.

    Returns:
        `dict[str, torch.Tensor]`: Tensors by our names, on the CPU.

    Raises:
        ValueError: If the method is unknown; if the file is missing, cut short, of another method, or holds anything
            but tensors and plain containers.
    """
    if method not in CHECKPOINT_FORMATS:
        raise ValueError(suggest("checkpoint format", method, CHECKPOINT_FORMATS))
    if not Path(file).is_file():
        raise ValueError(f"there is no file '{file}'.")
    content = load_safely(Path(file), method == "fti4cir")
    if isinstance(content, _Inert):
        content = _collect_tensors(content)
    if not isinstance(content, dict):
        raise ValueError(f"'{file}' holds a {type(content).__name__}, but must hold a dictionary of tensors.")
    key = next((key for key in content if key in CHECKPOINT_FORMATS.values()), None)
    state = _rename(content if key is None else content[key])
    found = next((methods for mark, methods in _MARKS.items() if mark in state), ())
    if found and method not in found:
        raise ValueError(
            f"'{file}' is not a checkpoint of {method}, but of {' or '.join(found)}: name that with --from."
        )
    return state


def load_safely(file: Path, is_module: bool = False):
    """Load what a file of `torch.save` holds, without running any of it.

    Args:
        file (`Path`): The file.
        is_module (`bool`, defaults to `False`): Whether it holds a pickled module instead of tensors.

    Returns:
        What it holds; stand-ins without effect for a module's classes.

    Raises:
        ValueError: If it holds anything but tensors and plain containers, or cannot be read.
    """
    if is_module and not zipfile.is_zipfile(file):
        raise ValueError(
            f"'{file}' is refused: it is not a zip file of torch.save, or it is cut short; download it again."
        )
    try:
        if not is_module:
            return torch.load(file, map_location="cpu", weights_only=True)
        return _read_module(file)
    except pickle.UnpicklingError as error:
        if "i2t_model" in str(error):
            raise ValueError(f"'{file}' is a pickled module of fti4cir; convert it with --from fti4cir.") from error
        found, remedy = f" ({_first_line(error)})", "Get the file from its authors."
        raise ValueError(word_pickle(f"'{file}'", remedy, found)) from error
    except Exception as error:  # whatever a broken file provokes
        raise ValueError(
            f"'{file}' cannot be read as a file of torch.save ({_first_line(error)}); it may be cut short: fetch it "
            "again."
        ) from error


def _read_module(file: Path):
    """Read a pickled module from the records of its archive; torch reads archives its own way and never sees it."""
    with zipfile.ZipFile(file) as archive:
        records = archive.infolist()
        # Records are stored as they are, one behind the other; what takes more than the file is no file of torch.save.
        if sum(record.file_size for record in records) > file.stat().st_size:
            raise ValueError("its records are larger than the file")
        names = [record.filename for record in records]
        # Only a program has constants beside its data.
        if any(name.endswith("constants.pkl") for name in names):
            raise pickle.UnpicklingError("it is a TorchScript program")
        (root,) = (name.removesuffix("data.pkl") for name in names if name.endswith("data.pkl"))
        order = f"{root}byteorder"
        if order in names and archive.read(order) != b"little":
            raise ValueError("its numbers are written in another byte order")
        return _RestrictedUnpickler(archive, root).load()


def _first_line(error: Exception) -> str:
    text = str(error)
    if "weights_only" in text and "GLOBAL" not in text:
        return "it is not a plain pickle"  # torch advises to load it all the same
    asked = re.search(r"(?:Unsupported global: GLOBAL|the file asks for) (\S+)", text)
    return f"it asks for {asked.group(1)}" if asked else (text.splitlines() or [type(error).__name__])[0]


def _rename(state) -> dict[str, torch.Tensor]:
    renamed = {}
    for name, tensor in state.items() if isinstance(state, dict) else ():
        for pattern, own in _RENAMES.items():
            name = re.sub(pattern, own, str(name))
        if isinstance(tensor, torch.Tensor) and name not in _IGNORED:
            renamed[name] = tensor
    return renamed


def _collect_tensors(module: _Inert, prefix: str = "", seen: frozenset | set = frozenset()) -> dict[str, torch.Tensor]:
    """List the tensors of a pickled module and its submodules, each once: a file may nest them in circles."""
    seen = seen or set()
    if id(module) in seen:
        return {}
    seen.add(id(module))
    if prefix.count(".") > 20:
        raise ValueError("the pickled module nests deeper than any network here; get the file from its authors.")
    parts = {**_get_dict(module, "_parameters"), **_get_dict(module, "_buffers")}
    tensors = {f"{prefix}{name}": part for name, part in parts.items() if isinstance(part, torch.Tensor)}
    for name, child in _get_dict(module, "_modules").items():
        tensors |= _collect_tensors(child, f"{prefix}{name}.", seen)
    return tensors


def _get_dict(module: _Inert, name: str) -> dict:
    value = getattr(module, name, None)
    return value if isinstance(value, dict) else {}


def convert_checkpoint(
    file: str | Path, method: str, clip: str, projection: str | RTDProjection | None = None
) -> RTDModel:
    """Build a model from a published checkpoint file and the CLIP that it was trained on.

    Args:
        file (`str` or `Path`): File as the method's authors publish it.
        method (`str`): `searle`, `lincir`, `pic2word`, `context_i2w` or `fti4cir`: the file holds a projection;
            `rtd`: the file holds a text tower.
        clip (`str`): Directory or Hub id of the CLIP underneath.
        projection (`str` or [`RTDProjection`], *optional*):
            For `rtd` alone: the projection that the text tower was trained with.

    Returns:
        [`RTDModel`]: In evaluation mode, float32; with `rtd` its original text tower is the CLIP's.

    Raises:
        ValueError: See [`read_checkpoint`]; and if tensors are missing, left over, not finite or of other shapes than
            this CLIP needs, or `projection` is missing or too much.
    """
    if (method == "rtd") != (projection is not None):
        raise ValueError(
            "a text tower of RTD needs the projection it was trained with (--projection), and only that does: "
            f"method '{method}', projection {projection!r}."
        )
    if projection in PROJECTIONS:
        raise ValueError(f"--projection names a trained one, but '{projection}' is a method: give its directory.")
    check_path(file, "file")
    state = read_checkpoint(file, method)
    # In float32 whatever the CLIP is stored in: a projection must not be rounded.
    model = RTDModel.from_clip(clip, projection or method, dtype=torch.float32)
    # A copy, since the CLIP's own tower stays as the original.
    part = copy.deepcopy(model.text_model) if method == "rtd" else model.projection
    _check_tensors(state, part.state_dict(), file, clip)
    part.load_state_dict(state)
    if method == "rtd":
        model.replace_text_model(part)
    return model


def _check_tensors(state: dict, needed: dict, file, clip: str) -> None:
    missing, left_over = sorted(needed.keys() - state.keys()), sorted(state.keys() - needed.keys())
    if missing or left_over:
        raise ValueError(
            f"'{file}' does not hold what is needed. Missing: {', '.join(missing) or 'nothing'}. Left over: "
            f"{', '.join(left_over) or 'nothing'}. Is it complete, and of the method and size it is said to be?"
        )
    odd = [name for name, tensor in state.items() if not _is_plain(tensor)]
    if odd:
        raise ValueError(
            f"'{file}' does not hold plain numbers of 16 to 64 bits in {', '.join(odd[:3])}: get the file from its "
            "authors."
        )
    shapes = {
        name: f"{name} {tuple(state[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in needed.items()
        if state[name].shape != tensor.shape
    }
    if shapes:
        raise ValueError(
            f"'{file}' was made for another backbone than '{clip}': {'; '.join(list(shapes.values())[:3])}"
            f"{f' and {len(shapes) - 3} more' if len(shapes) > 3 else ''}. Name the CLIP it was trained on."
        )
    broken = [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise ValueError(f"'{file}' holds numbers that are not finite in {', '.join(broken)}; fetch it again.")


def _is_plain(tensor: torch.Tensor) -> bool:
    # A file of torch.save may hold integers, complex, quantised, sparse and nested tensors, and some without numbers.
    is_dense = tensor.layout is torch.strided and tensor.device.type == "cpu" and not tensor.is_nested
    return is_dense and tensor.dtype in _FLOATS
