"""The checklist of pipeline/README.md for a suite, followed in a copy of the project, from the folder to the plan."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
from checklists import WHOLE_SUITE, blocks, counted, files, put, resolved, steps, told, touched, words, written
from conftest import use_dvc

from pipeline import plan, rows
from pipeline.config import params, resolve, targets
from pipeline.config import smoke as smallest
from pipeline.runtime.errors import UserError


def made(*names, cwd):
    """`make names` in a copy, whose environment is this one."""
    (cwd / ".venv").mkdir(exist_ok=True)
    (cwd / ".venv/ready").touch()
    path = f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE") and key != "MFLAGS"}
    return subprocess.run(["make", *names], cwd=cwd, capture_output=True, text=True, env=environment | {"PATH": path})


def test_a_suite(checkout, capsys):
    """In a copy with every suite, from the folder to the plan."""
    before, suites = files(checkout), list(params.files())
    others = {suite: resolved(suite) for suite in suites}
    first, second, third, _, fifth, sixth = steps("suite")
    subprocess.run(["sh", "-ec", *blocks(first)], check=True)
    name = told(blocks(first)[0], r"mkdir pipeline/suites/(\w+)")
    file = checkout / f"pipeline/suites/{name}/params.yaml"
    begun = text = file.read_text()
    for line in (blocks(second)[0] + blocks(third)[0]).splitlines():
        text = put(text, rf"^{line.partition(':')[0]}:.*", line)
    file.write_text(text)
    counted("suite", "", begun, text)
    whole = sum(bool(line.strip()) for line in text.splitlines())
    assert whole <= WHOLE_SUITE, f"a suite's params.yaml now has {whole} lines; at most {WHOLE_SUITE}"

    # -- what it lacks is said
    with pytest.raises(UserError, match=f"`paper` is .pipeline/suites/{name}/paper.yaml., which is no file"):
        params.load(name)
    shutil.copy(told(fifth, r"`([^`]+/paper.yaml)` is a short one"), file.parent)
    params.load(name)
    with pytest.raises(UserError, match=f"{name}/dvc.yaml is not there.*`make suites`"):
        params.check_copies()

    # -- checked, listed, and its table is a make target
    target = told(sixth, r"`make tables`, which lists `([^`]+)`")
    done = made("suites", "params", "tables", cwd=checkout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(rf"^{name} +laptop: streets, seeds \[0\]; .* baseline", done.stdout, re.M)
    assert re.search(rf"^  {target} +{name}$", done.stdout, re.M)
    assert targets.targets(target) == [f"pipeline/suites/{name}/dvc.yaml:table-main@{name}"]

    # -- its folder and no more: two files, and the paper's numbers
    assert touched(before, files(checkout)) == {
        f"pipeline/suites/{name}/{own}" for own in ("params.yaml", "dvc.yaml", "paper.yaml")}
    # -- it writes its rows, and those of the others stay
    rows.main(name)
    own = written(checkout / f"out/{name}/rows")
    assert own.keys() == {path.replace("table3", name) for path in others["streets"]}
    assert all(f"suite: {name}\n" in text for text in own.values()) and "heading: Yards" in own[f"table/{name}.yaml"]
    assert set(params.files()) == {*suites, name} and {suite: resolved(suite) for suite in suites} == others

    # -- DVC knows its stages
    use_dvc(checkout)
    capsys.readouterr()
    plan.main(name)
    planned = capsys.readouterr().out
    stages, of = map(int, re.match(r"(\d+) of (\d+) stages would run", planned).groups())
    assert stages == of > len(own) - 1 and f"{name}: table-main" in planned and "streets:" not in planned

    # -- without printed numbers
    real = put(file.read_text(), "^data: streets", "data: cityscapes")
    file.write_text(real)
    assert resolve.everything(name)[f"table/{name}.yaml"]["paper"]["models"]
    (file.parent / "paper.yaml").unlink()
    switch, = re.findall(r"put `(.*?)` beside the `heading`", words(fifth))
    real = put(real, "^paper: .*", "paper: pipeline/suites/streets/paper.yaml")
    file.write_text(put(real, r"heading: Yards,", rf"heading: Yards, {switch},"))
    assert resolve.everything(name)[f"table/{name}.yaml"]["paper"] is None
    assert {own.name for own in file.parent.iterdir()} == {"params.yaml", "dvc.yaml"}

    # -- `make smoke` takes it
    smallest.main()
    assert (params.load(name).protocol, params.load(name).data) == ("smoke", "streets")
