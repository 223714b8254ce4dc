"""What is never shown."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest
from pydantic import ValidationError

from cdc.config import secrets
from cdc.config.fields import FromFile, Model, Secret, Url
from cdc.config.secrets import Referenced, inline_password, redact, redact_line, remember


@pytest.fixture(autouse=True)
def _nothing_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "_known", set())


class Options(Model):
    """A model with secrets."""

    password: Secret | None = None
    url: Url = ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgresql://me:s3cr@t@host/db", "postgresql://me:***@host/db"),
        (
            "at https://me:s3cret@host:9200/x, twice https://a:b@c",
            "at https://me:***@host:9200/x, twice https://a:***@c",
        ),
        ("redis://:s3cret@host", "redis://:***@host"),
        ("http://host:80/x@y", "http://host:***@y"),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        ("host=h password=s3cret user=me", "host=h password=*** user=me"),
        ("host=h password='s3 cret' user=me", "host=h password=*** user=me"),
        ("postgresql://h/d?sslpassword=s3cret&x=1", "postgresql://h/d?sslpassword=***&x=1"),
    ],
)
def test_passwords_are_known_by_their_place(text: str, expected: str) -> None:
    assert redact(text) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("  password: hunter2", "  password: ***"),
        ('{user: me, password: "hunter 2", port: 1}', "{user: me, password: ***, port: 1}"),
        ("  api_key: 'hunter2", "  api_key: ***"),
        ("sasl.password: hunter2", "sasl.password: ***"),
        ("  password: ${PASSWORD}", "  password: ${PASSWORD}"),
        ('  password: "${file:/run/secrets/x}"', '  password: "${file:/run/secrets/x}"'),
        ("  password: ${PASSWORD:-hunter2}", "  password: ***"),
        ("  url: postgresql://me@host/db", "  url: postgresql://me@host/db"),
    ],
)
def test_settings_are_known_by_their_key(line: str, expected: str) -> None:
    assert redact_line(line) == expected


def test_what_is_remembered_is_found_in_every_form() -> None:
    secret = 'a/b "c"\\d\nsecond line'
    remember(secret)
    for form in (quote(secret, safe=""), json.dumps(secret), repr(secret), "second line", 'a/b "c"\\d'):
        assert "b" not in redact(f"<{form}>").replace("%", "").replace("***", "")


def test_a_secret_inside_another_hides_neither() -> None:
    remember("inner")
    remember("outer-inner-outer")
    assert redact("outer-inner-outer inner") == "*** ***"


@pytest.mark.parametrize(
    ("url", "password"),
    [
        ("postgresql://u:p%40w@h/d", "p%40w"),
        ("postgresql://u@h/d", None),
        ("postgresql://u:@h/d", None),
        ("postgresql://h/d?password=pw", "pw"),
        ("https://[bad:pw@h", "pw"),
        ("not a url", None),
    ],
)
def test_inline_password(url: str, password: str | None) -> None:
    assert inline_password(url) == password


def test_a_literal_secret_is_refused_from_a_file_only() -> None:
    assert Options(password="from code").password is not None  # type: ignore[arg-type]  # as users write it
    with pytest.raises(ValidationError) as caught:
        Options.model_validate({"password": "hunter2"}, context=FromFile())
    assert "hunter2" not in str(caught.value)
    assert redact("hunter2") == "***"
    Options.model_validate({"password": Referenced("hunter2")}, context=FromFile())


def test_models_show_no_secret() -> None:
    options = Options.model_validate({"password": "hunter2", "url": "https://me:hunter3@h"})
    assert "hunter" not in repr(options) + str(options)
    assert options.url == "https://me:hunter3@h"
    assert redact("hunter3") == "***"
