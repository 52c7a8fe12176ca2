"""Settings: from `EVENTSTORE_*` in the environment, then `eventstore.toml` in the working directory, then these defaults."""

from __future__ import annotations

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from eventstore.errors import InputError

DEFAULT_URL = "sqlite:///eventstore.db"
"""A SQLite file in the working directory: no set-up."""
DEFAULT_SITE = "local"
"""The site of events that name none, received with a token that is bound to none."""
CONFIG_FILE = "eventstore.toml"


class Settings(BaseSettings):
    """Everything that can be configured. Every field has an environment variable: `EVENTSTORE_` and its name in capitals."""

    model_config = SettingsConfigDict(env_prefix="EVENTSTORE_", toml_file=CONFIG_FILE, extra="forbid")

    url: str = Field(DEFAULT_URL, description="The store: sqlite:///FILE or postgresql://HOST/NAME.")
    site: str = Field(DEFAULT_SITE, description="The site of events that name none.")
    host: str = Field("127.0.0.1", description="The address that `serve` listens on.")
    port: int = Field(8787, ge=0, le=65535, description="The port that `serve` listens on; 0 takes a free one.")
    max_body_bytes: int = Field(1_048_576, ge=1_024, description="The largest delivery, in bytes; larger ones get 413.")
    max_batch_bytes: int = Field(
        268_435_456,
        ge=1_024,
        description="The largest NDJSON batch, in bytes; its lines are bounded by max_body_bytes.",
    )
    queue_events: int = Field(20_000, ge=1, description="Events that may wait for the writer; past that, 503.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is pydantic's
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def load_settings(**given: object) -> Settings:
    """The settings, with `given` (those not None) over all else. Raises InputError naming the setting that is wrong."""
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise InputError(
            f"the setting {name} is wrong: {first['msg']} (see EVENTSTORE_{name.upper()} and {CONFIG_FILE})"
        ) from error
    except ValueError as error:
        raise InputError(f"{CONFIG_FILE} cannot be read: {error}") from error
