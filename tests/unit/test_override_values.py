"""Values of overrides: text stays as typed, lists and mappings are read, what is incomplete is refused."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pwm.configuration.config import ExperimentConfig, compose_config, flatten
from pwm.configuration.general import General
from pwm.configuration.override_values import as_typed, looks_like_sweep, parse_value, quote, split_words
from pwm.configuration.overrides import last_of_each, parse_overrides
from pwm.errors import ConfigError

PLAIN = compose_config([])
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
# What YAML or Hydra take for something else than text.
LOOKS_LIKE = [
    "2024_05_01",
    "2024-05-01",
    "12:30",
    "1e5",
    "007",
    "0x1f",
    "1_000",
    ".5",
    "null",
    "None",
    "~x",
    "true",
    "on",
    "off",
    "yes",
    "n",
    "inf",
    ".nan",
    "[a]",
    "{a: 1}",
    "[a",
    "a]",
    "a, b",
    "${x}",
    "${",
    "a=b",
    "#1",
    "a # b",
    "!x",
    "&x",
    "*x",
    "%x",
    "@x",
    "`x`",
    "it's",
    'a"b',
    "a\\b",
    "a\\",
    "C:\\dir\\",
    "a: b",
    "ü",
    " a ",
    "-",
    "=",
    "a\tb",
]


def test_text_is_taken_as_it_is_typed() -> None:
    for text in LOOKS_LIKE:
        assert parse_value(text, str) == text
        assert parse_value(text, str | None) == text


@pytest.mark.parametrize("text", LOOKS_LIKE)
def test_text_arrives_in_the_configuration_and_survives_its_file(text: str, tmp_path: Path) -> None:
    keys = ["general.logdir", "general.checkpoint", "general.device", "wandb.group", "env.id"]
    config = compose_config(["env=gym", *(f"{key}={text}" for key in keys), f"env.kwargs.text={quote(text)}"])
    assert [flatten(config.to_dict())[key] for key in [*keys, "env.kwargs.text"]] == [text] * 6
    (tmp_path / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
    assert ExperimentConfig.load(tmp_path / "config.yaml").to_dict() == config.to_dict()


@settings(max_examples=50, deadline=None)
@given(text=TEXT)
def test_any_text_survives_the_file(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "config.yaml"
    config = dataclasses.replace(PLAIN, general=General(logdir=text, checkpoint=text))
    path.write_text(config.to_yaml(), encoding="utf-8")
    assert ExperimentConfig.load(path).to_dict() == config.to_dict()


@pytest.mark.parametrize(
    "name", ["2024_05_01", "1e5", "007", "null", "true", "on", "1_000", "2024-05-01", "No", "ü"]
)
def test_a_run_can_have_any_such_name(name: str) -> None:
    config = compose_config([f"general.name={name}"])
    assert config.run_name == name


@settings(max_examples=300, deadline=None)
@given(text=TEXT)
def test_quoted_text_is_that_text_again(text: str) -> None:
    assert as_typed(quote(text)) == text
    assert parse_value(quote(text), Any) == text
    assert parse_value(f"[{quote(text)}, b, {quote(text)}]", list[str]) == [text, "b", text]
    assert parse_value(f"{{a: {quote(text)}, b: [{quote(text)}]}}", Any) == {"a": text, "b": [text]}
    assert split_words(f"a {quote(text)} b") == ["a", text, "b"]


@settings(max_examples=300, deadline=None)
@given(text=TEXT)
def test_any_text_is_read_or_refused_with_one_message(text: str) -> None:
    for hint in (Any, list[str], list[int], dict[str, Any], int | None):
        with contextlib.suppress(ConfigError):
            parse_value(text, hint)


def test_empty_text_leaves_an_optional_option_unset() -> None:
    assert parse_value("", str | None) is None
    config = compose_config(["general.name=", "general.checkpoint=", "general.epochs=", "general.patience="])
    assert config.to_dict() == compose_config([]).to_dict()


def test_quotes_around_a_whole_value_are_removed() -> None:
    assert as_typed("'a b'") == as_typed('"a b"') == "a b"
    assert as_typed("'it\\'s'") == "it's"
    assert as_typed("'a' and 'b'") == "'a' and 'b'"
    assert as_typed("'a") == "'a"


def test_a_home_folder_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    assert compose_config(["general.logdir=~/my runs"]).general.logdir == "/somewhere/my runs"
    config = compose_config(["env=gym", "env.kwargs.file=~/a.xml", "env.kwargs.other='~/a.xml'"])
    assert config.env.kwargs == {"file": "/somewhere/a.xml", "other": "~/a.xml"}
    assert compose_config(["general.logdir=a~"]).general.logdir == "a~"
    assert os.path.expanduser("~") == "/somewhere"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("-3", -3),
        ("+3", 3),
        ("0", 0),
        ("1.5", 1.5),
        ("1.", 1.0),
        (".5", 0.5),
        ("1e-3", 1e-3),
        ("true", True),
        ("False", False),
        ("null", None),
        ("on", "on"),
        ("007", "007"),
        ("1_000", "1_000"),
        ("2024_05_01", "2024_05_01"),
        ("12:30", "12:30"),
        ("a b", "a b"),
        ("'3'", "3"),
        ("[]", []),
        ("{}", {}),
        ("[1, [2, x], {a: 'b, c'}]", [1, [2, "x"], {"a": "b, c"}]),
        ("{a: C:\\x, 'b c': }", {"a": "C:\\x", "b c": ""}),
        ("[a]/[b]", "[a]/[b]"),
        ("[a", "[a"),
        ("it's", "it's"),
        ("#1", "#1"),
    ],
)
def test_values_without_a_type(text: str, value: object) -> None:
    found = parse_value(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "hint", "named"),
    [
        ("1,2", list[int], "write [1,2]"),
        ("[1,2", list[int], "write [1,2]"),
        ("1", list[int], "write [1]"),
        ("(1, 2)", list[int], "write [1, 2]"),
        ("[1,,2]", list[int], "an entry"),
        ("['a]", list[str], "not closed"),
        ("[a]/[b]", list[str], "closes nothing"),
        ("a: 1", dict[str, Any], "write {a: 1}"),
        ("{a}", dict[str, Any], "write {a: value}"),
        ("{a=1}", dict[str, Any], "write {a: 1}"),
        ("a=1", dict[str, Any], "write {a: 1}"),
        ("[1]", dict[str, Any], "write {key: value}"),
        ("{: 1}", dict[str, Any], "no key"),
        ("{'': 1}", dict[str, Any], "no key"),
        ("{a: 1, a: 2}", dict[str, Any], "twice"),
    ],
)
def test_what_is_incomplete_is_refused_with_the_right_form(text: str, hint: Any, named: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_value(text, hint)
    assert named in str(refused.value)


def test_numbers_of_typed_options_may_be_grouped() -> None:
    config = compose_config(["alg.buffer_size=1_000_000", "alg.model_lr='3e-4'", "general.seed=007"])
    assert (config.alg.buffer_size, config.alg.model_learning.model_lr, config.general.seed) == (
        1_000_000,
        3e-4,
        7,
    )


def test_several_values_are_told_from_text_with_commas() -> None:
    assert looks_like_sweep("1,2,3", int)
    assert looks_like_sweep("range(1, 4)", int | None)
    assert looks_like_sweep("true,false", bool)
    assert not looks_like_sweep("a,b", str)
    assert not looks_like_sweep("[1,2]", list[int])


@pytest.mark.parametrize(
    "given",
    [
        ["general.seed=1", "general.seed=2"],
        ["seed=1", "general.seed=2"],
        ["env=dflex_ant", "general=dflex_hopper"],
        ["alg.use_flow_dynamics=true", "dynamics=mlp"],
        ["alg.flow_substeps=2", "alg.dynamics.substeps=4"],
        ["env=gym", "env.kwargs.g=9", "env.kwargs={g: 10}"],
        ["env=gym", "env.kwargs={a: {b: 1}}", "env.kwargs.a.b=2"],
        ["+general.seed=1", "++general.seed=2"],
        ["env=gym", "env.kwargs.a=1", "env.kwargs.a.b=2"],
        ["env=gym", "env.kwargs.a.b=2", "env.kwargs.a=1"],
        ["env=gym", "env.kwargs={a: [1]}", "env.kwargs.a.b.c=2"],
        ["env=gym", "env.kwargs={a: 1}", "env.kwargs.a=true"],
        ["dynamics=flow", "alg.dynamics.name=mlp"],
        ["alg.dynamics.name=flow", "dynamics=mlp"],
        ["env=gym", "env.name=dflex"],
        ["general=dflex_ant", "env.name=gym"],
    ],
)
def test_two_values_of_one_key_are_refused(given: list[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        compose_config(given)
    assert f"{given[-2]} and {given[-1]} contradict each other" in str(refused.value)


def test_the_same_value_twice_is_one() -> None:
    given = ["seed=3", "general.seed=3", "env=gym", "env=gym", "env.kwargs={a: 1, b: 2}", "env.kwargs.a=1"]
    config = compose_config(given)
    assert (config.general.seed, config.env.kwargs) == (3, {"a": 1, "b": 2})
    assert [str(o) for o in parse_overrides(["seed=3", "general.seed='3'"])] == ["general.seed=3"]


def test_a_component_is_chosen_by_its_name_as_by_its_preset() -> None:
    for chosen in (["dynamics=flow"], ["alg.dynamics=flow"], ["alg.dynamics.name=flow"]):
        config = compose_config([*chosen, "alg.dynamics.substeps=3"])
        assert config.to_dict() == compose_config(["dynamics=flow", "alg.flow_substeps=3"]).to_dict()
    assert compose_config(["env.name=gym"]).to_dict() == compose_config(["env=gym"]).to_dict()
    assert compose_config(["env=dflex_ant", "env.name=dflex"]).env.task == "ant"
    mlp = compose_config(["alg=pwm_small_h16_flow", "alg.dynamics.name=mlp"])
    assert mlp.chosen["dynamics"].name == "mlp"


def test_nested_groups_may_be_given_in_parts() -> None:
    config = compose_config(["env=gym", "env.kwargs.a.b=1", "env.kwargs.a={}", "env.kwargs={a: {c: 2}}"])
    assert config.env.kwargs == {"a": {"b": 1, "c": 2}}


def test_later_overrides_replace_earlier_ones_where_they_are_meant_to() -> None:
    assert last_of_each(["seed=1", "alg.gamma=0.9", "general.seed=2"]) == ["alg.gamma=0.9", "general.seed=2"]
