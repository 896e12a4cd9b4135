"""The lock on a shared file system: it is taken from the dead, and from nobody else."""

import threading
import time

import pytest

from var_core.tuning.lock import FileLock

pytestmark = pytest.mark.filterwarnings("ignore:The value of `grace_period`")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_it_is_there_while_it_is_held(tmp_path):
    lock = FileLock(tmp_path / "file", 30)
    lock.acquire()
    assert names(tmp_path) == ["file.lock"]
    lock.release()
    assert names(tmp_path) == []


def test_who_waited_too_long_takes_away_no_living_holders_lock(tmp_path):
    """As a second waiter would, which saw only the dead holder's lock, where the first has made its own since."""
    first, second = (FileLock(tmp_path / "file", 30) for _ in range(2))
    first.acquire()
    made = (tmp_path / "file.lock").stat()
    with pytest.raises(RuntimeError, match="was quicker"):
        second.release()
    assert names(tmp_path) == ["file.lock"]
    assert (tmp_path / "file.lock").stat().st_ino == made.st_ino
    first.release()
    with pytest.raises(RuntimeError, match="was quicker"):
        second.release()


def test_a_holder_that_was_held_up_leaves_its_successors_lock(tmp_path, caplog):
    held_up, successor = (FileLock(tmp_path / "file", 1) for _ in range(2))
    held_up.acquire()
    successor.acquire()
    held_up.release()
    assert names(tmp_path) == ["file.lock"] and "was taken over after 1 s" in caplog.text
    successor.release()
    assert names(tmp_path) == []
    held_up.acquire()
    (tmp_path / "file.lock").unlink()
    held_up.release()
    assert caplog.text.count("was taken over") == 2


def test_of_several_that_wait_for_a_dead_holder_one_at_a_time_goes_on(tmp_path):
    (tmp_path / "file.lock").touch()
    inside, most, done = [0], [0], []

    def wait():
        lock = FileLock(tmp_path / "file", 1)
        for _ in range(20):
            lock.acquire()
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            time.sleep(0.001)
            inside[0] -= 1
            lock.release()
        done.append(True)

    threads = [threading.Thread(target=wait) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert (most, len(done)) == ([1], 6) and names(tmp_path) == []
