"""What samples are, where the shards do not say it: the settings that `index` and `load` share."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, TypedDict

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from ..loaders.formats.fields import DTYPES, Fields, Shape
from .workload import parse_list


class SampleOptions(TypedDict):
    """Arguments of `ShardSet.open` and `open_index`."""

    fields: Fields | None
    shape: Shape | None
    dtype: str | None


def _known(dtype: str) -> str:
    if dtype not in DTYPES:
        raise ValueError(f"not one of {', '.join(DTYPES)}")
    return dtype


def _sizes(value: object) -> object:
    """`300,300,3` -> three positive numbers."""
    parts = parse_list(value)
    if value is None or not isinstance(parts, list | tuple):
        return value
    if len(parts) != 3 or not all(str(part).isdecimal() and int(part) > 0 for part in parts):
        raise ValueError("give height, width and channels, three positive numbers, as 300,300,3")
    return tuple(map(int, parts))


class SampleFormat(BaseModel):
    """Shape (height, width, channels) and dtype of the images, and what their features and labels are called.

    An empty `label_field`: there are no labels.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    shape: Annotated[Shape | None, BeforeValidator(_sizes)] = None
    dtype: Annotated[str, AfterValidator(_known)] | None = None
    image_field: Annotated[str, Field(min_length=1)] | None = None
    label_field: str | None = None

    def sample_options(self) -> SampleOptions:
        """As the loaders take them; where nothing is said they find out themselves."""
        fields: Fields | None = None
        if self.image_field is not None or self.label_field is not None:
            usual = Fields()
            label = usual.label if self.label_field is None else self.label_field or None
            fields = replace(usual, image=self.image_field or usual.image, label=label)
        return SampleOptions(fields=fields, shape=self.shape, dtype=self.dtype)
