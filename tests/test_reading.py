"""params.yaml as text: what two readers of YAML would take differently, or cannot take, is refused with its line."""

import pathlib

import pytest
from conftest import command, shipped

from pipeline.config import reading
from pipeline.runtime.errors import UserError

BASE = shipped("rooms").encode()
LINE = {text: BASE[:BASE.index(text.encode())].count(b"\n") + 1 for text in ("official_batch: 2", "seeds: [0]",
                                                                                    "title: Uniform")}
END = BASE.count(b"\n") + 1


def edited(old, new):
    assert old.encode() in BASE
    return BASE.replace(old.encode(), new if isinstance(new, bytes) else new.encode(), 1)


REFUSED = {          # what the file holds, where, what is said
    "latin-1-in-a-comment": (BASE + b"# caf\xe9\n", END, "has a byte that is no UTF-8 (0xe9, at byte"),
    "utf-16": (BASE.decode().encode("utf-16"), 1, "save the file as UTF-8"),
    "surrogate-as-bytes": (edited("title: Uniform", b"title: a\xed\xa0\x80b"), LINE["title: Uniform"], "no UTF-8"),
    "surrogate-escaped": (edited("title: Uniform", 'title: "a\\ud800b"'), LINE["title: Uniform"],
                          "invalid Unicode character escape code"),
    "digits": (edited("official_batch: 2", "official_batch: " + "9" * 5000), LINE["official_batch: 2"],
               "a number has 5000 digits; 300 are the most"),
    "octal": (edited("official_batch: 2", "official_batch: 010"), LINE["official_batch: 2"],
              "010 is octal to some readers of YAML, not to others"),
    "lists-in-lists": (edited("seeds: [0]", "seeds: " + "[" * 2000 + "0" + "]" * 2000), LINE["seeds: [0]"],
                       "nest"),                       # newer libyaml refuses 1,000 itself
    "a-hundred-lists": (edited("seeds: [0]", "seeds: " + "[" * 100 + "0" + "]" * 100), LINE["seeds: [0]"],
                        "nests lists and keys 51 deep; 50 is the most"),
    "key-twice": (edited("official_batch: 2", "official_batch: 2\nofficial_batch: 3"), LINE["official_batch: 2"] + 1,
                  "the key 'official_batch' stands twice"),
    "list-as-key": (BASE + b"? [a, b]\n: 1\n", END, "keys are text"),
    "tag": (edited("official_batch: 2", "official_batch: !!python/object:os.system 2"), LINE["official_batch: 2"],
            "has the tag `tag:yaml.org,2002:python/object:os.system`"),
    "binary": (edited("official_batch: 2", "official_batch: !!binary aGk="), LINE["official_batch: 2"], "has the tag"),
    "two-documents": (BASE + b"---\na: 1\n", END, "expected a single document"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused_with_its_line(name, tmp_path):
    payload, line, said = REFUSED[name]
    file = tmp_path / "params.yaml"
    file.write_bytes(payload)
    with pytest.raises(UserError) as refused:
        reading.read(file)
    told = str(refused.value)
    assert said in told and f"line {line}" in told and "\n" not in told and len(told) < 400


@pytest.mark.parametrize("value, said", [("1:30", "'1:30'; input should be a valid integer"),
                                         ("1_0", "'1_0'; input should be a valid integer"),
                                         ("'10'", "is the text '10'; write 10 without quotes")])
def test_what_looks_like_a_number_is_refused_where_one_is_wanted(value, said, folder):
    pathlib.Path("params.yaml").write_bytes(edited("official_batch: 2", f"official_batch: {value}"))
    done = command("pipeline.config", cwd=folder)
    assert done.returncode == 2 and "`official_batch`" in done.stderr and said in done.stderr
    assert "Traceback" not in done.stderr


def test_text_is_utf_8_wherever_it_is_read(tmp_path):
    """Whatever the locale says, and as DVC writes it."""
    (tmp_path / "params.yaml").write_bytes(edited("title: Uniform", "title: Ünïform 😀"))
    read = "import pathlib; from pipeline.config import reading; print(ascii(reading.read(pathlib.Path('params.yaml'))"
    done = command(code=read + "['methods']['uniform']['title']))", cwd=tmp_path, LC_ALL="C", PYTHONUTF8="0")
    assert done.stdout.strip() == ascii("Ünïform 😀"), done.stderr
