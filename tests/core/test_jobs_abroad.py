"""Which hosts know of which jobs."""

from __future__ import annotations

from meshray.core.jobs_abroad import JobsAbroad
from meshray.wire.messages import JobInfo, JobThere

ME, H, K = b"me......", b"home...h", b"home...k"
OURS, THEIRS = ME + b"driver..", H + b"driver.."


def there(job: bytes) -> JobThere:
    return JobThere(JobInfo(job, "python", "/usr", [], "/", "", "ns"), "3.11")


def test_our_job_is_known_where_it_was_told() -> None:
    jobs = JobsAbroad(ME)
    jobs.on_told(OURS, H)
    jobs.on_told(OURS, K)
    jobs.on_told(THEIRS, K)  # not ours to end
    assert jobs.take_told(OURS) == [H, K]
    assert jobs.take_told(OURS) == []
    assert jobs.take_told(THEIRS) == []


def test_a_host_that_is_gone_needs_no_word() -> None:
    jobs = JobsAbroad(ME)
    jobs.on_told(OURS, H)
    jobs.forget_host(H)
    assert jobs.take_told(OURS) == []


def test_a_foreign_job_is_news_once() -> None:
    jobs = JobsAbroad(ME)
    assert not jobs.on_there(there(OURS))
    assert jobs.on_there(there(THEIRS))
    assert not jobs.on_there(there(THEIRS))
    assert jobs.there(THEIRS) == there(THEIRS)
    assert jobs.of_host(H) == [THEIRS]
    assert jobs.on_over(THEIRS)
    assert not jobs.on_over(THEIRS)
    assert THEIRS not in jobs
    assert jobs.there(THEIRS) is None
