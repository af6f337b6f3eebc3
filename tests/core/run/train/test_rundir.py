"""A run folder has one writer, refuses what it cannot hold, and survives a cut-off line."""

import json
import multiprocessing
import os
import stat
from pathlib import Path

import pytest
from pt_core.errors import UserError
from pt_core.run.train.rundir import RunDir, environment

from tests.core.test_sealed import full_disk


def test_path_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "run").touch()
    with pytest.raises(UserError, match="run is a file; name a folder"):
        RunDir(tmp_path / "run").open()


def test_folder_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write to .*file/run"):
        RunDir(tmp_path / "file" / "run").open()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder_is_refused(tmp_path):
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        with pytest.raises(UserError, match="cannot write to"):
            RunDir(tmp_path / "run").open()
    finally:
        tmp_path.chmod(stat.S_IRWXU)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a file system that refuses folders")
def test_file_system_that_refuses_folders_is_an_error_at_the_start():
    with pytest.raises(UserError, match="cannot write to /proc/run"):
        RunDir(Path("/proc/run")).open()


@pytest.mark.parametrize(
    ("status", "advice"), [("finished", "another --out"), ("interrupted", "continue it with `resume")]
)
def test_used_folder_is_refused_with_advice(tmp_path, status, advice):
    with RunDir(tmp_path / "run").open() as run:
        run.update({"status": status})
    with pytest.raises(UserError, match=rf"already holds a run \({status}\).*{advice}"):
        RunDir(tmp_path / "run").open()


def test_resume_needs_a_run(tmp_path):
    with pytest.raises(UserError, match="not a run folder"):
        RunDir(tmp_path).open(resume=True)
    assert list(tmp_path.iterdir()) == []


def _try(path, queue):
    try:
        RunDir(path).open(resume=True)
        queue.put("opened")
    except UserError as error:
        queue.put(str(error))


def other_process(path):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=_try, args=(path, queue))
    process.start()
    answer = queue.get(timeout=30)
    process.join()
    return answer


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_second_process_is_refused_with_pid_until_the_first_is_gone(tmp_path):
    with RunDir(tmp_path / "run").open() as run:
        run.update({"status": "running"})
        assert f"in use by process {os.getpid()} on " in other_process(tmp_path / "run")
    assert other_process(tmp_path / "run") == "opened"


def test_lock_of_a_killed_process_does_not_block(tmp_path):
    with RunDir(tmp_path / "run").open() as run:
        run.update({"status": "running"})
    (tmp_path / "run" / ".lock").touch()
    (tmp_path / "run" / ".holder").write_text("process 1 on elsewhere")
    with RunDir(tmp_path / "run").open(resume=True):
        pass
    assert not (tmp_path / "run" / ".holder").exists()


def test_half_written_files_are_swept_when_a_run_is_opened(tmp_path):
    with RunDir(tmp_path / "run").open() as run:
        run.update({"status": "running"})
    (tmp_path / "run" / ".run.json.tmp-1").write_text("{")
    (tmp_path / "run" / ".tuned.tmp-1").mkdir()
    with RunDir(tmp_path / "run").open(resume=True) as run:
        assert run.status() == {"status": "running"}
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["run.json"]


def test_only_the_main_process_writes(tmp_path):
    with RunDir(tmp_path / "run", main=False).open() as run:
        run.update({"status": "running"})
        run.log({"step": 1})
        run.write_config({"a": 1})
        run.rewind(1, 1)
    assert not (tmp_path / "run").exists()


def test_cut_off_metric_line_is_ignored_and_rewound(tmp_path):
    with RunDir(tmp_path / "run").open() as run:
        for stage, step in ((1, 1), (1, 2), (2, 1), (2, 2)):
            run.log({"stage_number": stage, "step": step})
        with (run.path / "metrics.jsonl").open("a") as file:
            file.write('{"stage_number": 2, "st')
        assert len(run.metrics()) == 4
        run.rewind(2, 1)
        assert [(m["stage_number"], m["step"]) for m in run.metrics()] == [(1, 1), (1, 2), (2, 1)]
        run.log({"stage_number": 2, "step": 2})
        assert len(run.metrics()) == 4


def test_full_disk_is_an_error_that_names_the_file_and_keeps_the_status(tmp_path):
    with RunDir(tmp_path / "run").open() as run:
        run.update({"status": "running"})
        with full_disk(60):
            with pytest.raises(UserError, match=r"run.json \([\d,]+ bytes\)"):
                run.update({"message": "x" * 500})
            with pytest.raises(UserError, match="cannot write .*metrics.jsonl.*resume"):
                run.log({"text": "x" * 500})
        assert run.status() == {"status": "running"}


def test_environment_names_no_host_and_no_path():
    import socket

    text = json.dumps(environment({"pt-x": "1"}))
    assert socket.gethostname() not in text
    assert "/" not in text.replace("NVIDIA/", "")
    assert '"threads": ' in text
