"""Tasks in; what became of each, done by the engines of a Ray cluster, one an actor, out.

The cluster's machines must see the archive and the results under the same paths, and have this package installed.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kernels.findings import ConfigError

from .crew import Ended
from .manifest import Task
from .score import Done, Work, Worker

_PATIENCE_S = 5.0
_MOST_STILLBORN = 10


class RayCrew:
    """An actor a worker. It gets a task once it stands: on a cluster with others there may be no room for all."""

    def __init__(self, ray: Any, work: Work, most: int) -> None:
        self._ray = ray
        self._actor = ray.remote(num_cpus=1)(Worker)
        self._work = ray.put(work)
        self._most = most
        self._coming: dict[Any, Any] = {}
        self._idle: list[Any] = []
        self._under_way: dict[Any, tuple[Task, Any]] = {}
        self._stillborn = 0

    @property
    def busy(self) -> int:
        return len(self._under_way)

    def begin(self, task: Task) -> bool:
        if not self._idle:
            self._call(self._most - self.busy - len(self._coming))
            return False
        actor = self._idle.pop()
        self._under_way[actor.run.remote(task)] = task, actor
        return True

    def wait(self) -> Ended | None:
        (ended, *_), _ = self._ray.wait([*self._under_way, *self._coming], num_returns=1)
        if ended in self._coming:
            self._welcome(ended)
            return None
        task, actor = self._under_way.pop(ended)
        done: Done | None = self._answer(ended)
        if done is not None:
            self._idle.append(actor)
        return task, done

    def _call(self, count: int) -> None:
        for _ in range(count):
            actor = self._actor.remote(self._work)
            self._coming[actor.ready.remote()] = actor

    def _welcome(self, told: Any) -> None:
        actor = self._coming.pop(told)
        if self._answer(told):
            self._idle.append(actor)
            return
        self._stillborn += 1
        if self._stillborn == _MOST_STILLBORN:
            raise ConfigError("the actors of the cluster die at their start; look into Ray's logs, and install cardiogloss on its machines")

    def _answer(self, told: Any) -> Any:
        """None of an actor that died."""
        try:
            return self._ray.get(told)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except self._ray.exceptions.RayActorError:
            return None


@contextmanager
def ray_crew(work: Work, jobs: int, address: str | None) -> Iterator[RayCrew]:
    """As many actors as `jobs` (0: as there are CPUs), on the cluster at `address` or on this machine. Raises ConfigError without one."""
    ray = _library()
    with _connected(ray, jobs, address):
        yield RayCrew(ray, work, jobs or int(ray.cluster_resources().get("CPU", 1)))


@contextmanager
def _connected(ray: Any, jobs: int, address: str | None) -> Iterator[None]:
    try:
        if address:
            _reach(address)
            ray.init(address=address, logging_level="ERROR", log_to_driver=False)
        else:
            ray.init(address="local", num_cpus=jobs or None, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"no Ray cluster at {address} ({error}); start one with `ray start --head`, or leave --address out") from error
    try:
        yield
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=_PATIENCE_S).close()


def _library() -> Any:
    try:
        import ray
    except ImportError:
        raise ConfigError(
            "--engine ray needs the package ray: pip install 'cardiogloss[cluster]'; without it --jobs uses all cores"
        ) from None
    return ray
