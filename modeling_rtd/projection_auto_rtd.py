"""Projections by name: which there are, how one is built, and how one is loaded."""

from __future__ import annotations

from .configuration_rtd import RTDProjectionConfig, refuse_outside
from .errors_rtd import check_path, pick_where, refuse_missing, suggest
from .files_rtd import name_damage
from .projection_context_i2w_rtd import ContextI2WProjection
from .projection_fti4cir_rtd import FTI4CIRProjection
from .projection_lincir_rtd import LinCIRProjection
from .projection_pic2word_rtd import Pic2WordProjection
from .projection_rtd import RTDProjection
from .projection_searle_rtd import SEARLEProjection


__all__ = ["PROJECTIONS", "build_projection", "load_projection", "register_projection"]

# Not through AutoModel, which goes by the class of a configuration: here all share one.
PROJECTIONS: dict[str, type[RTDProjection]] = {
    "context_i2w": ContextI2WProjection,
    "fti4cir": FTI4CIRProjection,
    "lincir": LinCIRProjection,
    "pic2word": Pic2WordProjection,
    "searle": SEARLEProjection,
}


def register_projection(name: str, cls: type[RTDProjection]) -> None:
    """Add a projection from outside the package, so that it is built and loaded by name.

    Args:
        name (`str`): Its `projection_type`; a name that is there already gets the new class.
        cls (`type`): Subclass of [`RTDProjection`].

    Raises:
        TypeError: If it is not a subclass.
    """
    if not (isinstance(cls, type) and issubclass(cls, RTDProjection)):
        raise TypeError(f"a projection is a subclass of RTDProjection, got {cls!r}.")
    PROJECTIONS[name] = cls


def _find_projection_class(projection_type: str) -> type[RTDProjection]:
    if projection_type not in PROJECTIONS:
        raise ValueError(suggest("projection", projection_type, PROJECTIONS))
    return PROJECTIONS[projection_type]


def build_projection(config: RTDProjectionConfig) -> RTDProjection:
    """Build a freshly initialised projection of the type that the configuration names.

    Args:
        config ([`RTDProjectionConfig`]): Type and sizes.

    Returns:
        [`RTDProjection`]: In training mode, float32.

    Raises:
        ValueError: If `config.projection_type` is unknown.
    """
    return _find_projection_class(config.projection_type)(config)


def load_projection(name_or_path: str, **kwargs) -> RTDProjection:
    """Load a projection saved alone, or the projection of a saved [`RTDModel`].

    Args:
        name_or_path (`str`): Directory or Hub id.
        kwargs: Passed to `from_pretrained`, such as `revision`, `subfolder` or `dtype`.

    Returns:
        [`RTDProjection`]: Of the type its configuration names, in evaluation mode.

    Raises:
        ValueError: If the repository names an unknown projection or lacks some of its tensors.
    """
    check_path(name_or_path)
    with name_damage(name_or_path):
        values, _ = RTDProjectionConfig.get_config_dict(name_or_path, **pick_where(kwargs))
        refuse_outside(name_or_path, values, kwargs.get("subfolder"))
        config = RTDProjectionConfig.from_dict(values.get(RTDProjectionConfig.base_config_key, values))
        projection_class = _find_projection_class(config.projection_type)
        projection, report = projection_class.from_pretrained(
            name_or_path, config=config, output_loading_info=True, **kwargs
        )
    refuse_missing(report, name_or_path, f"a '{config.projection_type}' projection")
    return projection
