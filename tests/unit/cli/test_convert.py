"""``tidegate convert``: exit codes, and where what is written."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tidegate.cli.main import main


def _run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as raised:
        main(["convert", *(str(argument) for argument in arguments)])
    out, err = capsys.readouterr()
    assert isinstance(raised.value.code, int)
    return raised.value.code, out, err


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    file = tmp_path / "mosquitto.conf"
    file.write_text("allow_anonymous true\nlistener 1883 127.0.0.1\n")
    return file


def test_everything_carried_over(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = _run(capsys, conf)
    assert (code, err) == (0, "")
    assert yaml.safe_load(out)["listeners"][0]["port"] == 1883


def test_a_remark_is_in_the_file_and_on_standard_error(
    conf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    conf.write_text(conf.read_text() + "http_dir /srv\npersistence true\nset_tcp_nodelay false\n")
    code, out, err = _run(capsys, conf)
    assert code == 3
    assert f"remark: {conf}:3: http_dir: not carried over: no files are served" in err
    assert f"note: {conf}:5: set_tcp_nodelay: not needed" in err
    assert f"# - {conf}:3: http_dir: not carried over" in out
    assert err.endswith("1 remark: see above what to do\n")
    yaml.safe_load(out)


def test_a_directory(conf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = _run(capsys, conf, "--output", tmp_path / "new" / "directory")
    file = tmp_path / "new" / "directory" / "tidegate.yaml"
    assert (code, out, err) == (0, "", f"written: {file}\n")
    assert yaml.safe_load(file.read_text())["auth"]["allow_anonymous"] is True
    code, _, err = _run(capsys, conf, "--output", file.parent)
    assert code == 2
    assert "exists" in err


def test_wrong_usage(conf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, text in (
        ([tmp_path / "none.conf"], "cannot be read: No such file or directory"),
        ([conf, "--name", "Not A Name"], "lower-case letters"),
        ([conf, "--to", "json"], "--to"),
    ):
        code, out, err = _run(capsys, *arguments)
        assert (code, out) == (2, "")
        assert text in err


def test_a_directory_that_cannot_be_made(
    conf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    code, _, err = _run(capsys, conf, "--output", tmp_path / "file" / "below")
    assert code == 1
    assert "cannot be written" in err
