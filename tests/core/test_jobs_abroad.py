"""Which hosts know of which jobs."""

from __future__ import annotations

import msgspec

from meshray.core.jobs_abroad import JobsAbroad
from meshray.wire.messages import Code, JobInfo, JobThere

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


def test_code_goes_to_whom_the_job_was_told() -> None:
    jobs = JobsAbroad(ME)
    code = Code(b"hash")
    assert jobs.on_code(OURS, code) == []  # nobody has asked
    jobs.on_told(OURS, H)
    assert jobs.must_ask(OURS)
    assert not jobs.must_ask(OURS)
    assert not jobs.must_ask(THEIRS)
    jobs.on_told(OURS, K)
    assert jobs.with_code(there(OURS).info).code is None
    assert jobs.on_code(OURS, code) == [H, K]
    assert jobs.on_code(OURS, Code(b"other")) == []
    assert jobs.with_code(there(OURS).info).code == code
    jobs.take_told(OURS)
    assert jobs.with_code(there(OURS).info).code is None


def test_a_foreign_job_is_news_again_with_its_code() -> None:
    jobs = JobsAbroad(ME)
    bare = there(THEIRS)
    whole = JobThere(msgspec.structs.replace(bare.info, code=Code()), bare.python)
    assert jobs.on_there(bare)
    assert jobs.on_there(whole)
    assert not jobs.on_there(whole)
    assert not jobs.on_there(bare)
    assert jobs.there(THEIRS) == whole


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


def test_who_has_not_said_that_it_has_done_with_a_job_is_awaited() -> None:
    jobs = JobsAbroad(ME)
    jobs.on_told(OURS, H)
    jobs.on_told(OURS, K)
    assert not jobs.awaits(OURS), "it is not over"
    assert jobs.take_told(OURS) == [H, K]
    jobs.on_done(OURS, H)
    jobs.on_done(OURS, H)
    assert jobs.awaits(OURS)
    jobs.forget_host(K)
    assert not jobs.awaits(OURS)
    jobs.on_done(OURS, K)
    jobs.on_told(OURS, K)
    jobs.take_told(OURS)
    jobs.forget_awaited(OURS)
    assert not jobs.awaits(OURS)


def test_a_job_that_is_over_is_kept_as_long_as_it_is_needed() -> None:
    jobs, needed = JobsAbroad(ME), {OURS, THEIRS}
    jobs.on_lasts(there(OURS), needed.__contains__)
    found = jobs.lasting(OURS)
    assert found is not None
    assert (found.over, found.info.code) == (True, Code()), "its code will not become known"
    needed.discard(OURS)
    jobs.on_lasts(there(THEIRS), needed.__contains__)
    assert jobs.lasting(OURS) is None
    assert jobs.lasting(THEIRS) is not None
    jobs.on_lasts(there(OURS), needed.__contains__)
    assert jobs.lasting(OURS) is None
