"""Every mistake in a configuration ends in one clear message and exit code 2, before any render."""

from pathlib import Path

import pytest

from harness.cli import main
from harness.verdict import session

CASE = "cases.micro_2b_quick"


@pytest.fixture(autouse=True)
def no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """A configuration with a mistake must not get as far as a run."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a run was started")

    monkeypatch.setattr(session, "run", refuse)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        # names that do not exist
        ("case=[micro_2]", "there is no case 'micro_2'; did you mean 'micro_2b'?"),
        ("case=micro_3b", "there is no case 'micro_3b'; did you mean"),
        ("candidate=[satt]", "there is no candidate 'satt'; did you mean 'sat'?"),
        ("reference=difusers", "there is no reference 'difusers'; did you mean 'diffusers'?"),
        ("experiment=dmeo", "there is no experiment 'dmeo'; did you mean 'demo'?"),
        ("match=nativ", "there is no match 'nativ'; did you mean 'native'?"),
        ("metrics=[psn]", "there is no metrics 'psn'; did you mean 'psnr'?"),
        ("reference.backend=sta", "`reference.backend`: no backend 'sta'; did you mean 'sat'?"),
        ("hydra/launcher=ray", "no launcher 'ray' here; there are local, parallel, slurm"),
        # misspelt keys, existing and added
        ("seedz=[1]", "there is no key `seedz`; did you mean 'seeds'?"),
        ("cas=[x]", "there is no key `cas`; did you mean 'case'?"),
        ("reference.dtyp=float16", "there is no key `reference.dtyp`; did you mean 'dtype'?"),
        ("candidates.sta.dtype=float16", "there is no key `candidates.sta`; did you mean 'sat'?"),
        ("metrics.psnr.tile=16", "there is no key `metrics.psnr.tile`; did you mean 'tile_px'?"),
        (f"+{CASE}.guidance=6", f"there is no key `{CASE}.guidance`; did you mean"),
        ("+juge.rerun=false", "there is no key `juge`; did you mean 'judge'?"),
        ("+judge.rerum=false", "there is no key `judge.rerum`; did you mean 'rerun'?"),
        ("candidates.sat.match={schedul: own}", "there is no key `candidates.sat.match.schedul`"),
        # values
        (f"{CASE}.frames=16", "sat cannot make a video of 16 frames. Nearest that every"),
        (f"{CASE}.frames=1", "1 frames are no video"),
        (f"{CASE}.frames=5", "this run makes: 9"),
        (f"{CASE}.frames=many", f"`{CASE}.frames`: input should be a valid integer"),
        (f"{CASE}.height=100", "Nearest: 96 or 112"),
        (f"{CASE}.width=0", "Nearest: 16 or 32"),
        (f"{CASE}.steps=0", "0 solver steps; the noise schedule has 1 to 1000"),
        (f"{CASE}.steps=1001", "1001 solver steps"),
        (f"{CASE}.guidance_scale=nan", "give a finite number from 1"),
        (f"{CASE}.sampler=dmp", "no sampler 'dmp'; did you mean 'dpm'?"),
        (f"{CASE}.fps=0", "give 1 to 1000"),
        (f"{CASE}.prompt=' '", "it is empty"),
        (f"{CASE}.image=nowhere.png", "there is no file nowhere.png"),
        ("reference.dtype=bf16", "`reference.dtype`: no dtype 'bf16'; did you mean 'bfloat16'?"),
        ("candidates.sat.dtype=half", "no dtype 'half'; did you mean 'float16'?"),
        ("reference.threads=0", "`reference.threads`"),
        ("match.noise=own", "`match.noise`: input should be 'shared'"),
        ("match.text=mine", "`match.text`: input should be 'shared' or 'own'"),
        ("candidates.sat.match=native", "write +match@candidates.sat.match=native"),
        (CASE + "=3", f"`{CASE}`: input should be a mapping, got 3"),
        ("metrics.psnr.tile_px=2", "metric 'psnr' cannot use its options"),
        ("timeout_s=0", "`timeout_s`: input should be greater than 0"),
        ("judge.rerun=perhaps", "`judge.rerun`: input should be a valid boolean"),
        ("store=null", "`store`: input should be a valid string"),
        ("~seeds", "`seeds` is missing"),
        # nothing to compare
        ("case=[]", "nothing to compare: there are no cases"),
        ("candidate=[]", "nothing to compare: there are no candidates"),
        ("~candidates.sat", "nothing to compare: there are no candidates"),
        ("seeds=[]", "nothing to compare: there are no seeds"),
        ("metrics=[]", "nothing to compare: there are no metrics"),
        # names and seeds that could not be told apart
        ("seeds=[0,1,0]", "`seeds` repeats [0]"),
        ("seeds=[-1]", "`seeds.0`"),
        ("reference.name=sat", "candidate 'sat' has the name of the reference"),
        ("reference.name='a b'", "reference 'a b': a name has letters"),
        # the grammar of settings
        ("seeds=[0", "cannot read 'seeds=[0'"),
        ("seeds", "cannot read 'seeds'"),
        ("case=micro_2b,micro_5b", "write key=[a,b]; to run once for each value add -m"),
        ("seeds=${nowhere}", "nowhere"),
    ],
)
def test_one_message_and_exit_code_2(
    setting: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", setting]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("parity: ")
    assert message in shown.err
    assert "Traceback" not in shown.err and "defect" not in shown.err
    assert len(shown.err.strip().splitlines()) == 1


def test_a_file_of_the_user_with_a_misspelt_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nsedes: [1]\n")
    assert main(["run", "--config-dir", str(tmp_path), "experiment=mine"]) == 2
    assert "there is no key `sedes`; did you mean 'seeds'?" in capsys.readouterr().err


def test_a_file_of_the_user_that_does_not_say_where_it_belongs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "case").mkdir()
    (tmp_path / "case" / "mine.yaml").write_text("model: micro-2b\n")
    assert main(["run", "--config-dir", str(tmp_path), "case=[mine]"]) == 2
    assert "its first line must be `# @package cases.<name>`" in capsys.readouterr().err


def test_a_file_of_the_user_that_is_not_yaml(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "case").mkdir()
    (tmp_path / "case" / "mine.yaml").write_text("model: [unclosed\n")
    assert main(["run", "--config-dir", str(tmp_path), "case=[mine]"]) == 2
    assert "not valid YAML" in capsys.readouterr().err


def test_a_file_of_the_user_cannot_hide_a_shipped_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "case").mkdir()
    (tmp_path / "case" / "micro_2b.yaml").write_text("model: other\n")
    assert main(["run", "--config-dir", str(tmp_path)]) == 2
    assert "give it another name" in capsys.readouterr().err


def test_a_mistake_in_the_last_job_of_a_sweep_is_found_before_the_first(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", "-m", f"{CASE}.frames=9,13,16"]) == 2
    assert "sat cannot make a video of 13 frames" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
