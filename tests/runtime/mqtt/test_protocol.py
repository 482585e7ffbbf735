"""The protocol without a broker: a network that loses, repeats and reorders, and workers that die."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.runtime.mqtt.client_actions import Answered, Began, Happened, Lost, Send, Unreadable
from plait.runtime.mqtt.client_state import MAX_UNREADABLE, SILENCE_SECONDS, Jobs
from plait.runtime.mqtt.messages import (
    BEAT,
    MAX_MODEL,
    OFFER,
    ORDER,
    REPORT,
    Beat,
    Cancel,
    Chunk,
    Claim,
    Declined,
    Drop,
    Events,
    Held,
    Malformed,
    Offer,
    Queued,
    Resend,
    Returned,
    decode,
    encode,
    is_id,
    sendable,
)
from plait.runtime.mqtt.worker_actions import Begin, Check, End, Reply, Show, Withdraw
from plait.runtime.mqtt.worker_state import Desk

EVENTS = 5


class World:
    """A client, workers, and a network between them, in steps of a tenth of a second."""

    def __init__(
        self, seed: int, *, workers: int, jobs: int, faults: float, loses: bool = True, choosy: float = 0.0
    ) -> None:
        """`faults`: the share of messages that are delivered again, or, if it `loses` any, lost or late. `choosy`: the
        share of workers that decline every third job."""
        self.random = random.Random(seed)
        self.choosy = choosy
        self.declined: list[str] = []
        self.faults = faults
        self.loses = loses
        self.now = 0.0
        self.jobs = Jobs("c", lease=3.0, max_epochs=1000)
        self.desks: dict[str, Desk] = {}
        self.refusals: dict[str, Callable[[dict[str, int]], bytes | None]] = {}
        self.shown: set[tuple[str, tuple[str, str], int]] = set()
        self.running: dict[tuple[str, tuple[str, str], int], int] = {}
        self.checks: list[tuple[str, Check]] = []
        self.flight: list[tuple[str, str, bytes]] = []
        """(to, about, payload)"""
        self.again: list[tuple[float, tuple[str, str, bytes]]] = []
        """When what is delivered again."""
        self.heard: dict[str, list[int]] = {}
        self.begun: dict[str, int] = {}
        """Job -> how often."""
        self.answers: dict[str, list[bytes]] = {}
        self.born = 0
        for _ in range(workers):
            self.birth()
        for i in range(jobs):
            self.client(self.jobs.submit(f"j{i}", {"n": i}, 0, self.now))
            if i % 2 == 0:
                self.client(self.jobs.watch(f"j{i}"))

    def birth(self) -> None:
        self.born += 1
        is_choosy = self.random.random() < self.choosy

        def refusal(job: dict[str, int]) -> bytes | None:
            if not is_choosy or job["n"] % 3:
                return None
            self.declined.append(f"j{job['n']}")
            return b"cannot"

        self.refusals[f"w{self.born}"] = refusal
        self.desks[f"w{self.born}"] = Desk(
            f"w{self.born}",
            capacity=2,
            chunk_bytes=4,
            jobs_per_beat=1,
            refusal=refusal,
            is_long=lambda job: self.faults > 0 and job["n"] % 4 > 1,
        )

    def share(self) -> str:
        """Any, as brokers do for a shared subscription, in turn or by chance: whether it has a free slot or not."""
        return self.random.choice(sorted(self.desks)) if self.desks else "nobody"

    def client(self, actions) -> None:
        for action in list(actions):
            match action:
                case Send(job, message, worker):
                    to = worker or self.share()
                    self.flight.append((to, job, encode(message)))
                case Began(job, epoch):
                    self.heard[job] = []
                    self.begun[job] = epoch
                case Happened(job, event):
                    self.heard[job].append(event["n"])
                case Answered(job, data):
                    self.answers.setdefault(job, []).append(data)
                case Lost():
                    raise AssertionError("given up")

    def worker(self, name: str, actions) -> None:
        for action in list(actions):
            match action:
                case Reply((_, job), report):
                    self.flight.append(("c", job, encode(report)))
                case Check():
                    self.checks.append((name, action))
                case Begin(key, epoch, _, watched):
                    self.running[name, key, epoch] = 0
                    if watched:
                        self.shown.add((name, key, epoch))
                case Show(key, epoch):
                    self.shown.add((name, key, epoch))
                case End(key, epoch, _):
                    self.running.pop((name, key, epoch), None)
                    self.worker(name, self.desks[name].answered(key, epoch, b"ended", self.now))

    def step(self) -> None:
        self.now += 0.1
        flight = self.flight + [letter for due, letter in self.again if due <= self.now]
        self.flight, self.again = [], [(due, letter) for due, letter in self.again if due > self.now]
        if self.loses and self.random.random() < self.faults:
            self.random.shuffle(flight)
        for letter in flight:
            luck = self.random.random()
            if luck < self.faults / 2:
                self.again.append((self.now + self.random.uniform(0.0, 2.0), letter))
            elif luck < self.faults and self.loses:
                continue
            self.deliver(*letter)
        checks, self.checks = self.checks, []
        for name, check in checks:
            if self.random.random() < self.faults:
                self.checks.append((name, check))  # It takes longer.
            elif name in self.desks:
                answer = self.refusals[name](check.job)
                self.worker(name, self.desks[name].checked(check.key, check.epoch, answer, self.now))
        for name, key, epoch in list(self.running):
            sent = self.running.get((name, key, epoch))
            if sent is None:
                continue
            if sent < EVENTS:
                self.running[name, key, epoch] += 1
                if (name, key, epoch) in self.shown:
                    self.worker(name, self.desks[name].happened(key, epoch, [{"n": sent}]))
            else:
                del self.running[name, key, epoch]
                self.worker(name, self.desks[name].answered(key, epoch, f"answer {key[1]}".encode(), self.now))
        for name, desk in list(self.desks.items()):
            self.worker(name, desk.tick(self.now))
            assert sum(of == name for of, _, _ in self.running) <= desk.capacity
            if self.random.random() < 0.2:
                self.flight += [("c", f"beat {name}", encode(beat)) for beat in desk.beats()]
        self.client(self.jobs.tick(self.now))

    def deliver(self, to: str, about: str, payload: bytes) -> None:
        if to == "c":
            if about.startswith("beat "):
                self.client(self.jobs.beat(about[5:], decode(BEAT, payload), self.now))
            else:
                self.client(self.jobs.report(about, decode(REPORT, payload), self.now))
        elif to in self.desks:
            desk, key = self.desks[to], ("c", about)
            if b'"offer"' in payload:
                self.worker(to, desk.offer(key, decode(OFFER, payload), self.now))
            else:
                self.worker(to, desk.order(key, decode(ORDER, payload), self.now))

    def kill(self) -> None:
        name = self.random.choice(sorted(self.desks))
        del self.desks[name]
        self.running = {k: v for k, v in self.running.items() if k[0] != name}
        if self.random.random() < 0.5:  # Otherwise its beats are missed.
            self.client(self.jobs.gone(name, self.now))
        self.birth()

    def check(self, jobs: int) -> None:
        assert sorted(self.answers) == sorted(f"j{i}" for i in range(jobs))
        for job, answers in self.answers.items():
            if answers == [b"cannot"]:
                assert int(job[1:]) % 3 == 0 and job not in self.heard
                continue
            assert answers == [f"answer {job}".encode()]
            assert self.heard[job] == (list(range(EVENTS)) if int(job[1:]) % 2 == 0 else [])


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    workers=st.integers(1, 3),
    jobs=st.integers(1, 8),
    faults=st.sampled_from([0.0, 0.1, 0.3]),
    kills=st.integers(0, 4),
    choosy=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_every_job_is_answered_once_with_its_events_in_order(seed, workers, jobs, faults, kills, choosy):
    world = World(seed, workers=workers, jobs=jobs, faults=faults, choosy=choosy)
    for _ in range(kills):
        for _ in range(world.random.randrange(1, 30)):
            world.step()
        world.kill()
    # What one worker took and no other can run waits for such a one.
    world.choosy = 0.0
    world.birth()
    for _ in range(6000):
        if not len(world.jobs):
            break
        world.step()
    world.check(jobs)
    world.faults = 0.0
    for _ in range(100):
        world.step()
    assert all(not desk.beat().jobs for desk in world.desks.values())
    world.check(jobs)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), workers=st.integers(1, 3), jobs=st.integers(1, 8), twice=st.floats(0.0, 0.9))
def test_what_is_delivered_again_begins_no_job_anew(seed, workers, jobs, twice):
    world = World(seed, workers=workers, jobs=jobs, faults=twice, loses=False)
    for _ in range(6000):
        if not len(world.jobs):
            break
        world.step()
    world.check(jobs)
    assert set(world.begun.values()) == {1}


def test_an_offer_without_faults_is_made_once():
    world = World(1, workers=2, jobs=6, faults=0.0)
    offers = 0
    for _ in range(200):
        offers += sum(b'"offer"' in payload for _, _, payload in world.flight)
        world.step()
    # And once more for each worker that has no slot free.
    assert offers <= 6 * 2 and not len(world.jobs)


@pytest.mark.parametrize("seed", range(8))
def test_what_some_workers_decline_others_run(seed):
    world = World(seed, workers=2, jobs=0, faults=0.0, choosy=1.0)
    world.choosy = 0.0
    world.birth()
    for name, desk in world.desks.items():
        world.client(world.jobs.beat(name, desk.beat(), 0.0))
    for i in range(9):
        world.client(world.jobs.submit(f"j{i}", {"n": i}, 0, 0.0))
    for _ in range(300):
        world.step()
    assert [world.answers[f"j{i}"] for i in range(9)] == [[f"answer j{i}".encode()] for i in range(9)]
    # The broker may offer a job to each of them once; the client then chooses.
    assert max(map(world.declined.count, world.declined), default=0) <= 2


def test_what_all_workers_decline_is_answered_by_that():
    world = World(3, workers=3, jobs=7, faults=0.0, choosy=1.0)
    for _ in range(200):
        world.step()
    assert not len(world.jobs) and not any(desk.beat().jobs for desk in world.desks.values())
    assert [world.answers[f"j{i}"] for i in (0, 3, 6)] == [[b"cannot"]] * 3
    assert [world.answers[f"j{i}"] for i in (1, 2, 4, 5)] == [[f"answer j{i}".encode()] for i in (1, 2, 4, 5)]


def test_a_job_whose_only_worker_died_waits_for_another():
    jobs = Jobs("c", lease=3.0)
    for name in ("choosy", "able"):
        list(jobs.beat(name, Beat(capacity=1, free=1, model="m"), 0.0))
    list(jobs.submit("j", {}, 0, 0.0))
    (offer,) = jobs.report("j", Declined(worker="choosy", epoch=1, body=b"cannot"), 0.1)
    assert (offer.worker, offer.message.type) == ("able", "offer")
    list(jobs.report("j", Claim(worker="able", epoch=1), 0.2))
    assert [action.message.type for action in jobs.gone("able", 0.3)] == ["drop"]
    assert not list(jobs.tick(2.9)) and "j" in jobs
    (offer,) = jobs.beat("another", Beat(capacity=1, free=1, model="m"), 3.0)
    assert (offer.worker, offer.message.epoch) == ("another", 2)
    # Late, repeated or of an older epoch: it says nothing.
    (drop,) = jobs.report("j", Declined(worker="able", epoch=1, body=b"cannot"), 3.1)
    assert drop.message.type == "drop" and "j" in jobs


def workers(**free: int) -> Jobs:
    """Job `j`, and workers that have told of themselves with so many slots free."""
    jobs = Jobs("c", lease=3.0)
    for name, slots in free.items():
        list(jobs.beat(name, Beat(capacity=4, free=slots, model="m"), 0.0))
    list(jobs.submit("j", {}, 0, 0.0))
    return jobs


def declined(jobs: Jobs, *names: str) -> list[object]:
    return [action for name in names for action in jobs.report("j", Declined(worker=name, epoch=1, body=b"no"), 0.1)]


def test_the_last_to_decline_a_job_answers_it_at_once():
    jobs = workers(a=1, b=1)
    (_, answered) = declined(jobs, "a", "b")
    assert answered == Answered("j", b"no") and "j" not in jobs


def test_a_job_declined_by_all_that_are_left_is_answered():
    jobs = workers(a=1, b=1)
    declined(jobs, "a")
    assert not list(jobs.gone("b", 0.2))
    assert list(jobs.tick(0.3)) == [Answered("j", b"no")] and "j" not in jobs


def test_a_job_that_some_declined_is_offered_to_who_has_most_slots_free():
    (offer,) = declined(workers(a=4, b=1, c=3, d=2), "a")
    assert (offer.worker, offer.message.type) == ("c", "offer")


def test_an_offer_that_nobody_answered_is_made_to_who_has_most_slots_free():
    """The broker may have given it to one that hangs, and may do so again."""
    jobs = workers(a=1, b=2)
    (offer,) = jobs.tick(1.5)
    assert (offer.worker, offer.message.type) == ("b", "offer")


def test_while_the_broker_may_choose_who_is_silent_offers_go_to_those_who_are_not():
    """In turn, as they have slots; when that session must have ended, whoever the broker chooses."""
    jobs = Jobs("c", lease=3.0)

    def beat(now: float) -> list[object]:
        return [action for name in "ab" for action in jobs.beat(name, Beat(capacity=4, free=1, model="m"), now)]

    list(jobs.beat("silent", Beat(capacity=4, free=4, model="m"), 0.0))
    for tick in range(1, 9):
        beat(tick / 2)
        list(jobs.tick(tick / 2))
    assert set(jobs.workers) == {"a", "b"}
    given = [offer.worker for i in range(4) for offer in jobs.submit(f"j{i}", {}, 0, 4.0)]
    assert sorted(given) == ["a", "a", "b", "b"]
    beat(4.0 + SILENCE_SECONDS)
    assert [offer.worker for offer in jobs.submit("late", {}, 0, 4.0 + SILENCE_SECONDS)] == [None]


def test_a_job_that_a_worker_has_queued_is_not_refused_by_others():
    jobs = workers(a=1)
    list(jobs.report("j", Queued(worker="late", epoch=1), 0.1))  # Its first beat is still to come.
    assert not declined(jobs, "a") and not list(jobs.tick(0.2)) and jobs.holders == {"late"}
    list(jobs.beat("b", Beat(capacity=1, free=0, model="m"), 0.3))
    (drop, offer) = jobs.gone("late", 0.4)
    assert (drop.worker, drop.message.type, offer.worker, offer.message.type) == ("late", "drop", "b", "offer")


def begin(jobs: Jobs, worker: str = "w") -> None:
    list(jobs.submit("j", {}, 0, 0.0))
    list(jobs.beat(worker, Beat(capacity=1, free=1, model="m"), 0.0))
    list(jobs.report("j", Claim(worker=worker, epoch=1), 0.0))


def test_offers_that_nobody_answers_are_ignored_where_workers_are():
    jobs = Jobs("c", lease=3.0)
    list(jobs.submit("j", {}, 0, 0.0))
    now = 0.0

    def pass_time(seconds, worker=None):
        nonlocal now
        for _ in range(round(seconds / 0.2)):
            now += 0.2
            if worker:
                list(jobs.beat(worker, Beat(capacity=1, free=1, model="m"), now))
            list(jobs.tick(now))
        return jobs.is_ignored(now)

    assert not pass_time(9)  # There is no worker.
    assert not pass_time(2.8, "w")
    jobs.connected(now)  # What was not heard before says nothing.
    assert not pass_time(2.0, "w")
    now += 60  # Nor does what came in while nobody listened.
    list(jobs.tick(now))
    assert not jobs.is_ignored(now)
    assert pass_time(1.0, "w")
    list(jobs.report("j", Queued(worker="w", epoch=1), now))
    assert not pass_time(2.8, "w")


def test_an_offer_is_not_ignored_while_there_is_no_worker():
    jobs, beat = Jobs("c", lease=3.0), Beat(capacity=1, free=1, model="m")
    list(jobs.beat("w", beat, 0.0))
    list(jobs.submit("j", {}, 0, 0.0))
    list(jobs.gone("w", 0.1))
    for now in range(1, 10):
        list(jobs.tick(float(now)))
    list(jobs.beat("later", beat, 9.5))
    assert not jobs.is_ignored(9.6)
    list(jobs.beat("later", beat, 12.5))
    assert jobs.is_ignored(12.6)


@pytest.mark.parametrize("answer", [Returned(worker="w", epoch=1), Declined(worker="w", epoch=1, body=b"no")])
def test_who_takes_no_job_does_not_ignore_it(answer):
    jobs, beat = Jobs("c", lease=3.0), Beat(capacity=1, free=1, model="m")
    list(jobs.beat("w", beat, 0.0))
    list(jobs.beat("other", beat, 0.0))
    list(jobs.submit("j", {}, 0, 0.0))
    list(jobs.report("j", answer, 2.0))
    assert not jobs.is_ignored(4.0) and jobs.is_ignored(5.5)


def test_workers_that_do_not_hear_that_they_may_begin_ignore_it():
    jobs = Jobs("c", lease=3.0)
    list(jobs.submit("j", {}, 0, 0.0))
    beat, found = Beat(capacity=1, free=1, model="m"), []
    for epoch, now in enumerate((0.0, 4.0, 8.0), start=1):
        list(jobs.beat("w", beat, now))
        found.append(jobs.is_ignored(now))
        list(jobs.report("j", Claim(worker="w", epoch=epoch), now))
    assert found == [False, False, True]


@pytest.mark.parametrize("reason", ["\ud800", "a" * 999 + "\ud800", "x" * 5000, ""])
def test_any_reason_ends_a_job_that_runs(reason):
    jobs = Jobs("c", lease=3.0)
    begin(jobs)
    (end,) = jobs.cancel("j", reason, 0.0)
    assert decode(ORDER, encode(end.message)) == end.message
    held = Held(client="c", job="j", epoch=1)
    (again,) = jobs.beat("w", Beat(capacity=1, free=0, model="m", jobs=[held]), 2.0)
    assert again == end and len(end.message.reason) == min(len(reason), 1000)


def test_two_workers_claim_and_one_is_granted():
    jobs = Jobs("c", lease=3.0)
    begin(jobs)
    list(jobs.submit("nobody has it", {}, 0, 0.0))
    (drop,) = jobs.report("j", Claim(worker="other", epoch=1), 0.1)
    assert jobs.holders == {"w"}
    assert (drop.worker, drop.message.type) == ("other", "drop")
    (grant,) = jobs.report("j", Claim(worker="w", epoch=1), 0.1)
    assert (grant.worker, grant.message.type) == ("w", "grant")


def test_a_job_queued_at_a_busy_worker_is_offered_to_the_others_at_once():
    jobs = Jobs("c", lease=3.0)
    for name, free in (("busy", 0), ("idle", 1)):
        list(jobs.beat(name, Beat(capacity=1, free=free, model="m"), 0.0))
    (first,) = jobs.submit("j", {}, 0, 0.0)
    (again,) = jobs.report("j", Queued(worker="busy", epoch=1), 0.1)
    assert again == first and again.worker is None
    assert not list(jobs.report("j", Queued(worker="busy", epoch=1), 0.1))
    assert not list(jobs.report("j", Queued(worker="idle", epoch=1), 0.2))
    # Both have it, and keep it until one begins.
    held = Beat(capacity=1, free=0, model="m", jobs=[Held(client="c", job="j", epoch=1)])
    assert not list(jobs.beat("busy", held, 0.3)) and not list(jobs.beat("idle", held, 0.3))
    # So does one that has an offer which was made again, and has not answered it yet.
    assert not list(jobs.beat("late", held, 0.3))
    (_, grant) = jobs.report("j", Claim(worker="idle", epoch=1), 0.4)
    assert (grant.worker, grant.message.type) == ("idle", "grant")
    (drop,) = jobs.beat("busy", held, 0.5)
    assert (drop.worker, drop.message.type) == ("busy", "drop")


def test_who_was_told_to_drop_a_job_is_not_told_again():
    jobs = Jobs("c", lease=3.0)
    for name in ("a", "b"):
        list(jobs.beat(name, Beat(capacity=1, free=1, model="m"), 0.0))
    list(jobs.submit("j", {}, 0, 0.0))
    list(jobs.report("j", Queued(worker="a", epoch=1), 0.1))
    list(jobs.report("j", Claim(worker="b", epoch=1), 0.1))
    held = [Held(client="c", job=job, epoch=1) for job in ("i", "j")]
    drops = list(jobs.beat("a", Beat(capacity=1, free=0, model="m", jobs=held), 0.2))
    assert [(drop.worker, drop.job, drop.message.type) for drop in drops] == [("a", "i", "drop"), ("a", "j", "drop")]
    (answered, drop) = jobs.report("j", Chunk(worker="b", epoch=1, index=0, count=1, events=0, body=b"yes"), 0.3)
    assert answered == Answered("j", b"yes") and (drop.worker, drop.message.type) == ("b", "drop")


def test_a_job_that_nobody_waits_for_is_dropped():
    jobs = Jobs("c", lease=3.0)
    begin(jobs)
    (drop,) = jobs.forget("j", 0.1)
    assert (drop.worker, drop.message.type) == ("w", "drop") and "j" not in jobs


def test_a_job_that_is_handed_back_is_offered_at_once():
    jobs = Jobs("c", lease=3.0)
    list(jobs.beat("w", Beat(capacity=1, free=0, model="m"), 0.0))
    (first,) = jobs.submit("j", {}, 0, 0.0)
    list(jobs.report("j", Queued(worker="w", epoch=1), 0.1))
    assert list(jobs.report("j", Returned(worker="w", epoch=1), 0.2)) == [first]


def test_an_offer_that_nobody_answers_is_made_again_ever_later():
    jobs, beat = Jobs("c", lease=3.0, patience=1.0), Beat(capacity=1, free=1, model="m")
    list(jobs.beat("w", beat, 0.0))
    list(jobs.submit("j", {}, 0, 0.0))
    made = [0.0]
    for tick in range(1, 1100):
        list(jobs.beat("w", beat, tick / 10))
        made += [tick / 10 for _ in jobs.tick(tick / 10)]
    waits = [round(after - before) for before, after in pairwise(made)]
    assert waits == [1, 2, 4, 8, 16, 32, 32]


@pytest.mark.parametrize("free", [0, 1])
def test_a_job_queued_at_a_busy_worker_is_offered_again_while_another_has_a_slot(free):
    jobs = Jobs("c", lease=3.0, patience=1.0)
    for name, slots in (("busy", 0), ("idle", free)):
        list(jobs.beat(name, Beat(capacity=1, free=slots, model="m"), 0.0))
    list(jobs.submit("j", {}, 0, 0.0))
    for name in ("busy", "idle"):
        list(jobs.report("j", Queued(worker=name, epoch=1), 0.1))
    assert len([*jobs.tick(0.9), *jobs.tick(1.3), *jobs.tick(1.5)]) == free


@given(pauses=st.lists(st.floats(0.01, 20.0), max_size=12))
def test_a_pause_in_which_nobody_listened_ends_no_worker(pauses):
    """One that beats every second, as the client finds when it comes to read what has arrived."""
    jobs, now = Jobs("c", lease=3.0), 0.0
    begin(jobs)
    held = Beat(capacity=1, free=0, model="m", jobs=[Held(client="c", job="j", epoch=1)])
    for pause in pauses:
        now += pause
        assert not list(jobs.tick(now)) and jobs.epoch("j") == 1
        list(jobs.beat("w", held, now))


@pytest.mark.parametrize("between", [0.2, 0.9, 2.5])
def test_a_worker_that_is_silent_is_gone_however_slow_the_ticks_are(between):
    jobs = Jobs("c", lease=3.0)
    begin(jobs)
    ticks = 0
    while jobs.workers:
        ticks += 1
        list(jobs.tick(ticks * between))
    assert 3.0 < ticks * between <= 3.0 * max(1.0, between / 0.5) + 3 * between and jobs.epoch("j") == 2


def test_a_claim_outlasts_a_pause_in_which_its_grant_could_not_be_read():
    desk, key = Desk("w", capacity=1), ("c", "a")
    list(desk.tick(0.0))
    list(desk.offer(key, Offer(epoch=1, job={}), 0.0))
    list(desk.tick(30.0))
    assert list(desk.order(key, decode(ORDER, b'{"type":"grant","epoch":1}'), 30.0)) == [Begin(key, 1, {}, False)]
    list(desk.offer(("c", "b"), Offer(epoch=1, job={}), 30.0))
    list(desk.answered(key, 1, b"", 30.0))
    for tick in range(151, 220):
        list(desk.tick(tick / 5))
    assert [held.job for held in desk.beat().jobs] == ["a"]  # Nobody granted the other one.


def test_all_that_have_queued_a_job_are_told_to_drop_it():
    jobs = Jobs("c", lease=3.0)
    for name in ("a", "b"):
        list(jobs.beat(name, Beat(capacity=1, free=0, model="m"), 0.0))
    list(jobs.submit("j", {}, 0, 0.0))
    for name in ("a", "b"):
        list(jobs.report("j", Queued(worker=name, epoch=1), 0.1))
    drops = list(jobs.cancel("j", "enough", 0.2))
    assert [(drop.worker, drop.message.type) for drop in drops] == [("a", "drop"), ("b", "drop")]


@given(priorities=st.lists(st.integers(-2, 2), max_size=20), data=st.data())
def test_jobs_go_by_priority_and_then_in_turn_also_when_they_come_back(priorities, data):
    jobs = Jobs("c", lease=3.0, max_epochs=1000)
    for i, priority in enumerate(priorities):
        list(jobs.submit(f"j{i}", {}, priority, 0.0))
    left = sorted(range(len(priorities)), key=lambda i: (-priorities[i], i))
    while left:
        step = data.draw(st.sampled_from(["cancel", "run", "give back"]))
        if step == "cancel":
            out = left.pop(data.draw(st.integers(0, len(left) - 1)))
            assert not list(jobs.cancel(f"j{out}", "enough", 0.0))
            continue
        (offer,) = jobs.beat("w", Beat(capacity=1, free=1, model="m"), 0.0)
        assert offer.job == f"j{left[0]}"
        list(jobs.report(offer.job, Claim(worker="w", epoch=jobs.epoch(offer.job)), 0.0))
        list(jobs.beat("w", Beat(capacity=0, free=0, model="m"), 0.0))
        if step == "run":
            report = Chunk(worker="w", epoch=jobs.epoch(offer.job), index=0, count=1, events=0)
            list(jobs.report(offer.job, report, 0.0))
            left.pop(0)
        else:
            list(jobs.report(offer.job, Returned(worker="w", epoch=jobs.epoch(offer.job)), 0.0))
        assert len(jobs) == len(left)


def test_many_jobs_that_wait_are_not_looked_at_one_by_one(monkeypatch):
    looked = []
    monkeypatch.setattr(Jobs, "_takers", lambda self, entry, inner=Jobs._takers: looked.append(1) or inner(self, entry))
    jobs = Jobs("c", lease=3.0)
    list(jobs.beat("w", Beat(capacity=4, free=4, model="m"), 0.0))
    for i in range(1000):
        list(jobs.submit(f"j{i}", {}, 0, 0.0))
    for tick in range(100):
        list(jobs.tick(tick / 5))
        list(jobs.beat("w", Beat(capacity=5, free=1, model="m"), tick / 5))
    assert len(looked) < 100
    jobs.is_closing = True
    assert not [action for i in range(5, 1000) for action in jobs.cancel(f"j{i}", "closing", 20.0)]
    assert not [action for i in range(5) for action in jobs.cancel(f"j{i}", "closing", 20.0)] and not len(jobs)


def test_an_answer_from_an_older_epoch_does_not_count():
    jobs = Jobs("c", lease=3.0)
    begin(jobs)
    list(jobs.gone("w", 1.0))
    assert jobs.epoch("j") == 2
    late = Chunk(worker="w", epoch=1, index=0, count=1, events=0, body=b"late")
    (drop,) = jobs.report("j", late, 1.1)
    assert isinstance(drop, Send) and drop.message.type == "drop" and "j" in jobs


def test_a_job_that_kills_every_worker_is_given_up():
    jobs = Jobs("c", lease=3.0, max_epochs=2)
    begin(jobs)
    list(jobs.gone("w", 1.0))
    list(jobs.report("j", Claim(worker="x", epoch=2), 1.0))
    assert Lost("j", 2) in list(jobs.gone("x", 2.0)) and "j" not in jobs


def test_what_a_beat_says_is_missing_is_asked_for():
    jobs = Jobs("c", lease=3.0)
    begin(jobs)
    held = Held(client="c", job="j", epoch=1, events=3, chunks=2)
    (ask,) = jobs.beat("w", Beat(capacity=1, free=0, model="m", jobs=[held]), 0.5)
    assert ask.message == Resend(epoch=1, first=0, chunks=(0, 1))


@pytest.mark.parametrize("spoilt", [1, MAX_UNREADABLE - 1, MAX_UNREADABLE])
def test_a_job_whose_reports_can_never_be_read_is_given_up_alone(spoilt):
    jobs = Jobs("c", lease=3.0)
    begin(jobs)
    list(jobs.submit("other", {}, 0, 0.0))
    list(jobs.report("other", Claim(worker="w", epoch=1), 0.0))
    held = [Held(client="c", job=job, epoch=1, events=1) for job in ("j", "other")]
    for second in range(spoilt):
        (ask, _) = jobs.beat("w", Beat(capacity=2, free=0, model="m", jobs=held), 2.0 * second)
        assert ask.message == Resend(epoch=1, first=0)
        jobs.unreadable("j")
    if spoilt == MAX_UNREADABLE:
        lost, drop, *_ = jobs.beat("w", Beat(capacity=2, free=0, model="m", jobs=held), 2.0 * spoilt)
        assert (lost, drop.message.type, drop.worker) == (Unreadable("j"), "drop", "w")
        assert "j" not in jobs and "other" in jobs
    else:
        list(jobs.report("j", Events(worker="w", epoch=1, first=0, events=[{}]), 2.0 * spoilt))
        jobs.unreadable("j")
        chunk = Chunk(worker="w", epoch=1, index=0, count=1, events=1, body=b"answer")
        assert Answered("j", b"answer") in list(jobs.report("j", chunk, 2.0 * spoilt))


@pytest.mark.parametrize("is_new", [True, False])
@pytest.mark.parametrize("kind", ["events", "chunk"])
def test_a_job_is_not_given_up_while_something_new_of_it_arrives(kind, is_new):
    jobs, arrived = Jobs("c", lease=3.0), 0
    begin(jobs)
    beat = Beat(capacity=1, free=0, model="m", jobs=[Held(client="c", job="j", epoch=1, events=99, chunks=99)])

    def report(place):
        if kind == "events":
            return Events(worker="w", epoch=1, first=place, events=[{}])
        return Chunk(worker="w", epoch=1, index=place, count=99, events=99, body=b"x")

    list(jobs.report("j", report(0), 0.0))
    for second in range(3 * MAX_UNREADABLE):
        list(jobs.beat("w", beat, 2.0 * second))
        jobs.unreadable("j")
        if second % (MAX_UNREADABLE - 1) == 0:
            arrived += is_new
            list(jobs.report("j", report(arrived), 2.0 * second))
    assert ("j" in jobs) == is_new


def test_one_report_that_cannot_be_read_counts_once():
    jobs = Jobs("c", lease=3.0)
    begin(jobs)
    beat = Beat(capacity=1, free=0, model="m", jobs=[Held(client="c", job="j", epoch=1, events=1)])
    jobs.unreadable("j")
    for second in range(2 * MAX_UNREADABLE):
        assert len(list(jobs.beat("w", beat, 2.0 * second))) == 1
        assert not list(jobs.beat("w", beat, 2.0 * second + 0.5))  # It has been asked for.
    assert "j" in jobs


def test_chunks_of_another_division_are_not_taken():
    jobs = Jobs("c", lease=3.0)
    begin(jobs)
    for index, count, body in ((0, 2, b"a"), (0, 3, b"x"), (2, 3, b"x")):
        assert not list(jobs.report("j", Chunk(worker="w", epoch=1, index=index, count=count, events=0, body=body), 0))
    last = Chunk(worker="w", epoch=1, index=1, count=2, events=0, body=b"b")
    assert Answered("j", b"ab") in list(jobs.report("j", last, 0.0))


def test_reports_of_others_that_cannot_be_read_end_no_job():
    """As of a worker of another version, which had the offer too and goes on to claim the job."""
    jobs = Jobs("c", lease=3.0)
    begin(jobs)
    for _ in range(2 * MAX_UNREADABLE):
        jobs.unreadable("j")
    held = Held(client="c", job="j", epoch=1, chunks=2)
    (ask,) = jobs.beat("w", Beat(capacity=1, free=0, model="m", jobs=[held]), 30.0)
    assert ask.message == Resend(epoch=1, first=0, chunks=(0, 1))
    chunks = [Chunk(worker="w", epoch=1, index=index, count=2, events=0, body=b"ab") for index in range(2)]
    assert Answered("j", b"abab") in [one for chunk in chunks for one in jobs.report("j", chunk, 30.5)]


@pytest.mark.parametrize(
    ("meanwhile", "said", "then"),
    [
        (lambda desk, key: [], [], ["claim"]),
        (lambda desk, key: desk.offer(key, Offer(epoch=2, job={}), 1.0), [], ["claim"]),
        (lambda desk, key: desk.offer(key, Offer(epoch=1, job={}), 1.0), [], ["claim"]),
        (lambda desk, key: desk.order(key, Cancel(epoch=2), 1.0), [], ["claim"]),
        (lambda desk, key: desk.order(key, decode(ORDER, b'{"type":"grant","epoch":2}'), 1.0), [], ["claim"]),
        (lambda desk, key: desk.order(key, Drop(epoch=1), 1.0), [], ["claim"]),
        (lambda desk, key: desk.tick(100.0), [], ["claim"]),
        (lambda desk, key: desk.order(key, Drop(epoch=2), 1.0), ["Withdraw", "End"], []),
        (lambda desk, key: desk.client_gone("c", 1.0), ["Withdraw", "End"], []),
        (lambda desk, key: desk.offer(key, Offer(epoch=3, job={}), 1.0), ["Withdraw", "End", "Check"], []),
        (lambda desk, key: desk.stop(), ["End", "returned"], []),
    ],
)
@pytest.mark.parametrize("refusal", [None, b"cannot"])
def test_what_happens_while_it_is_found_out_whether_a_long_job_can_run(meanwhile, said, then, refusal):
    desk, key = Desk("w", capacity=1, is_long=lambda job: True), ("c", "a")
    job = Offer(epoch=2, job={"prompt": "long"})
    assert list(desk.offer(key, job, 0.0)) == [Check(key, 2, job.job)]
    assert desk.free == 1 and [held.job for held in desk.beat().jobs] == ["a"]
    actions = list(meanwhile(desk, key))
    assert [one.report.type if isinstance(one, Reply) else type(one).__name__ for one in actions] == said
    found = [one.report.type for one in desk.checked(key, 2, refusal, 2.0)]
    assert found == (then and (["declined"] if refusal else then))
    assert not list(desk.checked(key, 2, refusal, 2.0))


def test_a_long_job_that_is_dropped_and_offered_again_is_begun_once():
    desk, key, offer = Desk("w", capacity=1, is_long=lambda job: True), ("c", "a"), Offer(epoch=1, job={})
    list(desk.offer(key, offer, 0.0))
    list(desk.order(key, Drop(epoch=1), 0.0))
    list(desk.offer(key, offer, 0.0))
    # Others go on, and are not held up by it.
    desk._is_long = lambda job: False
    assert [one.report.type for one in desk.offer(("c", "b"), offer, 0.0)] == ["claim"]
    assert [one.report.type for one in desk.checked(key, 1, None, 0.0)] == ["queued"]
    assert not list(desk.checked(key, 1, None, 0.0))


def run_at(desk, name="a"):
    """Let a job begin; its key."""
    list(desk.offer(("c", name), Offer(epoch=1, job={}), 0.0))
    begun = list(desk.order(("c", name), decode(ORDER, b'{"type":"grant","epoch":1}'), 0.0))
    assert begun == [Begin(("c", name), 1, {}, False)]
    return ("c", name)


def test_slots_that_become_free_are_taken_at_once():
    desk, claim = Desk("w", capacity=1), Claim(worker="w", epoch=1)
    for name in "abc":
        list(desk.offer(("c", name), Offer(epoch=1, job={}), 0.0))
    # Nobody has granted it yet, nor will.
    assert Reply(("c", "b"), claim) in list(desk.order(("c", "a"), Drop(epoch=1), 0.0))
    list(desk.order(("c", "b"), decode(ORDER, b'{"type":"grant","epoch":1}'), 0.0))
    assert Reply(("c", "c"), claim) in list(desk.answered(("c", "b"), 1, b"", 0.0))


def test_an_offer_that_comes_again_is_answered_again_until_the_job_begins():
    desk, again = Desk("w", capacity=1), Offer(epoch=1, job={})
    running = run_at(desk)
    list(desk.offer(("c", "b"), again, 0.0))
    assert list(desk.offer(("c", "b"), again, 0.1)) == [Reply(("c", "b"), Queued(worker="w", epoch=1))]
    assert not list(desk.offer(running, again, 0.1))
    assert [desk.has_begun(("c", name)) for name in "abz"] == [True, False, False]
    list(desk.answered(running, 1, b"", 0.2))
    assert desk.has_begun(running)


@pytest.mark.parametrize(("asked", "sent"), [((), [1]), ((0,), [0]), ((1, 0), [1, 0]), ((7,), [])])
def test_chunks_that_are_asked_for_are_sent_and_the_last_where_none_is_named(asked, sent):
    desk = Desk("w", capacity=1, chunk_bytes=4)
    key = run_at(desk)
    list(desk.answered(key, 1, b"abcdef", 0.0))
    said = list(desk.order(key, Resend(epoch=1, first=0, chunks=asked), 0.1))
    assert [(one.report.index, one.report.body) for one in said] == [(i, [b"abcd", b"ef"][i]) for i in sent]


def test_a_report_that_the_broker_does_not_take_ends_its_job_or_hands_it_back():
    desk = Desk("w", capacity=1)
    key = run_at(desk)
    list(desk.happened(key, 1, [{"n": 1}]))
    chunk, end = desk.refused(key, b"too large", 0.1)
    assert chunk.report == Chunk(worker="w", epoch=1, index=0, count=1, events=0, body=b"too large")
    assert isinstance(end, End) and (end.key, end.epoch) == (key, 1)
    assert list(desk.refused(key, b"too large", 0.2)) == [Reply(key, Returned(worker="w", epoch=1))]
    assert not list(desk.refused(key, b"too large", 0.3)) and not desk.beat().jobs


def test_a_worker_that_gives_up_hands_back_what_runs():
    desk = Desk("w", capacity=1)
    key = run_at(desk)
    end, reply = desk.abandon()
    assert isinstance(end, End) and reply == Reply(key, Returned(worker="w", epoch=1))


@pytest.mark.parametrize("packet_bytes", [5_000, 50_000])
def test_reports_fit_into_packets(packet_bytes):
    desk = Desk("w", capacity=1)
    desk.fit(packet_bytes)
    key = run_at(desk)
    said = [*desk.happened(key, 1, [{"n": "x" * 500}] * 300), *desk.answered(key, 1, bytes(200_000), 0.0)]
    sizes = [len(encode(one.report)) for one in said]
    assert packet_bytes - 2100 < max(sizes) <= packet_bytes


def test_a_worker_that_stops_hands_back_what_has_not_begun():
    desk = Desk("w", capacity=1)
    list(desk.offer(("c", "a"), Offer(epoch=1, job={}), 0.0))
    list(desk.offer(("c", "b"), Offer(epoch=1, job={}), 0.0))
    assert [(r.key[1], r.report.type) for r in desk.stop()] == [("a", "returned"), ("b", "returned")]
    assert [r.report.type for r in desk.offer(("c", "d"), Offer(epoch=1, job={}), 0.0)] == ["returned"]
    assert desk.beat().capacity == 0


@pytest.mark.parametrize("packet_bytes", [4096, 5000, 1 << 20])
def test_beats_fit_into_packets_and_leave_nothing_out(packet_bytes):
    name, clients = "w" * 64, ["c", "c" * 64, "d"]
    desk, jobs = Desk(name, capacity=300, model="\0" * MAX_MODEL), Jobs("c" * 64, lease=3.0)
    desk.fit(packet_bytes)
    list(jobs.beat(name, Beat(capacity=300, free=300, model="m"), 0.0))
    for n in range(100):
        for client in clients:
            list(desk.offer((client, f"{n:064}"), Offer(epoch=1, job={}), 0.0))
        list(jobs.submit(f"{n:064}", {}, 0, 0.0))
        list(jobs.report(f"{n:064}", Claim(worker=name, epoch=1), 0.0))
    messages = [encode(beat) for beat in desk.beats()]
    assert max(map(len, messages)) + len(name) + 256 < packet_bytes and (len(messages) == 1) == (packet_bytes > 5000)
    listed = [(held.client, held.job) for message in messages for held in decode(BEAT, message).jobs]
    assert sorted(listed) == sorted(desk._jobs)
    # Of those that its client knows it lists all, in any order; and one that it has forgotten is seen to be missing.
    for message in reversed(messages):
        assert not list(jobs.beat(name, decode(BEAT, message), 5.0))
    list(desk.order((clients[1], f"{42:064}"), Drop(epoch=1), 6.0))
    actions = [action for beat in desk.beats() for action in jobs.beat(name, beat, 7.0)]
    assert [(action.job, action.message.epoch) for action in actions] == [(f"{42:064}", 2)]


@pytest.mark.parametrize(
    ("place", "more"),
    [({}, []), ({"begin": "c/j"}, ["begin", "end"]), ({"end": "c/j"}, ["begin", "end"])],
)
def test_a_beat_that_is_not_divided_says_nothing_of_parts(place, more):
    """Clients of older versions, which know of none, read it."""
    beat = Beat(capacity=1, free=1, model="m", jobs=[Held(client="c", job="j", epoch=1)], **place)
    payload = encode(beat)
    assert list(json.loads(payload)) == ["type", "capacity", "free", "model", "jobs", *more]
    assert decode(BEAT, payload) == beat


def test_a_worker_holds_as_many_jobs_as_may_run_and_some_more():
    desk = Desk("w", capacity=2000, max_queue=10)
    said = [[r.report.type for r in desk.offer(("c", f"j{n}"), Offer(epoch=1, job={}), 0.0)] for n in range(2011)]
    assert said == [["claim"]] * 2000 + [["queued"]] * 10 + [["returned"]]


def test_events_go_together_as_far_as_a_message_holds_them():
    desk = Desk("w", capacity=1, event_bytes=1000)
    key = ("c", "a")
    list(desk.offer(key, Offer(epoch=1, job={}), 0.0))
    list(desk.order(key, decode(ORDER, b'{"type":"grant","epoch":1}'), 0.0))
    events = [{"type": "text", "text": "x" * n} for n in (10, 20, 600, 600, 5000, 30)]
    sent = [reply.report for reply in desk.happened(key, 1, events)]
    assert [(report.first, len(report.events)) for report in sent] == [(0, 3), (3, 3)]
    assert all(len(encode(report)) < 1100 for report in sent)
    assert sent[0].events == events[:3] and sent[1].events[::2] == events[3::2]
    # The one that is too large for any message is cut; all of them come again if asked for.
    assert sent[1].events[1]["text"] == events[4]["text"][: 1000 // 24]
    assert [reply.report for reply in desk.order(key, Resend(epoch=1, first=0), 1.0)] == sent


def test_a_watch_that_is_lost_is_sent_again():
    jobs, desk, key = Jobs("c", lease=3.0), Desk("w", capacity=1), ("c", "j")
    list(desk.offer(key, Offer(epoch=1, job={}), 0.0))
    begin(jobs)
    (grant,) = jobs.report("j", Claim(worker="w", epoch=1), 0.1)
    assert list(desk.order(key, grant.message, 0.1)) == [Begin(key, 1, {}, False)]
    (lost,) = jobs.watch("j")
    (again,) = jobs.beat("w", desk.beat(), 1.0)
    assert lost == again and not list(jobs.watch("j"))
    assert list(desk.order(key, again.message, 1.0)) == [Show(key, 1)]
    assert not list(desk.order(key, again.message, 1.0)) and not list(jobs.beat("w", desk.beat(), 2.0))


def test_jobs_of_a_client_that_is_gone_are_ended():
    desk = Desk("w", capacity=1)
    key = ("c", "a")
    list(desk.offer(key, Offer(epoch=1, job={}), 0.0))
    list(desk.order(key, decode(ORDER, b'{"type":"grant","epoch":1}'), 0.0))
    assert list(desk.client_gone("c", 1.0)) == [Withdraw(key), End(key, 1, "the client is gone")]
    assert desk.free == 0 and not list(desk.answered(key, 1, b"", 2.0)) and desk.free == 1


@given(st.binary(max_size=300) | st.text(max_size=100).map(str.encode))
def test_any_bytes_are_refused_or_read(payload):
    for kind in (OFFER, ORDER, REPORT, BEAT):
        try:
            decode(kind, payload)
        except Malformed:
            pass


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"null",
        b"[" * 100_000,
        b'{"type":"claim","epoch":0,"worker":"w"}',
        b'{"type":"claim","epoch":1,"worker":"a/b"}',
        b'{"type":"claim","epoch":1,"worker":"w\\n"}',
        b'{"type":"claim","epoch":1e400,"worker":"w"}',
        b'{"type":"chunk","epoch":1,"worker":"w","index":0,"count":99999999999,"events":0}',
        b'{"type":"claim","epoch":1,"worker":"w","more":1}',
        b'{"type":"claim","epoch":1,"worker":"w"}\nmore',
    ],
)
def test_hostile_reports_are_refused(payload):
    with pytest.raises(Malformed):
        decode(REPORT, payload)


@pytest.mark.parametrize(
    ("payload", "told"),
    [
        (b'{"type":"offer","epoch":"1","job":{"prompt":"secret"}}', "offer.epoch: Input should be a valid integer"),
        (
            b'{"type":"offer","epoch":1,"job":{"secret":1},"a\\n\\u001b[1m":1}',
            r"offer.a \x1b[1m: Extra inputs are not permitted",
        ),
        (
            b'{"type":"offer","epoch":1,"job":{"a":1e999},"secret":2}',
            "offer.job: a: inf is not a finite number",
        ),
        (
            b'{"type":"a\\nb","job":"secret"}',
            "Input tag 'a b' found using 'type' does not match any of the expected tags",
        ),
        (b"secret", "Invalid JSON: expected value at line 1 column 1"),
    ],
)
def test_what_is_malformed_is_told_in_a_line_without_its_values(payload, told):
    with pytest.raises(Malformed) as raised:
        decode(ORDER, payload)
    said = str(raised.value)
    assert said.startswith(f"malformed message: {told}")
    assert said.isprintable() and "secret" not in said and "http" not in said and len(said) < 250


@given(st.binary(max_size=2000), st.integers(0, 5))
def test_chunks_come_back(body, index):
    chunk = Chunk(worker="w", epoch=1, index=index, count=6, events=2, body=body)
    assert decode(REPORT, encode(chunk)) == chunk


@pytest.mark.parametrize("text", ["", "a/b", "+", "#", "a\n", "é", "x" * 65])
def test_what_would_be_more_than_a_level_of_a_topic_is_no_id(text):
    assert not is_id(text)


def test_an_event_too_large_is_cut():
    said, size = sendable({"type": "text", "text": "é" * 100_000}, 4096)
    assert 16 < len(said["text"]) < 200 and size < 4096


def nested(depth):
    value = {}
    for _ in range(depth):
        value = {"a": value}
    return value


odd_values = st.recursive(
    st.none()
    | st.integers()
    | st.floats()
    | st.binary(max_size=3)
    | st.text(st.characters(exclude_categories=[]), max_size=9)
    | st.integers(0, 3000).map(nested)
    | st.integers(0, 9000).map("x".__mul__),
    lambda inner: st.lists(inner, max_size=2).map(tuple) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=4,
)


@settings(deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(["type", "text", "output", "arguments"]), odd_values), min_size=1))
def test_whatever_a_job_emits_can_be_sent_and_read(events):
    """Else the client would ask for it again and again."""
    desk, jobs, key = Desk("w", capacity=1, event_bytes=3000), Jobs("c", lease=3.0), ("c", "a")
    list(jobs.submit("a", {}, 0, 0.0))
    list(jobs.report("a", Claim(worker="w", epoch=1), 0.0))
    list(desk.offer(key, Offer(epoch=1, job={}), 0.0))
    list(desk.order(key, decode(ORDER, b'{"type":"grant","epoch":1,"watched":true}'), 0.0))
    actions = [*desk.happened(key, 1, events), *desk.answered(key, 1, b"answer", 1.0)]
    reports = [encode(action.report) for action in actions]
    assert max(map(len, reports)) < 3200
    heard = [action for report in reports for action in jobs.report("a", decode(REPORT, report), 1.0)]
    assert [type(action) for action in heard] == [Happened] * len(events) + [Answered, Send]


@pytest.mark.parametrize("value", ["NaN", "1e999", "[-Infinity]"])
def test_numbers_that_are_not_finite_are_no_job(value):
    with pytest.raises(Malformed):
        decode(OFFER, f'{{"type": "offer", "epoch": 1, "job": {{"x": {value}}}}}'.encode())
