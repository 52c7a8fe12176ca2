"""Settings: from `EVENTSTORE_*` in the environment, then `eventstore.toml` in the working directory, then these defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from eventstore.errors import InputError

DEFAULT_URL = "sqlite:///eventstore.db"
"""A SQLite file in the working directory: no set-up."""
DEFAULT_SITE = "local"
"""The site of events that name none, received with a token that is bound to none."""
CONFIG_FILE = "eventstore.toml"


class AppSettings(BaseModel):
    """A Wix app to register when `serve` starts: as `eventstore app add`, and `app rotate` where its key is another."""

    model_config = ConfigDict(extra="forbid")

    name: str
    key: str | None = Field(None, description="The public key's text: PEM, base64 of PEM, or PEM with \\n.")
    key_file: Path | None = Field(None, description="A file that holds it.")
    instances: tuple[str, ...] = ()
    test_instances: tuple[str, ...] = ()
    accept_new_instances: bool | None = None

    @model_validator(mode="after")
    def _one_key(self) -> Self:
        if (self.key is None) == (self.key_file is None):
            raise ValueError(f"the app {self.name} needs either key or key_file")
        return self

    def public_key(self) -> str:
        """The key's text. Raises InputError if the file cannot be read."""
        if self.key is not None:
            return self.key
        assert self.key_file is not None
        try:
            return self.key_file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"the key file {self.key_file} of the app {self.name} cannot be read: {error}") from error


class Settings(BaseSettings):
    """Everything that can be configured. Every field has an environment variable: `EVENTSTORE_` and its name in capitals."""

    model_config = SettingsConfigDict(env_prefix="EVENTSTORE_", toml_file=CONFIG_FILE, extra="forbid")

    url: str = Field(DEFAULT_URL, description="The store: sqlite:///FILE or postgresql://HOST/NAME.")
    site: str = Field(DEFAULT_SITE, description="The site of events that name none.")
    host: str = Field("127.0.0.1", description="The address that `serve` listens on.")
    port: int = Field(8787, ge=0, le=65535, description="The port that `serve` listens on; 0 takes a free one.")
    workers: int = Field(
        1, ge=1, le=64, description="Processes that `serve` answers with; each has its own queue and limits."
    )
    max_body_bytes: int = Field(1_048_576, ge=1_024, description="The largest delivery, in bytes; larger ones get 413.")
    max_batch_bytes: int = Field(
        268_435_456,
        ge=1_024,
        description="The largest NDJSON batch, in bytes; its lines are bounded by max_body_bytes.",
    )
    auth_failures_per_minute: int = Field(
        60, ge=1, description="Failed authentications from one address in a minute; past that, 429."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="What `serve` logs on standard error; debug also tells of single deliveries."
    )
    log_format: Literal["auto", "json", "text"] = Field(
        "auto", description="JSON lines or text; auto: text on a terminal, else JSON."
    )
    apps: tuple[AppSettings, ...] = Field((), description="Wix apps to register when `serve` starts.")
    projections: tuple[Path, ...] = Field(
        (), description="Folders with projections of your own, beside those that every store has."
    )
    lake: str | None = Field(
        None,
        description="The folder or object store (s3://…) of the lake that questions are asked of; none: beside the SQLite file, "
        "or in the user's cache folder.",
    )
    project: bool = Field(
        True, description="Whether `serve` follows the log with the projections; if not, `eventstore project` has to."
    )
    handlers: Path | None = Field(None, description="An events.py whose handlers `serve` runs.")
    handlers_name: str = Field("handlers", description="The name that the places of those handlers are kept under.")
    handlers_from: str = Field(
        "now", description="Where one of them begins that never ran: now, beginning, a position, or a time."
    )
    forward_secret: SecretStr | None = Field(
        None, description="What `forward` signs with, as whsec_…; several, separated by blanks, while one is replaced."
    )
    report_seconds: float = Field(
        30.0, gt=0, description="How long `serve` computes a report; what takes longer is ended, and gets 400."
    )
    report_memory: str = Field(
        "2GB",
        pattern=r"^[0-9]+(\.[0-9]+)? ?[KMGT]i?B$",
        description="The memory that `serve` computes a report in, two at a time; what needs more gets 400.",
    )
    report_rows: int = Field(
        100_000, ge=1, description="Rows of a report that `serve` sends at most; what has more gets 400."
    )
    max_streams: int = Field(
        500, ge=1, description="Clients that may listen to /v1/events/stream at once; past that, 503."
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
            f"the setting {name} is wrong: {first['msg']} (see EVENTSTORE_{str(first['loc'][0]).upper()} and {CONFIG_FILE})"
        ) from error
    except SettingsError as error:  # of the environment: what should be JSON is not
        raise InputError(f"a setting is wrong: {error} (see EVENTSTORE_APPS and EVENTSTORE_PROJECTIONS)") from None
    except ValueError as error:
        raise InputError(f"{CONFIG_FILE} cannot be read: {error}") from error
