"""``tenantguard prices``: files made, shown and compared."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import pytest

from tenantguard.adapters.pricing.file import read_price_list
from tenantguard.cli import main

CSV = """\
provider,model,patterns,currency,from,above,service,multiplier,input,output,cache_read,cache_write
acme,large,large-*,USD,,,,,3,15,0.3,3.75
acme,large,,USD,,200000,,,6,22.5,0.6,7.5
acme,large,,USD,,,batch,0.5,,,,
acme,large,large-*,USD,2999-01-01,,,,2,15,0.3,3.75
other,large,,USD,,,,,4,15,0.3,3.75
other,small,,EUR,,,,,1,1,0,0
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ours.csv").write_text(CSV)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = main(["prices", *argv])
    told = capsys.readouterr()
    return code, " ".join(told.out.split()), told.err


@pytest.mark.parametrize("action", ["", "update", "import", "show", "diff"])
def test_help_teaches_by_examples(action: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["prices", *action.split(), "--help"])
    assert left.value.code == 0
    told = capsys.readouterr().out
    assert "example" in told
    assert "\n  tenantguard prices " in told


def test_the_csv_that_help_shows_can_be_imported(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["prices", "import", "--help"])
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    start = lines.index("provider,model,currency,above,service,multiplier,input,output,cache_read,cache_write")
    (folder / "shown.csv").write_text("\n".join(lines[start : start + 4]))
    assert run(capsys, "import", "shown.csv")[0] == 0
    (row,) = read_price_list("prices.json").rows
    assert (len(row.price.tiers), len(row.price.services)) == (1, 1)


def test_update_writes_the_packages_prices_pinned(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "update", "--provider", "openai", "-o", "first.json")
    prices = read_price_list("first.json")
    assert code == 0
    assert prices.version in out
    assert "left out: openai whisper-1: has no price of input tokens" in err
    assert prices.find("gpt-5-mini", ("openai",)) is not None
    assert run(capsys, "update", "--provider", "openai", "-o", "second.json")[0] == 0
    assert Path("first.json").read_bytes() == Path("second.json").read_bytes()
    assert sorted(path.name for path in folder.iterdir()) == ["first.json", "ours.csv", "second.json"], "and no draft"


def test_update_without_the_package_says_what_to_install(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("genai_prices"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    code, _, err = run(capsys, "update")
    assert code == 2
    assert "tenantguard[prices]" in err


def test_a_wrong_file_ends_with_2_and_leaves_the_old_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "import", "ours.csv")[0] == 0
    before = Path("prices.json").read_bytes()
    (folder / "ours.csv").write_text(CSV.replace("22.5", "x"))
    code, _, err = run(capsys, "import", "ours.csv")
    assert code == 2
    assert "ours.csv: line 2 (large): tiers[0].output: must be a decimal" in err
    assert Path("prices.json").read_bytes() == before


def test_a_file_that_cannot_be_written_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "import", "ours.csv", "--output", "nowhere/prices.json")
    assert code == 2
    assert "nowhere/prices.json: cannot be written: No such file or directory" in err


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("", "'' is no file: write for example --output prices.json"),
        (".", "'.' is no file: write for example --output prices.json"),
        ("ours.csv/prices.json", "cannot be written: Not a directory"),
        ("p" * 300, "cannot be written: File name too long"),
    ],
)
def test_a_name_under_which_no_file_can_be_is_told(
    path: str, problem: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, "import", "ours.csv", "--output", path)
    assert code == 2
    assert problem in err
    assert [found.name for found in folder.iterdir()] == ["ours.csv"]


def test_a_file_that_cannot_even_be_looked_for_cannot_be_read(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, "show", "--file", "p" * 300)
    assert code == 2
    assert "cannot be read: File name too long" in err


def test_show_lists_what_holds(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "import", "ours.csv")
    code, out, _ = run(capsys, "show")
    assert code == 0
    assert "acme large 3 15 0.3 3.75 USD above 200000 tokens, batch" in out
    assert "other small 1 1 0 0 EUR" in out
    assert "acme large 2 15" in run(capsys, "show", "--at", "2999-01-01")[1]
    assert "acme" not in run(capsys, "show", "--provider", "other")[1]


def test_show_tells_all_of_one_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "import", "ours.csv")
    code, out, _ = run(capsys, "show", "large", "--provider", "acme")
    assert code == 0
    for expected in (
        "large, acme, USD for a million tokens",
        "standard 3 15 0.3 3.75 above 200000 tokens 6 22.5 0.6 7.5 batch x 0.5",
        "and what matches: large-*",
        "large, acme, from 2999-01-01, later, USD",
    ):
        assert expected in out
    assert "by the pattern of large" in run(capsys, "show", "large-2026")[1]


def test_show_says_where_sellers_differ(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "import", "ours.csv")
    assert "pricing.providers must say whose price counts: 'acme', 'other'" in run(capsys, "show", "large")[1]
    assert "differ" not in run(capsys, "show", "small")[1]


def test_show_of_a_model_without_a_price_ends_with_1(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "import", "ours.csv")
    code, out, _ = run(capsys, "show", "medium")
    assert code == 1
    assert "medium: has no price here" in out
    assert "; did you mean 'large'?" in run(capsys, "show", "larg")[1]


def test_show_without_a_file_says_what_makes_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "show")
    assert (code, err) == (2, "there is no prices.json: 'tenantguard prices update --output prices.json' makes one\n")


def test_diff_says_what_differs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "import", "ours.csv", "-o", "old.json")
    changed = CSV.replace("6,22.5", "6,23").replace("batch,0.5", "batch,0.4").replace("other,small", "other,tiny")
    (folder / "ours.csv").write_text(changed)
    run(capsys, "import", "ours.csv", "-o", "new.json")
    assert run(capsys, "diff", "old.json", "old.json") == (0, "nothing differs", "")
    code, out, _ = run(capsys, "diff", "old.json", "new.json")
    assert code == 1
    for expected in (
        "~ acme large services.batch.multiplier: 0.5 -> 0.4 tiers[above 200000].output: 22.5 -> 23",
        "- other small",
        "+ other tiny",
        "3 of 5 prices differ",
    ):
        assert expected in out


def test_diff_tells_a_provider_that_is_called_any_from_none(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head = "provider,model,currency,input,output,cache_read,cache_write\n"
    for name, rate in (("old", 1), ("new", 7)):
        (folder / f"{name}.csv").write_text(f"{head},m,USD,{rate},1,0,0\nany,m,USD,2,1,0,0\n")
        run(capsys, "import", f"{name}.csv", "-o", f"{name}.json")
    assert run(capsys, "diff", "old.json", "new.json") == (1, "~ any m input: 1 -> 7 1 of 2 prices differ", "")


def test_diff_of_a_file_that_was_edited_by_hand_ends_with_2(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "import", "ours.csv")
    document = json.loads(Path("prices.json").read_text())
    document["prices"][0]["input"] = "9"
    Path("edited.json").write_text(json.dumps(document))
    code, _, err = run(capsys, "diff", "prices.json", "edited.json")
    assert code == 2
    assert "they were edited" in err


def test_a_time_that_is_none_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["prices", "show", "--at", "tomorrow"])
    assert left.value.code == 2
    assert "write 2026-10-12" in capsys.readouterr().err
