"""Configs: precedence, and one message that names place, key, what is expected and the nearest known key."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, model_validator

from iobench.configs import ConfigError, load, presets
from iobench.qualify import QualifyConfig
from iobench.storage_bench.workload import StorageConfig


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")

    blocks: Annotated[int, Field(ge=2)] = 8
    seconds: float = 1.0


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = "default"
    storage: Inner = Inner()
    copy_: Inner = Field(default=Inner(), alias="copy")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text('name = "file"\n[storage]\nblocks = 20\nseconds = 2.0\n')
    return path


def explanation(**layers) -> str:
    with pytest.raises(ConfigError) as caught:
        load(layers.pop("model", Outer), **layers)
    assert caught.value.exit_status == 2
    return str(caught.value)


def test_a_flag_wins_over_set_over_file_over_the_default(file):
    assert load(Outer).storage.blocks == 8
    assert load(Outer, file=file).storage.blocks == 20
    assert load(Outer, file=file, sets=["storage.blocks=30"]).storage.blocks == 30
    flags = {"storage.blocks": 40}
    assert load(Outer, file=file, sets=["storage.blocks=30"], flags=flags).storage.blocks == 40


def test_a_file_wins_over_a_preset_and_keeps_the_preset_for_the_rest(tmp_path):
    (tmp_path / "mine.toml").write_text("[storage]\nblocks = 20\n")
    quick = load(QualifyConfig, preset="quick")
    mixed = load(QualifyConfig, preset="quick", file=tmp_path / "mine.toml")
    assert mixed.storage.blocks == 20
    assert mixed.storage.seconds == quick.storage.seconds
    assert mixed.model_copy(update={"storage": quick.storage}) == quick


def test_a_layer_changes_only_the_keys_it_names(file):
    settings = load(Outer, file=file, sets=["storage.seconds=3"])
    assert (settings.name, settings.storage.blocks, settings.storage.seconds) == ("file", 20, 3.0)


def test_the_last_of_two_sets_wins_and_a_flag_that_is_none_was_not_given(file):
    settings = load(Outer, file=file, sets=["name=one", "name=two"], flags={"storage.blocks": None})
    assert (settings.name, settings.storage.blocks) == ("two", 20)


@pytest.mark.parametrize(("text", "value"), [("7", "7"), ("word", "word"), ('"quoted"', "quoted"), ("a=b", "a=b")])
def test_a_value_that_is_no_toml_is_a_string(text, value):
    class Text(BaseModel):
        model_config = ConfigDict(coerce_numbers_to_str=True)
        name: str

    assert load(Text, sets=[f"name={text}"]).name == value


def test_every_preset_is_a_valid_qualification():
    assert "quick" in presets()
    for name in presets():
        assert load(QualifyConfig, preset=name).measure_seconds > 0


def test_an_unknown_key_names_place_key_and_the_nearest_known_one(file):
    file.write_text("[storage]\nblock = 3\n")
    assert explanation(file=file) == (
        f"{file}: key 'storage.block' is not known; the nearest known key is 'storage.blocks'"
    )
    assert explanation(sets=["nane=x"]) == "--set nane=x: key 'nane' is not known; the nearest known key is 'name'"


def test_the_nearest_key_is_spelled_as_a_config_spells_it():
    assert "'copy.blocks'" in explanation(sets=["copy.block=3"])


def test_a_key_like_no_other_names_all_known_ones():
    said = explanation(sets=["zzz=1"])
    assert "name, storage.blocks, storage.seconds, copy.blocks, copy.seconds" in said


@pytest.mark.parametrize(
    ("layers", "place", "value"),
    [
        ({"sets": ["storage.blocks=many"]}, "--set storage.blocks=many: key 'storage.blocks'", "'many'"),
        ({"sets": ["storage.blocks=1"]}, "--set storage.blocks=1: key 'storage.blocks'", "greater than or equal to 2"),
        ({"flags": {"storage.blocks": 1}}, "--blocks: key 'storage.blocks'", "greater than or equal to 2"),
        ({"sets": ["storage=3"]}, "--set storage=3: key 'storage'", "a table of keys"),
        ({"sets": ["name.x=3"]}, "--set name.x=3: key 'name'", "string"),
    ],
)
def test_a_wrong_value_names_place_key_value_and_what_is_expected(layers, place, value):
    said = explanation(**layers)
    assert said.startswith(place)
    assert value in said


def test_what_is_not_given_is_told_with_the_option_that_gives_it_and_what_it_may_be():
    class Wanted(BaseModel):
        format: Literal["tfrecord", "tensors"]
        images_per_shard: int

    assert explanation(model=Wanted, flags={"format": None}) == (
        "key 'format' is not given; give --format: tfrecord, tensors"
    )
    assert explanation(model=Wanted, flags={"format": "tensors"}) == (
        "key 'images_per_shard' is not given; give --set images_per_shard=..."
    )


def test_settings_that_do_not_go_together_are_told_where_they_come_from_and_what_is_wrong_with_them():
    class Pair(BaseModel):
        low: int = 0
        high: int = 9

        @model_validator(mode="after")
        def _in_order(self):
            if self.low > self.high:
                raise ValueError(f"low is {self.low}, above high, which is {self.high}")
            return self

    words = "--set low=5, --high: settings that do not go together: low is 5, above high, which is 3"
    assert explanation(model=Pair, sets=["low=5"], flags={"high": 3}) == words


def test_the_place_named_is_the_one_whose_value_counts(file):
    assert explanation(file=file, sets=["storage.blocks=1"]).startswith("--set")
    file.write_text("[storage]\nblocks = 1\n")
    assert explanation(file=file, sets=["storage.seconds=3"]).startswith(str(file))


@pytest.mark.parametrize("text", ["name", "=3", " =3"])
def test_a_setting_without_key_or_equals_sign_shows_how_to_write_one(text):
    assert "write key=value" in explanation(sets=[text])


def test_an_unknown_preset_names_the_nearest_and_all():
    text = explanation(preset="quik")
    assert text.startswith("preset 'quik' is not known; did you mean 'quick'? presets are: ")
    assert {"quick", "standard", "sustained"} <= set(text.partition("presets are: ")[2].split(", "))
    assert explanation(preset="../x").startswith("preset '../x' is not known; presets are: ")


def test_a_file_that_is_missing_or_no_toml_is_named(tmp_path):
    assert explanation(file=tmp_path / "nosuch.toml").startswith(f"{tmp_path}/nosuch.toml: cannot be read")
    assert "name a TOML file" in explanation(file=tmp_path)
    (tmp_path / "bad.toml").write_text("a = [1\n")
    assert f"{tmp_path}/bad.toml: not TOML" in explanation(file=tmp_path / "bad.toml")
    (tmp_path / "bad.toml").write_bytes(b"\xff\xfe")
    assert f"{tmp_path}/bad.toml: not TOML" in explanation(file=tmp_path / "bad.toml")


@pytest.mark.parametrize("text", ["threads=4", "threads=[4]", "threads='4'"])
def test_one_value_is_a_list_of_one(text):
    assert load(StorageConfig, sets=[text]).threads == (4,)


def test_a_list_may_be_written_with_commas():
    settings = load(StorageConfig, sets=["threads=1,2"], flags={"block_size": "4K, 1M", "engine": "direct,buffered"})
    assert settings.threads == (1, 2)
    assert settings.block_size == (4096, 1 << 20)
    assert settings.engine == ("direct", "buffered")


@pytest.mark.parametrize("flags", [{"threads": ""}, {"block_size": ","}, {"engine": " "}])
def test_an_empty_list_is_refused(flags):
    assert "at least 1 item" in explanation(model=StorageConfig, flags=flags)


@pytest.mark.parametrize("size", ["3K", "5000", "128M", "-4K", "inf", "1e999", "nan", "K", "4Q", "0"])
def test_a_block_size_that_cannot_be_read_is_refused(size):
    assert "block_size" in explanation(model=StorageConfig, flags={"block_size": size})


@pytest.mark.parametrize(
    ("text", "expected"),
    [("150T", 150 << 40), ("1.5G", 3 << 29), ("4GiB", 4 << 30), ("4gb", 4 << 30), ("4096", 4096)],
)
def test_sizes_are_binary_and_go_up_to_terabytes(text, expected):
    assert load(QualifyConfig, flags={"copy.dataset_bytes": text}).copy_.dataset_bytes == expected


@pytest.mark.parametrize("text", ["-5G", "0"])
def test_a_data_set_without_bytes_is_refused(text):
    assert "dataset_bytes" in explanation(model=QualifyConfig, flags={"copy.dataset_bytes": text})


def test_seconds_per_step_may_be_a_number_in_a_file():
    assert load(QualifyConfig, sets=["accelerator=0.25"]).accelerator == "0.25"
