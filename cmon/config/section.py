"""What every table of the config is made of."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from cmon.mistakes import NAME_PATTERN

Name = Annotated[str, Field(pattern=NAME_PATTERN, max_length=100)]


class Section(BaseModel):
    """A table of the config: frozen, and closed to keys that it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    def recipe(self, *exclude: str) -> dict[str, Any]:
        """Dump the fields, all or all but some, as JSON values."""
        return self.model_dump(mode="json", exclude=set(exclude))
